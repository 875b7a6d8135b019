"""A synthetic arena: rows in the competition's schema whose true class probabilities are known.

Every row is drawn in four steps, each a section of this module: the *latents* of a conversation and of its two answers
(what is asked, how much is said, how well), the *rule* that turns them into probabilities, the *text* that shows every
latent that the rule reads, and the *files*. The rule is Davidson's tie-aware Bradley-Terry model,

    P(A), P(B), P(tie)  proportional to  exp(d / 2), exp(-d / 2), exp(nu),

with a margin d that is antisymmetric in the two answers and a tie score nu that only the prompt's kind moves (and whether
the answers are identical). All that d and nu depend on can be read off the prompt and the two answers, model names apart,
so that the best reachable log loss is the mean entropy of the probabilities, `bayes_log_loss`.

What a predictor loses that is blind to one of them (nats over the best; logistic regression on the latents of 40,000
rows, half of them to fit):

==========  ======  ==================================================================================================
channel     worth   where a reader finds it
==========  ======  ==================================================================================================
quality     0.059   precise words against vague ones and spelling slips: a bag of words sees it; stronger models have more
kind        0.028   the prompt's wording and length: creative prompts and small talk tie more, facts and code less
length      0.015   log of the ratio of the word counts, saturating
relevance   0.009   the share of the answer's topical words that are of the prompt's topic: prompt and answer together
verdict     0.009   whether the answer to a checkable question (a sum, an order, a comparison) is right: word order
==========  ======  ==================================================================================================

Log loss with 20,000 training rows, seed 0, on its 4,000 test rows (in brackets: with 1,000 training rows of seed 1):

=====================================================================================  ===============
prior                                                                                  1.098  (1.100)
logistic regression on the log lengths of prompt, A and B and their differences        1.061  (1.075)
the same, the answers' TF-IDF difference, its absolute value, the prompt's TF-IDF      1.005  (1.037)
best reachable                                                                         0.964
=====================================================================================  ===============

Over 20 seeds, `bayes_log_loss` of 1,000 rows is 0.966 with a standard deviation of 0.004. A Bradley-Terry fit to the true
probabilities of 40,000 rows finds `model_strengths` on their own scale (slope 1.0, correlation above 0.99).
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from numbers import Integral
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from humanpref.files import write_whole
from humanpref.schema import ID, LABEL_COLUMNS, MODEL_COLUMNS, TEXT_COLUMNS, InputError

# ------------------------------------------------------------------------------------------------------------ lexicon


def _words(text: str) -> list[str]:
    return text.split()


class _Model(NamedTuple):
    """An invented chat model: its strength (log-odds), how much it says (log of a factor on words), how often it plays."""

    name: str
    strength: float
    verbosity: float
    popularity: float


_MODELS = (
    _Model("harrowgate-xl", 0.95, 0.25, 3.0),
    _Model("quillow-70b-chat", 0.8, 0.10, 2.0),
    _Model("tamarel-2.1", 0.65, -0.15, 3.0),
    _Model("fennimore-pro", 0.5, 0.30, 1.0),
    _Model("harrowgate-base", 0.35, -0.05, 2.0),
    _Model("brindlewick-34b", 0.22, 0.20, 1.0),
    _Model("tamarel-1", 0.1, -0.30, 2.0),
    _Model("sorrelworth-13b", 0.0, 0.15, 1.0),
    _Model("oakmere-instruct", -0.1, -0.10, 1.0),
    _Model("quillow-13b-chat", -0.22, 0.25, 1.0),
    _Model("dunlinfield-12b", -0.38, -0.25, 0.8),
    _Model("mirkwater-6b", -0.5, 0.10, 0.8),
    _Model("fennimore-mini", -0.65, -0.35, 0.7),
    _Model("sorrelworth-7b", -0.8, 0.05, 0.7),
    _Model("tansyfield-alpha-7b", -0.95, -0.20, 0.6),
)


class _Kind(NamedTuple):
    """A kind of prompt: its share of the prompts, tie score, median words per answered turn, and its own wording."""

    share: float
    nu: float
    words: float
    question: float  # the share of its prompts that ask something with a checkable answer
    openers: tuple[tuple[str, ...], ...]  # one tuple per language, in the order of _LANGUAGES


_LANGUAGES = {"en": 0.92, "zh": 0.05, "ru": 0.03}

_FACTUAL, _CODE, _ADVICE, _CREATIVE, _CHAT = range(5)
_KINDS = (
    _Kind(0.34, -0.45, 100, 0.95, (
        ("Explain the facts about", "What is known about", "Give a correct account of"),
        ("请准确说明事实", "请解释原理"), ("Объясни факты про", "Что известно про"))),
    _Kind(0.15, -0.35, 190, 0.75, (
        ("Write a python function for", "Debug my program about", "Implement an algorithm for"),
        ("请写一个程序处理", "请调试代码"), ("Напиши программу про", "Исправь код про"))),
    _Kind(0.21, 0.0, 220, 0.50, (
        ("Give me advice on", "Help me plan my", "Suggest steps for"),
        ("请给我建议关于", "请帮我计划"), ("Посоветуй план про", "Помоги мне выбрать про"))),
    _Kind(0.18, 0.55, 200, 0.10, (
        ("Write a poem about", "Tell me a story with", "Imagine a song of"),
        ("请写一首诗关于", "请讲一个故事"), ("Сочини стихи про", "Расскажи сказку про"))),
    _Kind(0.12, 0.8, 40, 0.0, (
        ("Hey, let us chat about", "I feel like talking about", "Good morning, do you like"),
        ("你好，聊聊", "今天心情好，谈谈"), ("Привет, поболтаем про", "Доброе утро, любишь ли"))),
)  # fmt: skip

_GREETING = "Hello, how is your garden today?"
_GREETING_TOPIC = 2  # place in _TOPICS of the garden
_FOLLOW_UPS = ("And what about", "Please go on with", "Thanks, now say more on", "How does it change")
_CODE_BLOCKS = (
    "```python\nfor item in basket:\n    total += item\nprint(total)\n```",
    "```python\ndef solve(values):\n    return sorted(values)\n```",
    '```json\n{"name": "value", "count": 3}\n```',
)

_PRECISE = _words("""exactly verified namely measured therefore specifically evidence precisely derived confirmed accurate
quantified documented rigorous consequently demonstrated concrete explicit established detailed""")
_VAGUE = _words("""maybe stuff somehow basically things kinda whatever somewhat sorta probably anyway supposedly hopefully
guess honestly vaguely""")
_SLIPS = _words("teh recieve definately wich becuase thier seperate beleive untill alot")
_PLAIN = _words("""the a of to and in is that for it as with on are by this be from or an at can which not but have they also when
will more their each other into some its these most over where while use made both many such through only new way part may
would so there all been often used well up out how between good work take place help find keep set main long small""")

_TOPICS = tuple(
    map(
        _words,
        (
            "oven recipe flour butter garlic soup pepper roast onion sauce knead simmer dough pan spice bake",
            "planet orbit comet galaxy telescope lunar eclipse star nebula meteor crater solar cosmic asteroid satellite dwarf",
            "garden soil seed compost prune bloom lawn shrub weed rose tulip hedge fern mulch bulb root",
            "guitar melody chord tempo violin piano choir drum opera rhythm flute concert tune harp scale cello",
            "sail harbour anchor mast tide rudder deck hull captain voyage keel rope wharf lighthouse crew buoy",
            "doctor fever vaccine surgery clinic nurse symptom artery tablet lung dose patient allergy therapy nerve virus",
            "bank loan budget interest market stock pension invoice tax profit asset credit dividend ledger fund wage",
            "rock granite lava fossil crystal quartz basalt volcano mineral magma slate cave sediment fault erosion glacier",
            "football goal referee striker league penalty coach stadium tackle keeper pitch corner trophy fans midfield pass",
            "king empire castle treaty knight siege revolt throne dynasty monk crown legion parliament feudal archive war",
            "atom acid molecule enzyme catalyst solvent oxide polymer salt electron carbon reaction isotope ion alkali reagent",
            "rain storm cloud thunder frost humid breeze drought snow forecast hail fog monsoon climate sunshine wind",
            "horse wolf owl salmon beaver otter falcon rabbit badger nest herd hoof feather whale fox burrow",
            "train station ticket platform rail locomotive carriage signal tunnel conductor freight track depot express bridge "
            "gauge",
        ),
    )
)

_THINGS = _words("lamp kettle mirror ladder pencil basket hammer pillow bottle candle")
_COMPARISONS = (("heavier", "lighter"), ("older", "newer"), ("larger", "smaller"), ("cheaper", "dearer"))
_NUMBERS = _words("""zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen""")


class _Group(IntEnum):
    """Places in `_GROUPS`; topic t is group TOPICS + t."""

    PLAIN, PRECISE, VAGUE, SLIPS, TOPICS = range(5)


_GROUPS = (_PLAIN, _PRECISE, _VAGUE, _SLIPS, *_TOPICS)
_WORDS = [word for group in _GROUPS for word in group]
_GROUP_SIZE = np.array([len(group) for group in _GROUPS])
_GROUP_START = np.cumsum(_GROUP_SIZE) - _GROUP_SIZE

# How a sentence opens and closes in each layout of an answer: prose, paragraphs, a list, a numbered list, headings.
_LAYOUTS = (("{} ", "{}. "), ("{} ", "{}.\n\n"), ("- {} ", "{}.\n"), ("1. **{}** ", "{}.\n"), ("### {} ", "{}.\n\n"))
_LAYOUT_SHARES = (0.35, 0.25, 0.15, 0.15, 0.10)
_OPENING, _INSIDE, _CLOSING = range(3)
_FORMS = np.array(
    [
        [
            [opening.format(word.capitalize()) for word in _WORDS],
            [f"{word} " for word in _WORDS],
            [closing.format(word) for word in _WORDS],
        ]
        for opening, closing in _LAYOUTS
    ],
    dtype=object,
)  # (layouts, 3 places in a sentence, words): text is made by looking words up, not by formatting them one by one

# ------------------------------------------------------------------------------------------------------------ latents


class _Question(IntEnum):
    """What a prompt asks that has a checkable answer."""

    NONE, SUM, ORDER, COMPARISON = range(4)


class _Silence(IntEnum):
    """What stands in an answer's last turn: words, null, or an empty string."""

    SPOKEN, NULL, EMPTY = range(3)


