"""An artifact on disk: what was cut off, edited or doubled is refused by file, row and column, and
never used; its models predict one after the other."""

import json
import math
import shutil

import numpy as np
import pandas as pd
import pytest

from humanpref.config import load_config
from humanpref.data import read_pairs, write_pairs
from humanpref.data.sources import Extra
from humanpref.runs.artifact import Artifact, load_model
from humanpref.runs.artifact_files import seal
from humanpref.runs.blending import blend
from humanpref.runs.train import train
from humanpref.schema import InputError

PRIOR = load_config("prior")
NO_PRIORS = (
    *([math.nan, 0, 0], [math.inf, 0, 0], [0, 0, 0], [-1, 1, 1], [1, 0, 0, 0], ["1", 0, 0]),
    *([0.5, 0.4, 0.4], [0.3, 0.3, 0.3]),
)
NO_NAMES = (
    *(["/root/.ssh"], [".."], ["."], ["a/../../b"], ["a/b"], ["a", "a"], [""], [".ssh"], [1]),
    *(["a\0b"], "model", {"model": 1}),
)


@pytest.fixture(scope="module")
def trained(arena, tmp_path_factory):
    return train(PRIOR, arena / "train.csv", tmp_path_factory.mktemp("artifact") / "a", folds=2)


@pytest.fixture
def artifact(trained, tmp_path):
    return Artifact.load(shutil.copytree(trained.folder, tmp_path / "a"))


def resealed(artifact):
    """The artifact, as if its files had been written as they are now."""
    seal(artifact.folder, artifact.facts)
    return Artifact.load(artifact.folder)


def cell(row, column, value):
    def edit(path):
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        table.loc[row, column] = value
        table.to_csv(path, index=False)

    return edit


def without(column):
    return lambda path: pd.read_csv(path, dtype=str).drop(columns=column).to_csv(path, index=False)


def doubled(path):
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[3]]) + "\n")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda path: path.write_text(""), "not a valid CSV .*is it complete"),
        (lambda path: path.write_bytes(b"\xff\xfe\x00"), "not a valid CSV"),
        (lambda path: path.write_text(path.read_text() + "9,9,9,9,9,9,9,9,9\n"), "not a valid CSV"),
        (
            lambda path: path.write_text(path.read_text()[:4000]),
            r"row \d+ \(id '.*'\): column '.*': expected",
        ),
        (
            lambda path: path.write_text("".join(path.read_text().splitlines(True)[:-1])),
            "expected at least 120 rows, got 119",
        ),
        (without("id"), "missing column 'id'"),
        (without("winner_tie"), "missing column 'winner_tie'"),
        (doubled, r"row 121 .*: column 'id': expected each row once"),
        (
            cell(2, "winner_tie", "nan"),
            r"row 3 \(id '.*'\): column 'winner_tie': expected a number in \[0, 1\], got 'nan'",
        ),
        (cell(0, "winner_model_a", "x"), r"row 1 .*: column 'winner_model_a': .* got 'x'"),
        (cell(0, "winner_model_a", "5"), r"row 1 .*: column 'winner_model_a': .* got '5'"),
        (
            cell(0, "winner_model_a", "0.55"),
            r"row 1 .*: the probabilities: expected a sum of 1, got",
        ),
    ],
)
@pytest.mark.parametrize("table", ["oof", "rows"])
def test_a_table_that_was_changed_is_refused(artifact, table, edit, message):
    path = artifact.folder / f"{table}.csv"
    assert len(getattr(artifact, table)) == 120
    edit(path)
    with pytest.raises(InputError, match=f"{table}.csv: damaged or changed since it was written"):
        getattr(Artifact.load(artifact.folder), table)
    with pytest.raises(InputError, match=message) as caught:
        getattr(resealed(artifact), table)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("table", "edit", "message"),
    [
        ("oof", without("fold"), "missing column 'fold'"),
        (
            "oof",
            cell(4, "fold", "1.5"),
            r"row 5 .*: column 'fold': expected a fold index, got '1.5'",
        ),
        ("rows", without("prompt_key"), "missing column 'prompt_key'"),
        (
            "rows",
            cell(1, "weight", "inf"),
            r"row 2 .*: column 'weight': expected a finite number of at least 0",
        ),
        (
            "rows",
            cell(1, "weight", "-1"),
            r"row 2 .*: column 'weight': expected a finite number of at least 0",
        ),
    ],
)
def test_the_columns_of_one_table(artifact, table, edit, message):
    edit(artifact.folder / f"{table}.csv")
    with pytest.raises(InputError, match=message):
        getattr(resealed(artifact), table)


