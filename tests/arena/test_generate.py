"""An arena as a whole: its files, its likeness to the real data, the truth behind its labels."""

import hashlib
import json
import re
from collections import Counter
from itertools import chain

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from humanpref.arena import bayes_log_loss, make_arena, write_arena
from humanpref.arena.truth import true_probabilities
from humanpref.arena.vocabulary import MODELS, TEXT, TOPICS, WORDS
from humanpref.schema import ID, LABEL_COLUMNS, MODEL_COLUMNS, TEXT_COLUMNS, InputError

LABELS = list(LABEL_COLUMNS)
ROWS = 5_000
FILES = {
    "train.csv": [ID, *MODEL_COLUMNS, *TEXT_COLUMNS, *LABELS],
    "test.csv": [ID, *TEXT_COLUMNS],
    "sample_submission.csv": [ID, *LABELS],
    "truth.csv": [ID, *LABELS],
    "test_labels.csv": [ID, *TEXT_COLUMNS, *LABELS],
}


@pytest.fixture(scope="module")
def arena():
    return make_arena(ROWS, seed=0)


@pytest.fixture(scope="module")
def turns(arena):
    """The training rows' cells, parsed: a list of strings (or None) per cell."""
    return arena.train[list(TEXT_COLUMNS)].map(json.loads)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("arena") / "made" / "by it"
    return folder, write_arena(folder, rows=300, seed=7)


def characters(cells: pd.Series) -> pd.Series:
    return cells.map(lambda cell: sum(len(turn or "") for turn in cell))


def encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def probabilities(arena, frame: pd.DataFrame) -> np.ndarray:
    return arena.truth.set_index(ID).loc[frame[ID], LABELS].to_numpy()


def classes(frame: pd.DataFrame) -> np.ndarray:
    return frame[LABELS].to_numpy().argmax(axis=1)


# --- files


def test_same_arguments_give_the_same_bytes_and_another_seed_does_not(written, tmp_path):
    folder, _ = written
    write_arena(tmp_path / "again", rows=300, seed=7)
    write_arena(tmp_path / "other", rows=300, seed=8)
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()
    assert (tmp_path / "other" / "train.csv").read_bytes() != (folder / "train.csv").read_bytes()


def test_the_bytes_stay(tmp_path):
    """docs/results.md quotes log losses that were measured on rows of earlier commits."""
    write_arena(tmp_path, rows=60, seed=1)
    digest = hashlib.sha256((tmp_path / "train.csv").read_bytes()).hexdigest()
    assert digest.startswith("8bdfce7616a880a79c3b")


def test_files_have_the_competitions_columns_and_counts(written):
    folder, arena = written
    assert {path.name for path in folder.iterdir()} == set(
        FILES
    )  # and no temporary file stays behind
    frames = {name: pd.read_csv(folder / name) for name in FILES}
    assert {name: list(frame.columns) for name, frame in frames.items()} == FILES
    assert {name: len(frame) for name, frame in frames.items()} == {
        "train.csv": 300,
        "test.csv": 60,
        "sample_submission.csv": 60,
        "truth.csv": 360,
        "test_labels.csv": 60,
    }
    for name, frame in arena._asdict().items():
        pd.testing.assert_frame_equal(frames[f"{name}.csv"], frame)
    sample = frames["sample_submission.csv"]
    assert sample[ID].equals(arena.test[ID])
    assert (sample[LABELS] == 1 / 3).all(axis=None)
    pd.testing.assert_frame_equal(arena.test_labels[arena.test.columns], arena.test)


def test_what_was_there_is_not_replaced(tmp_path):
    (tmp_path / "test.csv").write_text("precious")
    with pytest.raises(InputError, match=r"test\.csv: already exists"):
        write_arena(tmp_path, rows=3, seed=7)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [
        ("test.csv", "precious")
    ]


def test_a_file_in_the_folders_place_is_refused(tmp_path):
    (tmp_path / "arena").write_text("")
    with pytest.raises(FileExistsError, match="arena"):  # the command line's one line
        write_arena(tmp_path / "arena", rows=1, seed=0)


@pytest.mark.parametrize(("rows", "seed"), [(0, 0), (-3, 0), (10, -1)])
def test_bad_arguments_are_refused(rows, seed, tmp_path):
    with pytest.raises(InputError, match=f"got rows {rows} and seed {seed}"):
        write_arena(tmp_path / "arena", rows, seed)
    assert not (tmp_path / "arena").exists()


@pytest.mark.parametrize("rows", [1, 2, 9])
def test_few_rows(rows):
    arena = make_arena(rows, seed=3)
    assert (len(arena.train), len(arena.test), len(arena.truth)) == (rows, 1, rows + 1)


