"""What the kernels get to see of the competition."""

import csv

import pandas as pd
import pytest

from humanpref.config import load_config
from humanpref.data import as_pairs, grouped_folds, held_out, prompt_keys, read_pairs
from humanpref.kaggle.competitions import COMPETITIONS as RULES
from humanpref.kaggle.competitions import WSDM
from humanpref.kaggle.rehearsal.competition import SYNTHETIC_ROWS, Files, read_competition
from humanpref.schema import ID, LABEL_COLUMNS

PUBLIC_COLUMNS = [ID, "prompt", "response_a", "response_b"]


def cells(path) -> pd.DataFrame:
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def test_the_kernels_never_see_the_tests_labels(arena, tmp_path):
    labelled = arena / "test_labels.csv"
    competition = read_competition(arena / "train.csv", labelled)
    competition.write(tmp_path / "c")
    files = sorted(path.name for path in (tmp_path / "c").iterdir())
    assert files == ["sample_submission.csv", "test.csv", "train.csv"]
    for name in ("train.csv", "test.csv"):
        pd.testing.assert_frame_equal(cells(tmp_path / "c" / name), cells(arena / name))
    sample = pd.read_csv(tmp_path / "c" / "sample_submission.csv", dtype={ID: str})
    assert list(sample) == [ID, *LABEL_COLUMNS]
    assert list(sample[ID]) == list(competition.labels[ID]) == list(read_pairs(labelled)[ID])
    assert (sample[list(LABEL_COLUMNS)] == 1 / 3).all(axis=None)
    assert str(labelled) in competition.source


def test_a_competition_without_ties_gets_winners_and_plain_texts(arena):
    files = read_competition(arena / "train.csv", arena / "test_labels.csv", None, RULES[WSDM])
    rows, test = read_pairs(arena / "train.csv"), read_pairs(arena / "test_labels.csv")
    rows = rows[rows["winner_tie"] == 0]
    assert list(files.train) == [*PUBLIC_COLUMNS, "winner", "language"]
    assert files.train[ID].tolist() == rows[ID].tolist()
    first = files.train["winner"] == "model_a"
    assert first.tolist() == (rows["winner_model_a"] == 1).tolist()
    assert files.train["prompt"].tolist() == rows["prompt"].map("\n\n".join).tolist()
    kept = test[ID][test["winner_tie"] == 0].tolist()
    assert files.test[ID].tolist() == files.labels[ID].tolist() == kept
    files.drop_labels()
    assert "winner" not in files.train


def test_a_test_without_labels_has_no_log_loss(arena):
    assert read_competition(arena / "train.csv", arena / "test.csv").labels is None
    competition = read_competition(None, arena / "test.csv")
    assert competition.labels is None
    assert (len(competition.train), len(competition.test)) == (SYNTHETIC_ROWS, 24)
    assert competition.source == f"the synthetic arena's training rows and {arena / 'test.csv'}"


def test_the_synthetic_arena_has_labels_of_its_test():
    competition = read_competition(None, None)
    assert list(competition.labels[ID]) == list(competition.test[ID].astype(str))
    assert list(competition.test) == PUBLIC_COLUMNS
    assert competition.source == "the synthetic arena"


def test_a_part_of_the_training_rows_is_held_out_by_prompt(arena, tmp_path):
    competition = read_competition(arena / "train.csv", None)
    competition.write(tmp_path / "c")
    pairs = read_pairs(arena / "train.csv", labels=True)
    expected = pairs[grouped_folds(pairs, k=5, seed=42) == 0]
    train = read_pairs(tmp_path / "c" / "train.csv", labels=True)
    test = read_pairs(tmp_path / "c" / "test.csv")
    assert "held out" in competition.source
    assert list(test[ID]) == list(expected[ID]) == list(competition.labels[ID])
    assert competition.labels[list(LABEL_COLUMNS)].to_numpy() == pytest.approx(
        expected[list(LABEL_COLUMNS)].to_numpy()
    )
    assert len(train) + len(test) == len(pairs)
    assert not set(prompt_keys(train)) & set(prompt_keys(test))
    assert list(cells(tmp_path / "c" / "test.csv")) == PUBLIC_COLUMNS
    texts = ["prompt", "response_a", "response_b", "model_a", "model_b"]
    kept = pairs[~pairs[ID].isin(test[ID])].reset_index(drop=True)
    pd.testing.assert_frame_equal(train[texts], kept[texts])


def test_cells_are_written_as_they_stand(tmp_path):
    rows = [["0042", "a\rb", 'say "x",\ny', ""], ["\ud800", "NA", "1.0", "ü"]]
    frame = pd.DataFrame(rows, columns=PUBLIC_COLUMNS, dtype=object)
    Files("rows", frame, frame, None).write(tmp_path / "c")
    path = tmp_path / "c" / "train.csv"
    with open(path, encoding="utf-8", errors="surrogatepass", newline="") as file:
        assert list(csv.reader(file)) == [PUBLIC_COLUMNS, *rows]


def test_cells_are_read_as_they_stand(tmp_path):
    rows = [
        ["0042", '["a \\r b", null]', '[" NA "]', ""],
        ["1.0", '["\ud800 ü"]', '["say \\"x\\",\\ny"]', '[ "NA" ]'],
    ]
    with open(
        tmp_path / "test.csv", "w", encoding="utf-8", errors="surrogatepass", newline=""
    ) as file:
        csv.writer(file).writerows([PUBLIC_COLUMNS, *rows])
    competition = read_competition(None, tmp_path / "test.csv")
    assert competition.test.to_numpy().tolist() == rows
    competition.write(tmp_path / "c")
    again = read_competition(None, tmp_path / "c" / "test.csv")
    assert again.test.to_numpy().tolist() == rows


def test_rows_are_repeated_under_ids_of_their_own():
    test = pd.DataFrame({ID: ["2", "x"], "prompt": ["a", "b"]})
    competition = Files("rows", test, test, None)
    competition.repeat_test(5)
    expected = [["2", "a"], ["x", "b"], ["1", "a"], ["3", "b"], ["4", "a"]]
    assert competition.test.to_numpy().tolist() == expected
    competition.repeat_test(1)
    assert competition.test.to_numpy().tolist() == [["2", "a"]]


@pytest.mark.parametrize("batch_size", [2, 7, 16])
def test_processes_cannot_share_the_last_batch(arena, batch_size):
    competition = read_competition(arena / "train.csv", arena / "test.csv")
    config = load_config("tiny", overrides=[f"training.batch_size={batch_size}"])
    competition.make_uneven(config)
    pairs = as_pairs(competition.train)
    held = held_out(pairs, config.training.validation_fraction, config.seed)
    assert (~held).sum() % batch_size == 1
    assert 20 < len(pairs) <= 120
    assert len(competition.test) == 23
    competition.make_uneven(config)
    assert (len(competition.train), len(competition.test)) == (len(pairs), 23)


def test_uneven_rows_may_hold_a_plain_text_that_looks_like_a_json_list(arena):
    files = read_competition(arena / "train.csv", arena / "test.csv", None, RULES[WSDM])
    files.train.loc[files.train.index[3], "response_a"] = '["an", "answer"]'
    config = load_config("tiny", overrides=["training.batch_size=16"])
    files.make_uneven(config)
    pairs = read_pairs(files.train, labels=True, format="wsdm")
    assert (~held_out(pairs, config.training.validation_fraction, config.seed)).sum() % 16 == 1
