"""The facts of a run in `artifact.json`."""

import pytest

from humanpref.config import load_config
from humanpref.runs.train import train


def test_an_artifact_names_what_wrote_its_models(arena, tmp_path):
    """xgboost-cpu is the same module as xgboost."""
    pytest.importorskip("xgboost")
    few = ["model.max_rounds=2", "model.patience=1", "model.seeds=1"]
    artifact = train(
        load_config("boosted", overrides=few), arena / "train.csv", tmp_path / "boosted", None
    )
    assert {name for name, _ in artifact.written_by} == {"xgboost", "scikit-learn"}
    assert set(artifact.written_by) <= set(artifact.facts["versions"].items())