def test_ids_are_unique_and_in_no_order_and_truth_has_them_all(arena):
    assert arena.truth[ID].is_unique
    assert not arena.train[ID].is_monotonic_increasing
    assert arena.truth[ID].tolist() == [*arena.train[ID], *arena.test[ID]]
    assert arena.test_labels[ID].tolist() == arena.test[ID].tolist()


# --- likeness to the real data


def test_every_row_has_as_many_answers_as_prompts_and_one_label(arena, turns):
    assert (turns.map(len).nunique(axis=1) == 1).all()
    assert (arena.train[LABELS].sum(axis=1) == 1).all()
    assert arena.train[LABELS].isin([0, 1]).all(axis=None)
    assert (arena.train["model_a"] != arena.train["model_b"]).all()


def test_label_rates(arena):
    np.testing.assert_allclose(arena.train[LABELS].mean(), [0.35, 0.34, 0.31], atol=0.02)


def test_turns(turns):
    count = turns["prompt"].map(len)
    assert count.quantile([0.5, 0.9]).tolist() == [1, 2]
    assert 4 <= count.quantile(0.99) <= 6
    assert 15 <= count.max() <= 36


def test_lengths_in_characters(turns):
    prompt = characters(turns["prompt"])
    assert 70 <= prompt.median() <= 120
    assert 2_500 <= prompt.quantile(0.99) <= 7_500
    for side in ("response_a", "response_b"):
        response = characters(turns[side])
        assert 850 <= response.median() <= 1_150
        assert 2_300 <= response.quantile(0.9) <= 3_200
        assert 5_000 <= response.quantile(0.99) <= 9_000
        assert response.max() >= 15_000


def test_longer_answers_win_more(arena, turns):
    longer = np.sign(characters(turns["response_a"]) - characters(turns["response_b"]))
    won = arena.train["winner_model_a"] - arena.train["winner_model_b"]
    agree = (longer * won)[longer * won != 0] == 1
    assert 0.57 <= agree.mean() <= 0.65


@pytest.mark.parametrize("side", ["response_a", "response_b"])
def test_quirks_of_the_answers(arena, turns, side):
    texts = ["".join(turn or "" for turn in cell) for cell in turns[side]]
    last = [cell[-1] for cell in turns[side]]
    for count in (
        sum(turn in (None, "null") for turn in last),
        last.count(""),
        sum(not encodable(text) for text in texts),
    ):
        assert 1 <= count <= 0.006 * ROWS
    assert arena.train[side].map(encodable).all()  # in the file, a lone surrogate is a JSON escape
    for mark in ("```", "\n- ", "\n1. **", "\n### "):
        assert np.mean([mark in text for text in texts]) > 0.03


def test_quirks_of_the_prompts(arena, turns):
    texts = [" ".join(cell) for cell in turns["prompt"]]
    for letters, least in (("[\u4e00-\u9fff]", 0.02), ("[\u0400-\u04ff]", 0.01)):
        assert least <= np.mean([bool(re.search(letters, text)) for text in texts]) <= 0.1
    assert arena.train["prompt"].str.contains(r"\\u[0-9a-f]{4}").any()  # escaped …
    assert not arena.train["prompt"].map(str.isascii).all()  # … and not


def test_prompts_repeat(turns):
    texts = ["\n".join(cell) for cell in turns["prompt"]]
    normal = [" ".join(text.casefold().split()) for text in texts]
    sizes = Counter(normal)
    assert 0.14 <= sum(size for size in sizes.values() if size > 1) / ROWS <= 0.2
    assert 0.0015 <= max(sizes.values()) / ROWS <= 0.003
    assert len(set(texts)) > len(sizes)  # some differ by case or white space only


def test_identical_answers_mostly_tie(arena):
    same = arena.train[
        arena.train["response_a"].map(json.loads) == arena.train["response_b"].map(json.loads)
    ]
    assert 0.004 <= len(same) / ROWS <= 0.015
    np.testing.assert_allclose(
        probabilities(arena, same), [[0.0595, 0.0595, 0.881]] * len(same), atol=1e-3
    )


# --- the truth


def read_prompt(turns: list[str]) -> tuple[str, int, str | None]:
    """A prompt's kind, its topic and the right answer to its question, from its words alone."""
    text = " ".join(turns[0].lower().split())
    kind = "chat"  # which the greeting is, the one prompt without an opener
    for candidate, languages in TEXT["openers"].items():
        if text.startswith(tuple(map(str.lower, chain(*languages)))):
            kind = candidate
    words = re.findall("[a-z]+", text)
    topic = next(place for word in words for place, some in enumerate(TOPICS) if word in some)
    if found := re.search(r"how much is (\w+) plus (\w+)\?", text):
        total = sum(map(WORDS["numbers"].tolist().index, found.groups()))
        return kind, topic, f"The sum is {WORDS['numbers'][total]}."
    if found := re.search(r"the (\w+) comes before the (\w+)", text):
        return kind, topic, "Start with {}, then follow with {}.".format(*found.groups())
    if found := re.search(r"the (\w+) is (\w+) than the (\w+)\. which is (\w+)\?", text):
        first, said, second, asked = found.groups()
        order = (first, second) if said == asked else (second, first)
        return kind, topic, "I choose {} instead of {}.".format(*order)
    return kind, topic, None


