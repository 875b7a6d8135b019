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


def test_the_command_is_kept_without_the_paths_in_it(arena, tmp_path, monkeypatch):
    (tmp_path / "my models").mkdir()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub" / "with space").mkdir(parents=True)
    given = ["train", "--train", str(arena / "train.csv"), "--out=~/a b", "sub/with space"]
    given += ["--set", "seed=1", "model.question=A, B/C or D?", "model.learning_rate=0.1"]
    given += ["--extra", "/home/ada/x.csv=0.5", "plain:/home/ada l/x.csv", "plain:../a=b/x.csv=2"]
    given += ["--teacher=/home/ada/soft=0.25", "sub/x.csv=1e-3", "small:model.backbone=/home/ada/e"]
    given += ['model.members=["tiny", "embedding model.backbone=/home/ada/e seed=1"]']
    backbones = ["model.backbone=org/tiny", f"model.backbone={tmp_path}/my models"]
    monkeypatch.setattr("sys.argv", ["/opt/bin/humanpref", *given, *backbones])
    artifact = train(load_config("prior"), arena / "train.csv", tmp_path / "prior", None)
    assert artifact.facts["command"] == [
        *("humanpref", "train", "--train", "train.csv", "--out=a b", "with space"),
        *("--set", "seed=1", "model.question=A, B/C or D?", "model.learning_rate=0.1"),
        *("--extra", "x.csv=0.5", "plain:x.csv", "plain:x.csv=2"),
        *("--teacher=soft=0.25", "x.csv=1e-3", "small:model.backbone=./e"),
        'model.members=["tiny", "embedding model.backbone=./e seed=1"]',
        *("model.backbone=org/tiny", "model.backbone=./my models"),
    ]