_MAX_TURNS = 30
_MAX_WORDS = 6_000  # in an answer, or pasted into a prompt
_REPEATED_SHARE = 0.165  # of the rows, beside the crowd that sends the greeting
_CROWD_SHARE = 0.002
_IDENTICAL_SHARE = 0.008
_SILENT_SHARES = (0.9965, 0.002, 0.0015)  # spoken, null, empty
_MARKED_SHARE = 0.24  # of an answer's words, those that show how well it is written
_TOPICAL_SHARE = 0.20  # of an answer's words, those of a topic
_STRAY_SHARE = 0.35  # of the answers, those that wander off to another topic


class _Conversations(NamedTuple):
    """What is asked: integer arrays of shape (n,), one entry per conversation."""

    kind: np.ndarray
    language: np.ndarray
    topic: np.ndarray
    turns: np.ndarray
    subjects: np.ndarray  # topic words named by the first turn
    pasted: np.ndarray  # words pasted below the first turn
    question: np.ndarray  # a _Question
    first: np.ndarray  # the two things or numbers asked about: different places in _THINGS or _NUMBERS
    second: np.ndarray
    comparison: np.ndarray  # place in _COMPARISONS
    twist: np.ndarray  # 0 or 1: what is said of the first thing is asked, or its opposite
    words: np.ndarray  # float: the number of words that suits an answered turn


