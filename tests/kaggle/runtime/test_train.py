"""What the training kernel calls: the run's configuration, what an earlier version left, and the
status that it writes."""

import json

import pandas as pd
import pytest

from humanpref.config import load_config
from humanpref.files import read_json, write_json
from humanpref.kaggle.competitions import WSDM
from humanpref.kaggle.contract import UNFINISHED, KernelRun
from humanpref.kaggle.runtime import launch
from humanpref.kaggle.runtime.infer import infer
from humanpref.kaggle.runtime.train import resolve, resume_earlier_run, train
from humanpref.runs.artifact import Artifact
from humanpref.runs.artifact_files import RUN_FILE, partial_of, seal
from humanpref.schema import ID, MODEL_COLUMNS, TEXT_COLUMNS, InputError

from ..tree import Tree


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path / "kaggle")


def leave(folder, run, text):
    """What an earlier version of the kernel left in a folder."""
    folder.mkdir(parents=True)
    write_json(folder / RUN_FILE, run)
    (folder / "weights").write_text(text)


def test_the_artifact_and_the_status_of_a_training(tree, caplog):
    write_json(tree.working / "status.json", {"manifest": "abc"})
    with caplog.at_level("INFO"):
        train(tree.input, tree.working, {"preset": "prior"}, install_seconds=2.5)
    status = read_json(tree.working / "status.json")
    assert (status["manifest"], status["degraded"]) == ("abc", [])
    assert status["peak_memory_bytes"] > 0
    artifact = Artifact.load(tree.working / "artifact")
    assert artifact.prior == pytest.approx(list(tree.rates), abs=0.05)
    # Every family's held-out score is in the log.
    metrics = artifact.metrics
    told = f"validation: {metrics['rows']} rows, log loss {metrics['log_loss']:.4f}, the prior's "
    assert told in caplog.text


@pytest.mark.slow
def test_a_text_of_a_competition_with_plain_texts_may_look_like_a_json_list(tree):
    """The kernel and the processes that it starts know the competition's format."""
    pytest.importorskip("pyarrow")
    rows = {name: [f"{name} {n}" for n in range(20)] for name in (ID, *TEXT_COLUMNS)}
    frame = pd.DataFrame(rows).assign(winner=[*MODEL_COLUMNS] * 10, language="English")
    frame.loc[3, "response_a"] = '["an", "answer"]'
    folder = tree.competition.with_name(WSDM)
    folder.mkdir()
    frame.to_parquet(folder / "train.parquet")
    train(tree.input, tree.working, {"preset": "prior", "competition": WSDM})
    assert Artifact.load(tree.working / "artifact").prior == (0.5, 0.5, 0.0)


def test_the_status_of_a_training_that_ran_out_of_time(tree, monkeypatch, caplog):
    orders = []
    monkeypatch.setattr(launch, "train", lambda *order: orders.append(order))
    run = {"preset": "sparse", "folds": 2, "train_seconds": 600.0}
    train(tree.input, tree.working, run, install_seconds=100)
    ((planned, seconds, descent),) = orders
    out = tree.working / "artifact"
    assert planned.config == load_config("sparse")
    assert (planned.source, planned.out) == (str(tree.competition / "train.csv"), out)
    assert [model.name for model in planned.models] == ["fold-0", "fold-1"]
    assert 400 < seconds < 500
    assert descent == 0.85 * 600
    status = read_json(tree.working / "status.json")
    assert status["degraded"] == ["ran out of time: no model can predict yet"]
    assert f"{UNFINISHED} stopped after" in caplog.text


