"""Text that shows the latents, and its cells."""

import json
import re
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from humanpref.arena.texts import pose_question, respell, to_cell, write_answer, write_prompt
from humanpref.arena.vocabulary import TOPICS, WORDS

SEEDS = range(8)


def conversation(**changes):
    columns = ["language", "topic", "pasted", "comparison", "twist"]
    usual = {"kind": "factual", "turns": 1, "question": "", "subjects": 3, "thing": 2, "other": 3}
    return SimpleNamespace(**dict.fromkeys(columns, 0) | usual | changes)


def answer(**changes):
    columns = ["precise", "vague", "misspelled", "on_topic", "off_topic", "verdict", "silence"]
    usual = {"words": 40, "stray": 1, "layout": 0}
    return SimpleNamespace(**dict.fromkeys(columns, 0) | usual | changes)


def words(text):
    return re.findall("[a-z]+", text.lower())


@pytest.mark.parametrize(
    ("question", "right", "wrong"),
    [
        ("sum", "The sum is five.", "The sum is four."),
        (
            "order",
            "Start with mirror, then follow with ladder.",
            "Start with ladder, then follow with mirror.",
        ),
        ("comparison", "I choose mirror instead of ladder.", "I choose ladder instead of mirror."),
    ],
)
def test_right_and_wrong_answers(question, right, wrong):
    assert pose_question(conversation(question=question))[1:] == (right, wrong)


def test_the_opposite_is_asked():
    ask, right, _ = pose_question(conversation(question="comparison", twist=1))
    assert ask == "The mirror is heavier than the ladder. Which is lighter?"
    assert right == "I choose ladder instead of mirror."


@pytest.mark.parametrize(
    ("thing", "other", "twist", "right", "wrong"),
    [(2, 3, 1, "five", "six"), (0, 1, 0, "one", "seventeen"), (8, 9, 1, "seventeen", "one")],
)
def test_a_wrong_sum_is_one_that_two_digits_can_have(thing, other, twist, right, wrong):
    asked = conversation(question="sum", thing=thing, other=other, twist=twist)
    assert pose_question(asked)[1:] == (f"The sum is {right}.", f"The sum is {wrong}.")


@pytest.mark.parametrize("seed", SEEDS)
def test_an_answer_has_the_words_that_were_drawn(seed):
    drawn = answer(words=70, precise=9, vague=5, misspelled=3, on_topic=11, off_topic=4)
    (text,) = write_answer(conversation(), drawn, np.random.default_rng(seed))
    groups = {
        "precise": WORDS["precise"],
        "vague": WORDS["vague"],
        "misspelled": WORDS["misspelled"],
    }
    groups |= {"on_topic": TOPICS[0], "off_topic": TOPICS[1]}
    counted = {name: sum(word in group for word in words(text)) for name, group in groups.items()}
    assert counted | {"words": len(words(text))} == {
        name: value for name, value in vars(drawn).items() if name in [*groups, "words"]
    }


@pytest.mark.parametrize(
    ("layout", "form"),
    [
        (0, r"[A-Z][a-z ]+(\. [A-Z][a-z ]+)+\."),
        (1, r"[A-Z][a-z ]+(\.\n\n[A-Z][a-z ]+)+\."),
        (2, r"- [A-Z][a-z ]+(\.\n- [A-Z][a-z ]+)+\."),
        (3, r"1\. \*\*[A-Z][a-z]*\*\* [a-z ]+(\.\n1\. \*\*[A-Z][a-z]*\*\* [a-z ]+)+\."),
        (4, r"### [A-Z][a-z ]+(\.\n\n### [A-Z][a-z ]+)+\."),
    ],
)
def test_layouts(layout, form):
    (text,) = write_answer(conversation(), answer(layout=layout), np.random.default_rng(0))
    assert re.fullmatch(form, text)


@pytest.mark.parametrize(("silence", "last"), [(1, None), (2, "")])
def test_silence_stands_in_the_last_turn(silence, last):
    rng = np.random.default_rng(0)
    assert write_answer(conversation(), answer(words=0, silence=silence), rng) == [last]
    first, second, third = write_answer(conversation(turns=3), answer(silence=silence), rng)
    assert (third, len(words(first)), len(words(second))) == (last, 20, 20)


@pytest.mark.parametrize(("verdict", "place"), [(1, 1), (-1, 2)])
def test_an_answer_opens_with_its_verdict(verdict, place):
    asked = conversation(question="order", turns=2)
    first, _ = write_answer(asked, answer(verdict=verdict), np.random.default_rng(0))
    assert first.split("\n\n")[0] == pose_question(asked)[place]


def test_half_of_the_answers_about_code_end_in_a_block():
    rng = np.random.default_rng(0)
    ended = [write_answer(conversation(kind="code"), answer(), rng)[0] for _ in range(200)]
    assert 70 <= sum(text.endswith("```") for text in ended) <= 130


@pytest.mark.parametrize("language", [0, 1, 2])
def test_a_prompt_names_its_subjects_before_all_else(language):
    drawn = conversation(language=language, question="sum", pasted=25, turns=3, topic=4)
    first, *follow_ups = write_prompt(drawn, np.random.default_rng(language))
    before, after = first.split(f" {pose_question(drawn)[0]} ")
    assert sum(word in TOPICS[4] for word in words(before)) == 3
    assert len(words(after)) == 25
    assert sum(word in TOPICS[4] for word in words(after)) == 5
    assert [sum(word in TOPICS[4] for word in words(turn)) for turn in follow_ups] == [1, 1]


def test_respelling_changes_case_or_white_space_only():
    rng = np.random.default_rng(0)
    prompt = ["Write a poem.", "Go on."]
    spellings = Counter("|".join(respell(prompt, rng)) for _ in range(100))
    assert len(spellings) == 4
    assert "|".join(prompt) not in spellings
    assert {" ".join(text.lower().split()) for text in spellings} <= {
        "write a poem.|go on.",
        "write a poem. | go on.",
    }


def test_a_cell_is_json_whether_escaped_or_not():
    rng = np.random.default_rng(0)
    turns = ["日", None, "", "half \ud83d"]
    cells = Counter(to_cell(turns, rng) for _ in range(200))
    assert [json.loads(cell) for cell in cells] == [turns] * 2
    assert sum(count for cell, count in cells.items() if cell.isascii()) in range(120, 160)
    assert all(cell.encode("utf-8") for cell in cells)