class _Answers(NamedTuple):
    """What one side says: integer arrays of shape (n,), one entry per row. All but `layout` and `stray` enter the rule."""

    words: np.ndarray  # in all turns together
    precise: np.ndarray  # how many of them are precise words, vague words, spelling slips …
    vague: np.ndarray
    slips: np.ndarray
    on_topic: np.ndarray  # … words of the prompt's topic, words of the topic `stray`
    off_topic: np.ndarray
    stray: np.ndarray
    verdict: np.ndarray  # on the prompt's question: +1 right, -1 wrong, 0 where none is asked or nothing said
    silence: np.ndarray  # a _Silence: what stands in the last turn
    layout: np.ndarray  # place in _LAYOUTS

    @property
    def quality(self) -> np.ndarray:
        """Precise words against vague words and slips, in (-1, 1)."""
        poor = self.vague + self.slips
        return (self.precise - poor) / (self.precise + poor + 4)

    @property
    def relevance(self) -> np.ndarray:
        """The share of the topical words that belong to the prompt's topic, in [0, 1)."""
        return self.on_topic / (self.on_topic + self.off_topic + 2)


def _draw_models(rows: int, rng: np.random.Generator) -> np.ndarray:
    """Two different models per row, popular ones more often: places in `_MODELS`, shape (rows, 2)."""
    popularity = np.array([model.popularity for model in _MODELS])
    arrival = rng.exponential(size=(rows, len(_MODELS))) / popularity
    first_two = np.argsort(arrival, axis=1)[:, :2]
    return rng.permuted(first_two, axis=1)  # popular models arrive first: without this they would be A more often