def test_folds_that_were_trained_in_time_predict(tree, monkeypatch, caplog):
    """The work is resumable, an artifact of the trained folds, and says how many of them it has."""

    def one_fold(run, *_):
        with run.opened():
            run.train_model(run.models[0])

    whole = launch.train
    monkeypatch.setattr(launch, "train", one_fold)
    run = {"preset": "prior", "folds": 2}
    train(tree.input, tree.working, run)
    status = read_json(tree.working / "status.json")
    told = "only 1 of 2 models were trained"
    assert status["degraded"] == [f"ran out of time: {told}"]
    left = Artifact.load(tree.working / "artifact.partial")
    metrics = left.metrics
    score = f"{metrics['rows']} rows, log loss {metrics['log_loss']:.4f}, the prior's "
    (line,) = (line for line in caplog.messages if UNFINISHED in line)
    assert f"s: {told} (validation: {score}" in line

    tree.kernel.parent.mkdir(parents=True)
    left.folder.rename(tree.kernel.parent / "artifact.partial")
    infer(tree.input, tree.working, tree.test_csv, [0.4, 0.3, 0.3])
    mounted = tree.kernel.parent / "artifact.partial"
    status = read_json(tree.working / "status.json")
    assert status["degraded"] == [f"{mounted}: {told}"]
    (used,) = status["artifacts"]
    assert (used["folder"], used["rows"]) == (str(mounted), len(tree.ids))
    assert used["log_loss"] == metrics["log_loss"]

    monkeypatch.setattr(launch, "train", whole)
    train(tree.input, tree.working, run)
    assert Artifact.load(tree.working / "artifact").shortfall == ""
    assert read_json(tree.working / "status.json")["degraded"] == []


def test_work_that_cannot_be_made_an_artifact_is_kept(tree, monkeypatch, caplog):
    def one_fold(run, *_):
        with run.opened():
            run.train_model(run.models[0])
        (run.work / "oof.csv").mkdir()

    monkeypatch.setattr(launch, "train", one_fold)
    train(tree.input, tree.working, {"preset": "prior", "folds": 2})
    status = read_json(tree.working / "status.json")
    assert status["degraded"] == ["ran out of time: no model can predict yet"]
    assert "cannot write an artifact of the finished models" in caplog.text
    assert (tree.working / "artifact.partial" / "fold-0" / "member.json").is_file()


def test_an_artifact_that_an_earlier_version_left_is_not_trained_again(tree, monkeypatch):
    train(tree.input, tree.working, {"preset": "prior"})
    left = tree.working / "artifact"
    tree.kernel.parent.mkdir(parents=True)
    left.rename(tree.kernel.parent / "artifact")
    monkeypatch.delattr(launch, "train")
    train(tree.input, tree.working, {"preset": "prior"})
    assert (left / "artifact.json").is_file()


def test_an_artifact_comes_before_unfinished_work(tmp_path):
    run, out = {"folds": 2}, tmp_path / "working" / "artifact"
    leave(tmp_path / "input" / "a" / "artifact.partial", run, "unfinished")
    finished = tmp_path / "input" / "b" / "artifact"
    leave(finished, run, "finished")
    (finished / "m").mkdir()
    (finished / "m" / "config.json").write_text("{}")
    seal(finished, {"format": 1, "members": ["m"], "prior": [1, 0, 0], "family": "prior"})
    (finished / "notes").write_text("not of the artifact")
    resume_earlier_run(run, tmp_path / "input", out)
    assert (out / "weights").read_text() == "finished"
    assert not (out / "notes").exists()
    assert not partial_of(out).exists()


def test_unfinished_work_is_resumed(tmp_path, caplog):
    run, out = {"folds": 2}, tmp_path / "working" / "artifact"
    leave(tmp_path / "input" / "a" / "artifact.partial", {"folds": 3}, "of another run")
    leave(tmp_path / "input" / "b" / "deeper" / "artifact.partial", run, "unfinished")
    resume_earlier_run(run, tmp_path / "input", out)
    assert not out.exists()
    assert (partial_of(out) / "weights").read_text() == "unfinished"
    assert "a/artifact.partial: ignored, since its run had a different" in caplog.text


def test_nothing_to_resume(tmp_path):
    out = tmp_path / "artifact"
    leave(tmp_path / "input" / "artifact", {"folds": 3}, "of another run")
    leave(tmp_path / "input" / "other", {"folds": 2}, "of another name")
    resume_earlier_run({"folds": 2}, tmp_path / "input", out)
    assert not out.exists()
    assert not partial_of(out).exists()


def test_a_packed_backbone_is_checked(tmp_path):
    folder = tmp_path / "weights" / "some-model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({}))
    with pytest.raises(InputError, match="expected the manifest with SHA-256 abc, got none"):
        resolve(KernelRun("tiny", (), "some-model", "abc"), tmp_path)
