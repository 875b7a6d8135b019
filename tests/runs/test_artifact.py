"""An artifact on disk: what was cut off, edited or doubled is refused by file, row and column, and
never used; its models predict one after the other."""

import itertools
import json
import shutil

import numpy as np
import pytest

from humanpref.config import load_config
from humanpref.data import read_pairs, write_pairs
from humanpref.data.sources import Extra
from humanpref.runs.artifact import Artifact, load_model
from humanpref.runs.artifact_files import seal
from humanpref.runs.blending import blend
from humanpref.runs.train import Run, train
from humanpref.schema import InputError

PRIOR = load_config("prior")
NO_RATES = ([0, 0, 0], [-1, 1, 1], [1, 0, 0, 0], ["x", 0, 0], [0.5, 0.4, 0.4], None, 1)
NO_NAMES = (
    *(["/root/.ssh"], [".."], ["."], ["../b"], ["fold-0/../../b"], [""], [".ssh"], [1], ["a\0b"]),
    *([], "model", {"model": 1}),
)


@pytest.fixture(scope="module")
def trained(arena, tmp_path_factory):
    return train(PRIOR, arena / "train.csv", tmp_path_factory.mktemp("artifact") / "a", folds=2)


@pytest.fixture
def artifact(trained, tmp_path):
    return Artifact.load(shutil.copytree(trained.folder, tmp_path / "a"))


@pytest.mark.parametrize("table", ["oof", "rows"])
def test_a_table_that_was_changed_is_refused(artifact, table):
    path = artifact.folder / f"{table}.csv"
    assert len(getattr(artifact, table)) == 120
    path.write_text("".join(path.read_text().splitlines(True)[:-1]))
    with pytest.raises(InputError, match=f"{table}.csv: damaged or changed since it was written"):
        getattr(Artifact.load(artifact.folder), table)


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


def test_an_unfinished_run_is_not_an_artifact(arena, tmp_path):
    run = Run.plan(load_config("prior"), arena / "train.csv", tmp_path / "a", folds=2)
    with run.opened():
        run.train_model(run.unfinished()[0])
    told = "its training run is unfinished; start it again with the same command to resume it"
    for folder, load in itertools.product((run.out, run.work), (Artifact.load, load_model)):
        with pytest.raises(InputError, match=rf"^{folder}: {told} from {run.work}$"):
            load(folder)
    finished = train(load_config("prior"), arena / "train.csv", run.out, folds=2)
    assert Artifact.load(run.out).facts == finished.facts


def test_what_is_not_an_artifact(tmp_path):
    with pytest.raises(InputError, match=r"not an artifact; it has no artifact\.json"):
        Artifact.load(tmp_path)
    for facts, message in (
        ({"format": 99}, "expected format 1, got 99"),
        ([], "damaged, or written by a different version of humanpref"),
        ({"format": 1, "members": ["m"]}, "damaged, or written by .*'digests'"),
    ):
        (tmp_path / "artifact.json").write_text(json.dumps(facts))
        with pytest.raises(InputError, match=message):
            Artifact.load(tmp_path)


@pytest.mark.parametrize("rates", NO_RATES)
def test_class_rates_are_checked(artifact, rates):
    seal(artifact.folder, artifact.facts | {"prior": rates})
    with pytest.raises(InputError, match="damaged, or written by a different"):
        Artifact.load(artifact.folder)


@pytest.mark.parametrize("names", NO_NAMES)
def test_models_outside_the_artifact_are_refused(artifact, names, tmp_path):
    """Also if the digests were made for them."""
    (tmp_path / "b").mkdir()
    shutil.copy(artifact.folder / "fold-0" / "config.json", tmp_path / "b")
    shutil.copy(artifact.folder / "fold-0" / "config.json", tmp_path)
    seal(artifact.folder, artifact.facts | {"members": names})
    with pytest.raises(InputError, match="expected models of this artifact, got"):
        Artifact.load(artifact.folder)