def _draw_owners(rows: int, rng: np.random.Generator) -> np.ndarray:
    """The conversation of each row, shape (rows,): mostly its own, some shared by a few rows, number 0 by a crowd."""
    crowd = min(rows, max(2, round(_CROWD_SHARE * rows)))
    repeated = round(_REPEATED_SHARE * rows)
    # Shared prompts have 1 / 0.53 + 1 = 2.9 rows on average, as in the real file.
    sizes = 1 + rng.geometric(0.53, size=repeated // 2 + 1)
    shared = np.repeat(np.arange(1, 1 + sizes.size), sizes)[:repeated]
    owners = np.concatenate([np.zeros(crowd, dtype=np.int64), shared])[:rows]
    single = owners.max() + 1 + np.arange(rows - owners.size)
    return rng.permutation(np.concatenate([owners, single]))


def _draw_conversations(count: int, rng: np.random.Generator) -> _Conversations:
    """Draw `count` conversations; number 0 is the greeting that a crowd sends."""
    kind = rng.choice(len(_KINDS), size=count, p=[kind.share for kind in _KINDS])
    kind[0] = _CHAT
    words = np.array([kind.words for kind in _KINDS])[kind] * rng.lognormal(0.0, 0.5, count)
    # One turn in 87 % of the conversations; the others have a heavy tail.
    turns = np.where(rng.random(count) < 0.87, 1, 2 + (rng.pareto(1.7, count) * 1.1).astype(np.int64))
    asked = rng.random(count) < np.array([kind.question for kind in _KINDS])[kind]
    question = np.where(asked, rng.integers(_Question.SUM, _Question.COMPARISON + 1, count), _Question.NONE)
    first = rng.integers(0, len(_THINGS), count)
    conversations = _Conversations(
        kind=kind,
        language=rng.choice(len(_LANGUAGES), size=count, p=list(_LANGUAGES.values())),
        topic=rng.integers(0, len(_TOPICS), count),
        turns=np.minimum(turns, _MAX_TURNS),
        subjects=rng.integers(2, 5, count),
        pasted=np.minimum(rng.lognormal(0.6, 2.5, count).astype(np.int64), _MAX_WORDS),
        question=question,
        first=first,
        second=(first + rng.integers(1, len(_THINGS), count)) % len(_THINGS),
        comparison=rng.integers(0, len(_COMPARISONS), count),
        twist=rng.integers(0, 2, count),
        words=words,
    )
    conversations.turns[0] = 1
    conversations.topic[0] = _GREETING_TOPIC
    return conversations


def _draw_answers(conversations: _Conversations, models: np.ndarray, rng: np.random.Generator) -> _Answers:
    """Draw the answers of `models`, shape (rows,), to the conversations of the same rows."""
    rows = models.size
    strength = np.array([model.strength for model in _MODELS])[models]
    verbosity = np.array([model.verbosity for model in _MODELS])[models]

    # What a model wins by its length it must lose by its words, for its strength to be the sum of both.
    skill = 1.8 * (strength - 0.5 * verbosity)

    silence = rng.choice(3, size=rows, p=_SILENT_SHARES)
    answered_turns = conversations.turns - (silence != _Silence.SPOKEN)
    # Later turns are answered more briefly.
    words = conversations.words * answered_turns**0.7 * np.exp(verbosity + 0.4 * rng.standard_normal(rows))
    words = np.clip(words.astype(np.int64), answered_turns, _MAX_WORDS)

    marked = rng.binomial(words, _MARKED_SHARE)
    precise = rng.binomial(marked, _sigmoid(skill + 0.5 * rng.standard_normal(rows)))
    slips = rng.binomial(marked - precise, 0.25)

    topical = rng.binomial(words - marked, _TOPICAL_SHARE / (1 - _MARKED_SHARE))
    strays = rng.random(rows) < _STRAY_SHARE
    on_topic = rng.binomial(topical, np.where(strays, rng.uniform(0.0, 0.5, rows), rng.uniform(0.85, 1.0, rows)))

    right = np.where(rng.random(rows) < _sigmoid(0.4 + 0.4 * skill), 1, -1)
    return _Answers(
        words=words,
        precise=precise,
        vague=marked - precise - slips,
        slips=slips,
        on_topic=on_topic,
        off_topic=topical - on_topic,
        stray=(conversations.topic + rng.integers(1, len(_TOPICS), rows)) % len(_TOPICS),
        verdict=np.where((conversations.question == _Question.NONE) | (words == 0), 0, right),
        silence=silence,
        layout=rng.choice(len(_LAYOUTS), size=rows, p=_LAYOUT_SHARES),
    )


def _records(latents: NamedTuple) -> Iterator[NamedTuple]:
    """One record of Python numbers per row, from a record of arrays."""
    return map(latents._make, zip(*(column.tolist() for column in latents), strict=True))


def _sigmoid(logit: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logit))


