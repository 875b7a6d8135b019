"""The files that turn a run's models into an artifact, and what is told about it."""

from types import SimpleNamespace

import numpy as np
import pytest

from humanpref.config import load_config
from humanpref.data import read_training_rows
from humanpref.files import read_json, write_json
from humanpref.runs.artifact_tables import read_oof, write_oof
from humanpref.runs.results import FoldModel, class_rates, notices, selection_path, write_results
from humanpref.schema import LABEL_COLUMNS, InputError


def test_class_rates_are_weighted(pairs):
    some = pairs[:10].assign(weight=np.arange(10.0))
    labels = some[list(LABEL_COLUMNS)].to_numpy()
    np.testing.assert_allclose(class_rates(some), np.arange(10) @ labels / 45)


def test_folds_are_put_together(arena, tmp_path):
    rows, config = read_training_rows(arena / "train.csv"), load_config("prior")
    later = np.arange(len(rows.pairs)) >= 50
    models = [FoldModel("fold-0", 0, ~later, config), FoldModel("fold-1", 1, later, config)]
    records = [
        {"prior": [0.5, 0.25, 0.25], "seconds": 2.0, "training": {"seconds_per_step": 1.0}},
        {"prior": [0.2, 0.4, 0.4], "seconds": 3.0, "training": {"seconds_per_step": 2.0}},
    ]
    for model, record in zip(models, records, strict=True):
        folder = tmp_path / model.name
        folder.mkdir()
        held = rows.pairs[model.held].reset_index(drop=True)
        write_oof(folder / "oof.csv", held, np.tile(record["prior"], (len(held), 1)), 0)
        write_json(folder / "member.json", record)
    write_results(models, rows, "digest", tmp_path)
    oof = read_oof(tmp_path / "oof.csv")
    assert oof["id"].tolist() == rows.pairs["id"].tolist()
    np.testing.assert_array_equal(oof["fold"], later)
    np.testing.assert_allclose(oof[LABEL_COLUMNS[0]], np.where(later, 0.2, 0.5))
    metrics = read_json(tmp_path / "metrics.json")
    assert (metrics["held_out"], metrics["seconds"]) == ("out of fold", 5.0)
    assert metrics["seconds_per_step"] == 1.5
    assert metrics["log_loss"] == pytest.approx(metrics["prior_log_loss"])
    facts = read_json(tmp_path / "artifact.json")
    assert facts["members"] == ["fold-0", "fold-1"]
    assert facts["training_rows"] == len(rows.pairs)


def test_notices_tell_of_what_a_run_did_not_do():
    metrics = {
        "members": {
            "fold-0": {"training": {"stopped": "after 60 s"}},
            "fold-1": {"training": {}, "blend": {"left_out": ["embedding"]}},
        }
    }
    stopped, left_out = notices(metrics)
    assert stopped == "fold-0: training stopped after 60 s"
    assert left_out.startswith("fold-1: blended without embedding, which needs a model folder")


def test_the_steps_of_a_selection_name_their_model(tmp_path):
    artifact = SimpleNamespace(folder=tmp_path, members=[tmp_path / "fold-0", tmp_path / "fold-1"])
    with pytest.raises(InputError, match="its models selected no columns"):
        selection_path(artifact)
    for member in artifact.members:
        member.mkdir()
        (member / "selection.csv").write_text("step\n1\n2\n")
    assert selection_path(artifact)["model"].tolist() == ["fold-0"] * 2 + ["fold-1"] * 2
