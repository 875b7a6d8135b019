"""What is drawn before any text is written."""

import numpy as np
import pytest

from humanpref.arena.latents import draw_answers, draw_conversations, draw_models, draw_owners
from humanpref.arena.vocabulary import MODELS

ROWS = 2_000


@pytest.fixture(scope="module")
def conversations():
    return draw_conversations(ROWS, np.random.default_rng(1))


@pytest.fixture(scope="module")
def answers(conversations):
    rng = np.random.default_rng(2)
    return draw_answers(conversations, draw_models(ROWS, rng)[:, 0], rng)


def test_two_different_models_answer_and_popular_ones_on_either_side():
    models = draw_models(ROWS, np.random.default_rng(3))
    assert (models[:, 0] != models[:, 1]).all()
    counts = np.array([np.bincount(side, minlength=len(MODELS)) for side in models.T])
    assert np.abs(counts[0] - counts[1]).max() < 4 * np.sqrt(2 * counts.max())
    assert np.corrcoef(counts.sum(axis=0), MODELS["popularity"])[0, 1] > 0.95


@pytest.mark.parametrize("rows", [1, 2, 3, 10, ROWS])
def test_owners_leave_no_conversation_without_a_row(rows):
    owners = draw_owners(rows, np.random.default_rng(4))
    sizes = np.bincount(owners)
    assert sizes.sum() == rows
    assert sizes.min() >= 1
    assert sizes[0] == min(rows, max(2, round(0.002 * rows)))


def test_conversations(conversations):
    assert (conversations["thing"] != conversations["other"]).all()
    assert conversations["turns"].between(1, 30).all()
    assert conversations["pasted"].between(0, 6_000).all()
    assert set(conversations["question"]) == {"", "sum", "order", "comparison"}
    asked = (conversations["question"] != "").groupby(conversations["kind"]).mean()
    assert asked["chat"] == 0
    assert asked["factual"] == pytest.approx(0.95, abs=0.05)
    assert conversations.loc[0, ["kind", "turns", "topic"]].tolist() == ["chat", 1, 2]


def test_answers_count_their_words(conversations, answers):
    counted = ["precise", "vague", "misspelled", "on_topic", "off_topic"]
    assert (answers[counted] >= 0).all(axis=None)
    assert (answers[counted].sum(axis=1) <= answers["words"]).all()
    spoken = conversations["turns"] - (answers["silence"] > 0)
    assert (answers["words"] >= spoken).all()
    assert (answers["words"] == 0).equals(spoken == 0)


def test_a_verdict_needs_a_question_and_words(conversations, answers):
    given = (conversations["question"] != "") & (answers["words"] > 0)
    assert (answers["verdict"] != 0).equals(given)
    assert set(answers["verdict"]) == {-1, 0, 1}


def test_an_answer_strays_to_another_topic(conversations, answers):
    assert (answers["stray"] != conversations["topic"]).all()
    assert (answers["on_topic"] > answers["off_topic"]).mean() > 0.6


def test_stronger_models_answer_better(conversations):
    rng = np.random.default_rng(5)
    best, worst = (
        draw_answers(conversations, np.full(ROWS, model), rng) for model in (0, len(MODELS) - 1)
    )
    of_best, of_worst = (each["precise"].sum() / each["words"].sum() for each in (best, worst))
    assert of_best > 2 * of_worst
    assert best["verdict"].mean() > worst["verdict"].mean() + 0.2