# --------------------------------------------------------------------------------------------------------------- rule

_LENGTH_WEIGHT = 0.9
_QUALITY_WEIGHT = 1.6
_RELEVANCE_WEIGHT = 0.8
_VERDICT_WEIGHT = 0.35
_SILENCE_WEIGHT = 3.0
_IDENTICAL_NU = 2.7  # a tie with 0.88


def _margin(a: _Answers, b: _Answers) -> np.ndarray:
    """How much better A is than B, in log-odds, shape (n,). Antisymmetric to the last bit: only differences enter."""
    # Saturating: ten times the length is worth little more than four times.
    longer = np.tanh(np.log(a.words + 10) - np.log(b.words + 10))
    return (
        _LENGTH_WEIGHT * longer
        + _QUALITY_WEIGHT * (a.quality - b.quality)
        + _RELEVANCE_WEIGHT * (a.relevance - b.relevance)
        + _VERDICT_WEIGHT * (a.verdict - b.verdict)
        - _SILENCE_WEIGHT * ((a.silence != _Silence.SPOKEN).astype(float) - (b.silence != _Silence.SPOKEN))
    )


def _true_probabilities(a: _Answers, b: _Answers, kind: np.ndarray, identical: np.ndarray) -> np.ndarray:
    """Davidson's probabilities of (A, B, tie), shape (n, 3): exp(d / 2), exp(-d / 2) and exp(nu) over their sum."""
    margin = _margin(a, b)
    nu = np.where(identical, _IDENTICAL_NU, np.array([kind.nu for kind in _KINDS])[kind])
    weights = np.exp(np.stack([margin / 2, -margin / 2, nu], axis=1))
    return weights / (weights[:, 0] + weights[:, 1] + weights[:, 2])[:, None]


# --------------------------------------------------------------------------------------------------------------- text

