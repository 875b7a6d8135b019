"""Draw the latents of each row: the content of its prompt, the two models, and the quality of each
answer."""

import numpy as np
import pandas as pd
from numpy.random import Generator
from scipy.special import expit

from humanpref.arena.vocabulary import KINDS, MODELS, TEXT, TOPICS, WORDS

_MAX_WORDS = 6_000  # maximum words in an answer, or pasted into a prompt
_MARKED_SHARE = 0.24  # share of an answer's words that show its quality
_TOPICAL_SHARE = 0.20  # share of an answer's words that belong to a topic


def draw_models(rows: int, rng: Generator) -> np.ndarray:
    """Draw two different models per row, popular models more often. Return their indices in
    `MODELS`, (rows, 2)."""
    arrival = rng.exponential(size=(rows, len(MODELS))) / MODELS["popularity"].to_numpy()
    first_two = np.argsort(arrival, axis=1)[:, :2]
    # Unless permuted, A would tend to be the more popular model.
    return rng.permuted(first_two, axis=1)


def draw_owners(rows: int, rng: Generator) -> np.ndarray:
    """Draw the index of each row's conversation, (rows,).

    Most rows have a conversation to themselves, and some share one with a few other rows. A larger
    group of rows, the crowd, shares the conversation with index 0.
    """
    crowd = min(rows, max(2, round(0.002 * rows)))
    repeated = round(0.165 * rows)
    # A shared prompt has 1 / 0.53 + 1 = 2.9 rows on average, as in the real file.
    sizes = 1 + rng.geometric(0.53, size=repeated // 2 + 1)
    shared = np.repeat(np.arange(1, 1 + sizes.size), sizes)[:repeated]
    owners = np.concatenate([np.zeros(crowd, dtype=np.int64), shared])[:rows]
    single = owners.max() + 1 + np.arange(rows - owners.size)
    return rng.permutation(np.concatenate([owners, single]))


def draw_conversations(count: int, rng: Generator) -> pd.DataFrame:
    """Draw `count` conversations, one per row of the returned frame. The first one is the greeting
    that the crowd shares.

    Columns
    -------
    kind : str, from the index of `KINDS`
    words : float, typical number of words per answered turn
    turns : number of turns, 1 to 30
    question : "sum", "order", "comparison", or "" if nothing checkable is asked
    thing, other : the two numbers of a sum, or the indices of the two things compared; always
        different
    comparison : index in the list of comparisons
    twist : 0 or 1; with 1, a comparison asks for the opposite word, and a sum's wrong answer is
        higher (cyclically) than the right one rather than lower
    language, topic : indices in the lists of languages and topics
    subjects : number of topic words in the first turn
    pasted : number of words pasted at the end of the first turn
    """
    kind = rng.choice(KINDS.index, size=count, p=KINDS["share"])
    kind[0] = "chat"
    _, _, words, asks = KINDS.loc[kind].to_numpy().T
    words = words * rng.lognormal(0.0, 0.5, count)
    # 87 % of the conversations have one turn; the number of turns of the others has a heavy tail.
    one_turn = rng.random(count) < 0.87
    turns = np.where(one_turn, 1, 2 + (rng.pareto(1.7, count) * 1.1).astype(np.int64))
    asked = rng.random(count) < asks
    question = np.array(["sum", "order", "comparison"])[rng.integers(0, 3, count)]
    thing = rng.integers(0, len(WORDS["things"]), count)
    conversations = pd.DataFrame(
        {
            "kind": kind,
            "words": words,
            "turns": np.minimum(turns, 30),
            "question": np.where(asked, question, ""),
            "thing": thing,
            "language": rng.choice(
                len(TEXT["language_shares"]), size=count, p=TEXT["language_shares"]
            ),
            "topic": rng.integers(0, len(TOPICS), count),
            "subjects": rng.integers(2, 5, count),
            "pasted": np.minimum(rng.lognormal(0.6, 2.5, count).astype(np.int64), _MAX_WORDS),
            "other": (thing + rng.integers(1, len(WORDS["things"]), count)) % len(WORDS["things"]),
            "comparison": rng.integers(0, len(TEXT["comparisons"]), count),
            "twist": rng.integers(0, 2, count),
        }
    )
    conversations.loc[0, ["turns", "topic"]] = 1, TEXT["greeting_topic"]
    return conversations


def draw_answers(conversations: pd.DataFrame, models: np.ndarray, rng: Generator) -> pd.DataFrame:
    """Draw one answer per row: in row i, model `models[i]` answers conversation i. `models` is
    (rows,).

    Columns
    -------
    words : number of words in all turns together
    precise, vague, misspelled : how many of these words show each level of quality
    on_topic, off_topic : how many of these words belong to the prompt's topic and to topic `stray`,
        respectively
    stray : index in `TOPICS`, different from the prompt's topic
    verdict : 1 if the prompt's question is answered correctly, -1 if not, 0 if there is no question
        or no answer
    silence : 0 if the last turn has words, 1 if it is null, 2 if it is an empty string
    layout : index in the list of layouts
    """
    rows = models.size
    strength, verbosity, _ = MODELS.to_numpy()[models].T
    # `strength` includes the advantage of long answers; subtract it to get the quality alone.
    skill = 1.8 * (strength - 0.5 * verbosity)

    silence = rng.choice(3, size=rows, p=(0.9965, 0.002, 0.0015))
    spoken = conversations["turns"].to_numpy() - (silence > 0)
    # The number of words grows less than linearly with the number of turns.
    usual = conversations["words"].to_numpy() * spoken**0.7
    words = usual * np.exp(verbosity + 0.4 * rng.standard_normal(rows))
    words = np.clip(words.astype(np.int64), spoken, _MAX_WORDS)

    marked = rng.binomial(words, _MARKED_SHARE)
    precise = rng.binomial(marked, expit(skill + 0.5 * rng.standard_normal(rows)))
    misspelled = rng.binomial(marked - precise, 0.25)

    topical = rng.binomial(words - marked, _TOPICAL_SHARE / (1 - _MARKED_SHARE))
    strays = rng.random(rows) < 0.35
    fidelity = np.where(strays, rng.uniform(0.0, 0.5, rows), rng.uniform(0.85, 1.0, rows))
    on_topic = rng.binomial(topical, fidelity)

    right = np.where(rng.random(rows) < expit(0.4 + 0.4 * skill), 1, -1)
    stray = conversations["topic"].to_numpy() + rng.integers(1, len(TOPICS), rows)
    return pd.DataFrame(
        {
            "words": words,
            "precise": precise,
            "vague": marked - precise - misspelled,
            "misspelled": misspelled,
            "on_topic": on_topic,
            "off_topic": topical - on_topic,
            "stray": stray % len(TOPICS),
            "verdict": right * ((conversations["question"] != "") & (words > 0)),
            "silence": silence,
            "layout": rng.choice(len(TEXT["layout_shares"]), size=rows, p=TEXT["layout_shares"]),
        }
    )