def read_answer(turns: list[str | None], topic: int, right: str | None) -> dict[str, int]:
    """What the rule reads of an answer, from its words alone."""
    text = re.sub("```.*?```", "", "\n".join(turn or "" for turn in turns), flags=re.DOTALL)
    verdict = 0
    if right is not None and text.strip():
        statement, text = text.split("\n\n", 1)
        verdict = 1 if statement == right else -1
    words = re.findall("[a-z]+", text.lower())
    groups = map(
        set, [WORDS["precise"], WORDS["vague"], WORDS["misspelled"], TOPICS[topic], TOPICS.flat]
    )
    counts = [sum(word in group for word in words) for group in groups]
    counted = ["precise", "vague", "misspelled", "on_topic", "off_topic"]
    counts[-1] -= counts[-2]
    rest = {"words": len(words), "verdict": verdict, "silence": int(not turns[-1])}
    return dict(zip(counted, counts, strict=True)) | rest


@pytest.mark.slow
def test_all_that_the_truth_depends_on_can_be_read(arena, turns):
    """The true probabilities follow from prompt and answers: `bayes_log_loss` can be reached."""
    some = turns.iloc[:1_500]
    prompts = [read_prompt(prompt) for prompt in some["prompt"]]
    a, b = (
        pd.DataFrame(
            read_answer(cell, topic, right)
            for cell, (_, topic, right) in zip(some[side], prompts, strict=True)
        )
        for side in ("response_a", "response_b")
    )
    identical = (some["response_a"] == some["response_b"]).to_numpy()
    kind = [kind for kind, _, _ in prompts]
    read = true_probabilities(a, b, kind, identical)
    np.testing.assert_allclose(read, probabilities(arena, arena.train.iloc[:1_500]), atol=1e-9)


@pytest.mark.parametrize("part", ["train", "test_labels"])
def test_labels_are_drawn_from_the_truth(arena, part):
    frame = getattr(arena, part)
    truth = probabilities(arena, frame)
    surprise = -np.log(truth[np.arange(len(frame)), classes(frame)])
    entropy = -(truth * np.log(truth)).sum(axis=1)
    error = (surprise - entropy).std() / np.sqrt(len(frame))
    assert abs(surprise.mean() - entropy.mean()) < 3.5 * error
    assert surprise.mean() < 1.03  # labels that ignore the truth would cost more than the prior


@pytest.mark.parametrize("seed", [1, 2])
def test_best_reachable_loss(seed):
    assert 0.95 < bayes_log_loss(make_arena(1_000, seed).truth) < 1.0


def test_best_reachable_loss_of_many_rows(arena):
    assert 0.955 < bayes_log_loss(arena.truth) < 0.98


def test_length_alone_is_better_than_the_prior_and_far_from_the_best(arena, turns):
    def features(cells):
        prompt, a, b = (
            np.log1p(
                np.stack(
                    [
                        characters(cells[c]),
                        cells[c].map(lambda x: sum(len((t or "").split()) for t in x)),
                    ],
                    1,
                )
            )
            for c in TEXT_COLUMNS
        )
        return np.hstack([prompt, a, b, a - b, np.abs(a - b)])

    train, test = arena.train, arena.test_labels
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    model.fit(features(turns), classes(train))
    predicted = model.predict_proba(features(test[list(TEXT_COLUMNS)].map(json.loads)))
    loss = log_loss(classes(test), predicted, labels=[0, 1, 2])
    prior = log_loss(classes(test), np.tile(train[LABELS].mean(), (len(test), 1)), labels=[0, 1, 2])
    assert 1.08 < prior < 1.11
    assert bayes_log_loss(arena.truth) + 0.06 < loss < prior - 0.01


def test_stronger_models_win_more(arena):
    assert set(MODELS.index) == set(arena.train["model_a"]) == set(arena.train["model_b"])
    won = pd.concat(
        [
            arena.train.groupby(f"model_{side}")[f"winner_model_{side}"].agg(["sum", "count"])
            for side in "ab"
        ]
    )
    won = won.groupby(level=0).sum()
    rate = won["sum"] / won["count"]
    assert rate.corr(MODELS["strength"], method="spearman") > 0.9