_SURROGATE = "\ud83d"  # half a character: UTF-8 cannot encode it, so that it reaches a file as a JSON escape only
_SURROGATE_SHARE = 0.001  # of the texts, those that hold it
_ESCAPED_SHARE = 0.7  # of the cells, those whose JSON is pure ASCII
_RESPELT_SHARE = 0.2  # of the rows that share a prompt, those that differ from it by case or white space
_RESPELLINGS = (str.upper, str.lower, lambda text: text.replace(" ", "  "), lambda text: f" {text}\n")


def _spell(counts: dict[int, int], layout: int, turns: int, rng: np.random.Generator) -> list[str]:
    """Shuffle `counts[group]` words of each group into sentences, and deal them out evenly to `turns` texts."""
    group = np.repeat(list(counts), list(counts.values()))
    # The power makes the first words of a group the commoner ones, as in a language.
    words = _GROUP_START[group] + (rng.random(group.size) ** 1.4 * _GROUP_SIZE[group]).astype(np.int64)
    rng.shuffle(words)
    sentence = rng.integers(8, 15)
    texts = []
    for part in np.array_split(words, turns):
        place = np.full(part.size, _INSIDE)
        place[::sentence] = _OPENING
        place[sentence - 1 :: sentence] = _CLOSING
        place[-1:] = _CLOSING
        texts.append("".join(_FORMS[layout, place, part].tolist()).rstrip())
    return texts


def _question(conversation: _Conversations) -> tuple[str, str, str]:
    """The question of one conversation, its right and a wrong answer: empty strings where nothing is asked.

    A wrong order or comparison has the words of the right one; a wrong sum is the right one of another prompt. So no answer
    betrays itself: it must be held against the prompt.
    """
    first, second = conversation.first, conversation.second
    match conversation.question:
        case _Question.SUM:
            right = first + second
            # A neighbour of the right one among the sums 1 … 17 that two different digits can have.
            wrong = (right - 1 + (1 if conversation.twist else -1)) % 17 + 1
            ask = f"How much is {_NUMBERS[first]} plus {_NUMBERS[second]}?"
            return ask, f"The sum is {_NUMBERS[right]}.", f"The sum is {_NUMBERS[wrong]}."
        case _Question.ORDER:
            ask = f"The {_THINGS[first]} comes before the {_THINGS[second]}. What is the order?"
            right = (first, second)
            answer = "Start with {}, then follow with {}."
        case _Question.COMPARISON:
            words = _COMPARISONS[conversation.comparison]
            asked = words[conversation.twist]
            ask = f"The {_THINGS[first]} is {words[0]} than the {_THINGS[second]}. Which is {asked}?"
            right = (second, first) if conversation.twist else (first, second)
            answer = "I choose {} instead of {}."
        case _:
            return "", "", ""
    names = [_THINGS[place] for place in right]
    return ask, answer.format(*names), answer.format(*reversed(names))


def _prompt(conversation: _Conversations, rng: np.random.Generator) -> list[str]:
    """The prompt of one conversation, a string per turn. What matters comes first, so that truncation keeps it."""
    topic = _TOPICS[conversation.topic]
    subjects = [topic[place] for place in rng.permutation(len(topic))[: conversation.subjects]]
    openers = _KINDS[conversation.kind].openers[conversation.language]
    first_turn = [f"{openers[rng.integers(len(openers))]} {', '.join(subjects[:-1])} and {subjects[-1]}."]
    if conversation.question:
        first_turn.append(_question(conversation)[0])
    if conversation.pasted:
        about = conversation.pasted // 5
        counts = {_Group.PLAIN: conversation.pasted - about, _Group.TOPICS + conversation.topic: about}
        first_turn += _spell(counts, 0, 1, rng)
    follow_ups = [
        f"{_FOLLOW_UPS[rng.integers(len(_FOLLOW_UPS))]} {topic[rng.integers(len(topic))]}?"
        for _ in range(conversation.turns - 1)
    ]
    return _sometimes_break([" ".join(first_turn), *follow_ups], rng)


