"""Turn latents into text: write prompts and answers, and their CSV cells with the quirks of the
real file."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.random import Generator

from humanpref.arena.vocabulary import TEXT, TOPICS, WORDS

# Half a character: UTF-8 cannot encode it, so it can appear in a file only as a JSON escape.
_SURROGATE = "\ud83d"
_RESPELLINGS = (
    str.upper,
    str.lower,
    lambda text: text.replace(" ", "  "),
    lambda text: f" {text}\n",
)


def _pick(options: Sequence, rng: Generator) -> Any:
    return options[rng.integers(len(options))]


def _spell(
    counts: list[tuple[np.ndarray, int]], layout: int, turns: int, rng: Generator
) -> list[str]:
    """Draw words, shuffle them into sentences, and return one string per turn. `counts` lists
    pairs: a group of words, and how many words to draw from it."""
    # The power makes the first words of a group more frequent, as in natural language.
    words = np.concatenate(
        [group[(rng.random(n) ** 1.4 * len(group)).astype(np.int64)] for group, n in counts]
    )
    rng.shuffle(words)
    length = int(rng.integers(8, 15))
    opening, closing = TEXT["layouts"][layout]
    texts = []
    for array in np.array_split(words, turns):
        part = array.tolist()
        part[:-1:length] = [opening.format(word.capitalize()) for word in part[:-1:length]]
        sentences = [" ".join(part[i : i + length]) for i in range(0, len(part), length)]
        texts.append(closing.join(sentences) + ".")
    return texts


def pose_question(conversation: Any) -> tuple[str, str, str]:
    """Return a conversation's question, the right answer and a wrong answer.

    In questions of order and comparison, the wrong answer has the same words as the right one; in
    sums, it is the right sum for a different prompt. Therefore, no answer can be recognized as
    wrong without reading the prompt.
    """
    places = [conversation.thing, conversation.other]
    if conversation.question == "sum":
        total = sum(places)
        # The next lower or higher sum, cyclically; two different digits have a sum from 1 to 17.
        wrong = (total - 2 + 2 * conversation.twist) % 17 + 1
        ask = "How much is {} plus {}?".format(*WORDS["numbers"][places])
        return (
            ask,
            f"The sum is {WORDS['numbers'][total]}.",
            f"The sum is {WORDS['numbers'][wrong]}.",
        )
    names = WORDS["things"][places]
    if conversation.question == "order":
        ask = "The {} comes before the {}. What is the order?".format(*names)
        answer = "Start with {}, then follow with {}."
    else:
        words = TEXT["comparisons"][conversation.comparison]
        asked = words[conversation.twist]
        ask = f"The {names[0]} is {words[0]} than the {names[1]}. Which is {asked}?"
        answer = "I choose {} instead of {}."
        if conversation.twist:
            names = names[::-1]
    return ask, answer.format(*names), answer.format(*names[::-1])


def write_prompt(conversation: Any, rng: Generator) -> list[str]:
    """Write a prompt, one string per turn. Its informative parts come first, so that truncation
    keeps them."""
    topic = TOPICS[conversation.topic]
    *subjects, last = topic[rng.permutation(len(topic))[: conversation.subjects]]
    opener = _pick(TEXT["openers"][conversation.kind][conversation.language], rng)
    first_turn = [f"{opener} {', '.join(subjects)} and {last}."]
    if conversation.question:
        first_turn.append(pose_question(conversation)[0])
    if conversation.pasted:
        about = conversation.pasted // 5
        first_turn += _spell(
            [(WORDS["plain"], conversation.pasted - about), (topic, about)], 0, 1, rng
        )
    follow_ups = [
        f"{_pick(TEXT['follow_ups'], rng)} {_pick(topic, rng)}?"
        for _ in range(conversation.turns - 1)
    ]
    return _sometimes_break([" ".join(first_turn), *follow_ups], rng)


def respell(prompt: list[str], rng: Generator) -> list[str]:
    """Return a prompt with its case or its white space changed."""
    return list(map(_pick(_RESPELLINGS, rng), prompt))


def write_answer(conversation: Any, answer: Any, rng: Generator) -> list[str | None]:
    """Write an answer to a conversation, one string (or None) per turn."""
    last = ([], [None], [""])[answer.silence]
    if conversation.turns == len(last):
        return last
    marked = answer.precise + answer.vague + answer.misspelled
    counts = [
        (WORDS["plain"], answer.words - marked - answer.on_topic - answer.off_topic),
        (WORDS["precise"], answer.precise),
        (WORDS["vague"], answer.vague),
        (WORDS["misspelled"], answer.misspelled),
        (TOPICS[conversation.topic], answer.on_topic),
        (TOPICS[answer.stray], answer.off_topic),
    ]
    turns = _spell(counts, answer.layout, conversation.turns - len(last), rng)
    if answer.verdict:
        # The right answer is at index 1, the wrong one at index -1.
        turns[0] = f"{pose_question(conversation)[answer.verdict]}\n\n{turns[0]}"
    if conversation.kind == "code" and rng.random() < 0.5:
        turns[-1] += f"\n\n{_pick(TEXT['code_blocks'], rng)}"
    return _sometimes_break(turns, rng) + last


def _sometimes_break(turns: list[str], rng: Generator) -> list[str]:
    """Return the turns. In one case in a thousand, append a lone surrogate to the first one."""
    return [turns[0] + _SURROGATE, *turns[1:]] if rng.random() < 0.001 else turns


def to_cell(turns: list[str | None], rng: Generator) -> str:
    """Return the turns as JSON for a CSV cell. Most cells escape non-ASCII characters."""
    cell = json.dumps(turns, ensure_ascii=bool(rng.random() < 0.7), separators=(",", ":"))
    return cell.replace(_SURROGATE, r"\ud83d")
