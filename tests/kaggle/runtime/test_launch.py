"""The training kernel's processes: their time, their number, and what an earlier version of the
kernel left."""

import os
import re
import shutil
from pathlib import Path

import pytest

from humanpref.config import load_config
from humanpref.data import read_pairs
from humanpref.files import read_json
from humanpref.kaggle.contract import COMPETITION, KernelRun
from humanpref.kaggle.runtime import launch
from humanpref.kaggle.runtime import train as training
from humanpref.kaggle.runtime.train import resolve
from humanpref.models.sparse import SparseModel
from humanpref.runs import train as experiment
from humanpref.runs.artifact import Artifact
from humanpref.schema import InputError
from humanpref.training import device

SPARSE = {"preset": "sparse", "folds": 2}
SECONDS = 600.0


@pytest.fixture
def tree(arena, tmp_path, monkeypatch) -> Path:
    """A made-up /kaggle with the training rows."""
    competition = tmp_path / "input" / COMPETITION
    competition.mkdir(parents=True)
    shutil.copy(arena / "train.csv", competition)
    (tmp_path / "working").mkdir()
    sources = str(Path(experiment.__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", sources)  # where the package is not installed
    return tmp_path


@pytest.fixture
def at_exit(tmp_path, monkeypatch):
    """Let every Python process that is started do something at the very end."""

    def write(statement):
        folder = tmp_path / "site"
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(
            f"""
import atexit, os, sys

def distributed():
    return "torch.distributed" in sys.modules and sys.modules["torch.distributed"].is_initialized()

@atexit.register
def end():
    {statement}
"""
        )
        monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ['PYTHONPATH']}")

    return write


def train(tree: Path, run: dict) -> dict:
    training.train(tree / "input", tree / "working", run)
    return read_json(tree / "working" / "status.json")


def leave(tree: Path, name: str) -> Path:
    """Let what the kernel left be what an earlier version of it left."""
    earlier = tree / "input" / "notebooks" / "someone" / "humanpref-train"
    earlier.mkdir(parents=True, exist_ok=True)
    shutil.move(tree / "working" / name, earlier)
    (tree / "working" / "status.json").unlink(missing_ok=True)
    return earlier / name


def interrupted(tree: Path, monkeypatch) -> None:
    """A run of two folds that ends after the first, as one does that is killed."""
    fit, done = SparseModel.fit, []

    def fit_one(*arguments):
        if done:
            raise KeyboardInterrupt
        done.append(True)
        return fit(*arguments)

    config = resolve(KernelRun("sparse", folds=2), tree / "input")
    rows = tree / "input" / COMPETITION / "train.csv"
    with monkeypatch.context() as patch:
        patch.setattr(SparseModel, "fit", fit_one)
        with pytest.raises(KeyboardInterrupt):
            experiment.train(config, rows, tree / "working" / "artifact", folds=2)


def test_a_later_version_goes_on_where_an_earlier_one_stopped(tree, monkeypatch, capfd):
    interrupted(tree, monkeypatch)
    partial = leave(tree, "artifact.partial")
    before = (partial / "fold-0" / "model.safetensors").stat().st_mtime_ns
    status = train(tree, SPARSE)
    assert status["finished"] is True
    assert "fold-0: already done, skipped" in capfd.readouterr().out
    trained = tree / "working" / "artifact"
    assert Artifact.load(trained).facts["members"] == ["fold-0", "fold-1"]
    assert status["prior"] == list(Artifact.load(trained).prior)
    assert (trained / "fold-0" / "model.safetensors").stat().st_mtime_ns == before
    # Once it is finished, there is nothing to do; other settings are another run.
    leave(tree, "artifact")

    def no(*arguments):
        raise AssertionError("nothing is left to train")

    with monkeypatch.context() as patch:
        patch.setattr(launch, "train", no)
        assert train(tree, SPARSE)["finished"] is True
        assert Artifact.load(trained).facts["members"] == ["fold-0", "fold-1"]
        shutil.rmtree(trained)
        with pytest.raises(AssertionError, match="nothing is left"):
            train(tree, SPARSE | {"overrides": ["seed=7"]})
        rows = tree / "input" / COMPETITION / "train.csv"
        rows.write_text("".join(rows.read_text().splitlines(keepends=True)[:-1]))
        with pytest.raises(AssertionError, match="nothing is left"):
            train(tree, SPARSE)
    assert not trained.exists()


def test_when_the_time_is_over_there_is_no_artifact_and_no_error(tree, capfd, caplog):
    status = train(tree, SPARSE | {"train_seconds": 0.01})
    assert status["finished"] is False
    assert "artifact" not in status
    assert not (tree / "working" / "artifact").exists()
    assert "UNFINISHED: stopped after" in caplog.text


def test_a_training_that_fails_says_why(tree, tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(RuntimeError, match=r"^InputError: .*taken: already exists"):
        launch.train(
            load_config("prior"),
            tree / "input" / COMPETITION / "train.csv",
            tmp_path / "taken",
            None,
            SECONDS,
        )


@pytest.mark.parametrize(
    ("end", "code"),
    [pytest.param("os._exit(3)", "3", marks=pytest.mark.slow), ("os.abort()", r"-6 \(SIGABRT.*\)")],
)
def test_a_training_whose_artifact_is_there_has_succeeded(tree, at_exit, caplog, end, code):
    at_exit(end)
    assert train(tree, SPARSE)["finished"] is True
    assert Artifact.load(tree / "working" / "artifact").facts["members"] == ["fold-0", "fold-1"]
    assert re.search(
        f"the training process ended with {code}, after the artifact was written", caplog.text
    )


def test_an_artifact_of_before_is_no_success(tree, tmp_path, at_exit):
    at_exit("os._exit(3)")
    (tmp_path / "taken").mkdir()
    rows = tree / "input" / COMPETITION / "train.csv"
    with pytest.raises(RuntimeError, match=r"taken: already exists"):
        launch.train(load_config("prior"), rows, tmp_path / "taken", None, SECONDS)


def test_pretrained_weights_need_a_gpu_whatever_the_presets_own_backbone_is(tree, monkeypatch):
    """`humanpref kaggle weights` names them in run.toml."""
    monkeypatch.setattr(device, "lacking", lambda: "none was found")
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Batch")
    for name in ("KAGGLE_IS_COMPETITION_RERUN", device.DRY_RUN):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match="preset tiny: needs a GPU, and none was found"):
        train(tree, {"preset": "tiny", "backbone": "deberta"})


@pytest.mark.parametrize(
    "reason",
    ["none was found", "torch 2.10.0 has no kernels for Tesla P100 (sm_60), only for sm_75"],
)
def test_a_training_that_needs_a_gpu_stops_on_kaggle_without_one(tree, monkeypatch, caplog, reason):
    monkeypatch.setattr(device, "lacking", lambda: reason)
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Batch")
    monkeypatch.delenv("KAGGLE_IS_COMPETITION_RERUN", raising=False)
    run = {"preset": "deberta-v3-small", "backbone": "deberta"}
    with pytest.raises(
        InputError, match=re.escape(f"preset deberta-v3-small: needs a GPU, and {reason}; choose")
    ):
        train(tree, run)
    monkeypatch.setenv(device.DRY_RUN, "1")
    with pytest.raises(
        InputError, match="key backbone: expected one folder 'deberta'"
    ):  # it goes on, to what is wrong next
        train(tree, run)
    assert "needs a GPU" in caplog.text


def test_a_training_that_needs_no_gpu_does_without(tree, monkeypatch):
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Batch")
    monkeypatch.delenv(device.DRY_RUN, raising=False)
    monkeypatch.setattr(device, "lacking", lambda: "none was found")
    begun = []
    monkeypatch.setattr(launch, "train", lambda config, *_: begun.append(config.preset))
    train(tree, {"preset": "deberta-v3-small", "overrides": ["model.backbone=scratch"]})
    monkeypatch.delattr(device, "lacking")  # nobody looks
    train(tree, SPARSE)
    assert begun == ["deberta-v3-small", "sparse"]


def test_gradient_descent_gets_its_share_of_the_time(tmp_path):
    assert resolve(
        KernelRun("tiny", folds=5, train_seconds=1000), tmp_path
    ).training.seconds == pytest.approx(170)
    assert resolve(
        KernelRun("tiny", ("training.seeds=2",)), tmp_path
    ).training.seconds == pytest.approx(0.85 * 11.5 * 1800)
    assert resolve(KernelRun("tiny", ("training.seconds=60",)), tmp_path).training.seconds == 60
    assert resolve(KernelRun("sparse", train_seconds=1000), tmp_path) == load_config("sparse")


def test_only_gradient_descent_is_shared_out(monkeypatch):
    monkeypatch.setattr(device, "gpus", lambda: 2)
    assert launch.processes(load_config("tiny")) == 2
    assert launch.processes(load_config("sparse")) == 1
    monkeypatch.setattr(device, "gpus", lambda: 0)
    assert launch.processes(load_config("tiny")) == 1


@pytest.mark.slow
def test_two_gpus_are_two_processes_of_one_training(tree, monkeypatch, tmp_path, at_exit):
    """Two processes on the CPU stand for those on two T4."""
    pytest.importorskip("accelerate")
    monkeypatch.setattr(device, "gpus", lambda: 2)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    # What is left to the interpreter's end may abort there.
    at_exit(
        f"open({str(tmp_path)!r} + '/rank-' + os.environ.get('RANK', ''), "
        "'w').write(str(distributed()))"
    )
    train(tree, {"preset": "tiny", "overrides": ["training.epochs=1"]})
    assert [(tmp_path / f"rank-{rank}").read_text() for rank in (0, 1)] == ["False", "False"]
    artifact = Artifact.load(tree / "working" / "artifact")
    (member,) = artifact.metrics["members"].values()
    assert member["training"]["processes"] == 2
    pairs = read_pairs(tree / "input" / COMPETITION / "train.csv").head(4)
    assert artifact.predict_proba(pairs).shape == (4, 3)