def _response(conversation: _Conversations, answer: _Answers, rng: np.random.Generator) -> list[str | None]:
    """One answer to one conversation, a string (or None) per turn."""
    marked = answer.precise + answer.vague + answer.slips
    counts = {
        _Group.PLAIN: answer.words - marked - answer.on_topic - answer.off_topic,
        _Group.PRECISE: answer.precise,
        _Group.VAGUE: answer.vague,
        _Group.SLIPS: answer.slips,
        _Group.TOPICS + conversation.topic: answer.on_topic,
        _Group.TOPICS + answer.stray: answer.off_topic,
    }
    last = [] if answer.silence == _Silence.SPOKEN else [None if answer.silence == _Silence.NULL else ""]
    if conversation.turns == len(last):
        return last
    turns = _spell(counts, answer.layout, conversation.turns - len(last), rng)
    if answer.verdict:
        _, right, wrong = _question(conversation)
        turns[0] = f"{right if answer.verdict > 0 else wrong}\n\n{turns[0]}"
    if conversation.kind == _CODE and rng.random() < 0.5:
        turns[-1] += f"\n\n{_CODE_BLOCKS[rng.integers(len(_CODE_BLOCKS))]}"
    return _sometimes_break(turns, rng) + last


def _sometimes_break(turns: list[str], rng: np.random.Generator) -> list[str]:
    """Put a lone surrogate at the end of the first turn of a few texts."""
    return [turns[0] + _SURROGATE, *turns[1:]] if rng.random() < _SURROGATE_SHARE else turns


def _cell(turns: list[str | None], rng: np.random.Generator) -> str:
    """The turns as JSON, as a CSV cell holds them."""
    cell = json.dumps(turns, ensure_ascii=bool(rng.random() < _ESCAPED_SHARE), separators=(",", ":"))
    return cell.replace(_SURROGATE, r"\ud83d")


# -------------------------------------------------------------------------------------------------------------- files

_TRAIN_ROWS_PER_TEST_ROW = 5


@dataclass(frozen=True)
class Arena:
    """An arena as the competition's files hold it: frames equal to what `pandas.read_csv` makes of them.

    `prompt`, `response_a` and `response_b` are JSON text; ids are integers, unique over train and test, in no order.

    train : id, model_a, model_b, prompt, response_a, response_b and the three labels (0 or 1); n rows
    test : id, prompt, response_a, response_b; n // 5 rows, at least 1
    truth : id and the true probabilities in the three label columns; the rows of train, then those of test
    test_labels : the columns of test and the three labels
    """

    train: pd.DataFrame
    test: pd.DataFrame
    truth: pd.DataFrame
    test_labels: pd.DataFrame