def test_no_row_may_lack_whatever_was_held_out(arena, pairs, tmp_path):
    """Else a teacher would repeat the label of that row to a student."""
    write_pairs(tmp_path / "more.csv", pairs[:7].assign(prompt=[(f"more {i}",) for i in range(7)]))
    fifth = train(PRIOR, arena / "train.csv", tmp_path / "fifth")
    extra = train(
        PRIOR,
        arena / "train.csv",
        tmp_path / "extra",
        folds=2,
        extra=[Extra(tmp_path / "more.csv")],
    )
    whole = train(
        load_config("prior", overrides=["training.validation_fraction=0"]),
        arena / "train.csv",
        tmp_path / "whole",
    )
    both = blend([extra.folder, fifth.folder], tmp_path / "both")
    for artifact, rows in ((fifth, 120), (extra, 127), (whole, 120), (both, 127)):
        assert len(artifact.rows) == rows
        path = artifact.folder / "rows.csv"
        path.write_text("".join(path.read_text().splitlines(True)[:-1]))
        with pytest.raises(
            InputError,
            match=f"rows.csv: expected at least {rows} rows, got {rows - 1}; is the file",
        ):
            _ = resealed(artifact).rows


def test_metrics_that_are_none(artifact):
    path = artifact.folder / "metrics.json"
    path.write_text("[]")
    with pytest.raises(InputError, match=r"metrics.json: expected a JSON object, got list"):
        _ = resealed(artifact).metrics


def test_a_folds_artifact_predicts_the_mean_of_its_models(arena, tmp_path):
    few = load_config("sparse", None, ["model.term_penalties=10", "model.structure_penalties=100"])
    folds_artifact = train(few, arena / "train.csv", tmp_path / "artifact", folds=3)
    rows = read_pairs(arena / "test.csv")
    each = [
        load_model(folds_artifact.folder / f"fold-{fold}").predict_proba(rows) for fold in range(3)
    ]
    np.testing.assert_allclose(
        folds_artifact.predict_proba(rows), np.mean(each, axis=0), atol=1e-12
    )


def test_what_is_not_an_artifact(tmp_path):
    with pytest.raises(InputError, match=r"not an artifact; it has no artifact\.json"):
        Artifact.load(tmp_path)
    for facts, message in (
        ({"format": 99}, "expected format 1, got 99"),
        ({"format": 1}, "key 'members'"),
        ([], "expected format"),
        ({"format": 1, "members": []}, "key 'members'"),
        *(({"format": 1, "members": names}, "key 'members'") for names in NO_NAMES),
        ({"format": 1, "members": ["m"], "prior": [1]}, "key 'prior'"),
        *(({"format": 1, "members": ["m"], "prior": prior}, "key 'prior'") for prior in NO_PRIORS),
        (
            {"format": 1, "members": ["m"], "prior": [1, 0, 0]},
            "key 'family': expected one of prior, sparse.* got None",
        ),
        ({"format": 1, "members": ["m"], "prior": [1, 0, 0], "family": ["sparse"]}, "key 'family'"),
        (
            {"format": 1, "members": ["m"], "prior": [1, 0, 0], "family": "spares"},
            "key 'family'.* got 'spares'",
        ),
    ):
        (tmp_path / "artifact.json").write_text(json.dumps(facts))
        with pytest.raises(InputError, match=message):
            Artifact.load(tmp_path)