def make_arena(rows: int, seed: int) -> Arena:
    """Draw an arena with `rows` training rows. The same arguments give the same arena.

    Raises
    ------
    InputError
        `rows` is not an integer of at least 1, or `seed` not one of at least 0.
    """
    for name, value, least in (("rows", rows, 1), ("seed", seed, 0)):
        if not isinstance(value, Integral) or value < least:
            raise InputError(f"synthetic arena: {name} must be an integer of at least {least}, got {value!r}")
    test_rows = max(1, rows // _TRAIN_ROWS_PER_TEST_ROW)
    id_rng, train_rng, test_rng = map(np.random.default_rng, np.random.SeedSequence(seed).spawn(3))
    train, train_truth = _draw_rows(rows, train_rng)
    test, test_truth = _draw_rows(test_rows, test_rng)

    ids = id_rng.choice(2**32, size=rows + test_rows, replace=False)
    train.insert(0, ID, ids[:rows])
    test.insert(0, ID, ids[rows:])
    truth = pd.DataFrame(np.concatenate([train_truth, test_truth]), columns=list(LABEL_COLUMNS))
    truth.insert(0, ID, ids)
    return Arena(
        train=train,
        test=test[[ID, *TEXT_COLUMNS]],
        truth=truth,
        test_labels=test[[ID, *TEXT_COLUMNS, *LABEL_COLUMNS]],
    )


def _draw_rows(rows: int, rng: np.random.Generator) -> tuple[pd.DataFrame, np.ndarray]:
    """Rows of the labelled schema without ids, and their true probabilities, shape (rows, 3)."""
    owners = _draw_owners(rows, rng)
    distinct = _draw_conversations(owners.max() + 1, rng)
    conversations = _Conversations(*(column[owners] for column in distinct))
    models = _draw_models(rows, rng)
    a, b = (_draw_answers(conversations, side, rng) for side in models.T)
    identical = (rng.random(rows) < _IDENTICAL_SHARE) | ((a.words == 0) & (b.words == 0))
    b = _Answers(*(np.where(identical, *columns) for columns in zip(a, b, strict=True)))

    probabilities = _true_probabilities(a, b, conversations.kind, identical)
    labels = (rng.random((rows, 1)) > probabilities.cumsum(axis=1)[:, :2]).sum(axis=1)

    prompts = [_prompt(conversation, rng) for conversation in _records(distinct)]
    prompts[0] = [_GREETING]  # the crowd's
    respelt = (np.bincount(owners)[owners] > 1) & (rng.random(rows) < _RESPELT_SHARE)
    cells = []
    for row, (conversation, answer_a, answer_b) in enumerate(
        zip(_records(conversations), _records(a), _records(b), strict=True)
    ):
        prompt = prompts[owners[row]]
        if respelt[row]:
            prompt = list(map(_RESPELLINGS[rng.integers(len(_RESPELLINGS))], prompt))
        response_a = _response(conversation, answer_a, rng)
        response_b = response_a if identical[row] else _response(conversation, answer_b, rng)
        cells.append([_cell(turns, rng) for turns in (prompt, response_a, response_b)])

    names = np.array([model.name for model in _MODELS], dtype=object)[models]
    return pd.concat(
        [
            pd.DataFrame(names, columns=list(MODEL_COLUMNS)),
            pd.DataFrame(cells, columns=list(TEXT_COLUMNS)),
            pd.DataFrame(np.eye(3, dtype=np.int64)[labels], columns=list(LABEL_COLUMNS)),
        ],
        axis=1,
    ), probabilities


def write_arena(folder: Path, rows: int, seed: int) -> Arena:
    """Write `make_arena(rows, seed)` into `folder`, which is made if absent. The same arguments give the same bytes.

    A file of the same name is never replaced: a folder may hold the competition's own.

    The files are train.csv, test.csv and sample_submission.csv as the competition has them, and what it keeps to itself:
    truth.csv (the true probabilities of all rows) and test_labels.csv. Each is written whole or not at all.

    Raises
    ------
    InputError
        As `make_arena` does, or one of the files is there, or the folder cannot be made or written.
    """
    arena = make_arena(rows, seed)
    sample = arena.test[[ID]].assign(**dict.fromkeys(LABEL_COLUMNS, 1 / 3))
    frames = {
        "train.csv": arena.train,
        "test.csv": arena.test,
        "sample_submission.csv": sample,
        "truth.csv": arena.truth,
        "test_labels.csv": arena.test_labels,
    }
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made a folder ({error.strerror})") from None
    there = [name for name in frames if (folder / name).exists()]
    if there:
        raise InputError(f"{folder / there[0]}: already exists; name another folder, or remove it first")
    for name, frame in frames.items():
        with write_whole(folder / name) as file:
            frame.to_csv(file, index=False, lineterminator="\n")
    return arena


def model_strengths() -> dict[str, float]:
    """The strength of each model, in log-odds against a model of strength 0, strongest first."""
    return {model.name: model.strength for model in _MODELS}


def bayes_log_loss(truth: pd.DataFrame) -> float:
    """The best log loss that any predictor can expect on these rows: the mean of -sum p log p, in nats.

    `truth` holds the true probabilities in the three label columns, as `Arena.truth` and truth.csv do.
    """
    probabilities = truth[list(LABEL_COLUMNS)].to_numpy(dtype=np.float64)
    return float(-(probabilities * np.log(probabilities)).sum(axis=1).mean())
