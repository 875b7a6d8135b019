"""The training kernel's processes: their time, their number, and what an earlier version of the
kernel left."""

import json
import os
import re
import shutil
import threading
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from humanpref.config import load_config
from humanpref.data import read_pairs
from humanpref.files import read_json
from humanpref.kaggle.competitions import DEFAULT
from humanpref.kaggle.contract import KernelRun
from humanpref.kaggle.runtime import launch
from humanpref.kaggle.runtime import train as training
from humanpref.kaggle.runtime.train import resolve
from humanpref.models.sparse import SparseModel
from humanpref.runs import train as experiment
from humanpref.runs.artifact import Artifact
from humanpref.runs.artifact_files import partial_of
from humanpref.runs.train import Run
from humanpref.schema import LABEL_COLUMNS, InputError
from humanpref.training import device

SPARSE = {"preset": "sparse", "folds": 2}
SECONDS = 600.0


@pytest.fixture
def tree(arena, tmp_path, monkeypatch) -> Path:
    """A made-up /kaggle with the training rows."""
    competition = tmp_path / "input" / DEFAULT
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
    rows = tree / "input" / DEFAULT / "train.csv"
    with monkeypatch.context() as patch:
        patch.setattr(SparseModel, "fit", fit_one)
        with pytest.raises(KeyboardInterrupt):
            experiment.train(config, rows, tree / "working" / "artifact", folds=2)


@pytest.mark.slow
def test_a_later_version_goes_on_where_an_earlier_one_stopped(tree, monkeypatch, caplog):
    caplog.set_level("INFO")
    interrupted(tree, monkeypatch)
    partial = leave(tree, "artifact.partial")
    before = (partial / "fold-0" / "model.safetensors").stat().st_mtime_ns
    train(tree, SPARSE)
    assert "fold-0: already done, skipped" in caplog.text
    trained = tree / "working" / "artifact"
    assert Artifact.load(trained).facts["members"] == ["fold-0", "fold-1"]
    assert (trained / "fold-0" / "model.safetensors").stat().st_mtime_ns == before
    # Once it is finished, there is nothing to do; other settings are another run.
    leave(tree, "artifact")

    def no(*arguments):
        raise AssertionError("nothing is left to train")

    with monkeypatch.context() as patch:
        patch.setattr(launch, "train", no)
        assert train(tree, SPARSE)["degraded"] == []
        assert Artifact.load(trained).facts["members"] == ["fold-0", "fold-1"]
        shutil.rmtree(trained)
        with pytest.raises(AssertionError, match="nothing is left"):
            train(tree, SPARSE | {"overrides": ["seed=7"]})
        rows = tree / "input" / DEFAULT / "train.csv"
        rows.write_text("".join(rows.read_text().splitlines(keepends=True)[:-1]))
        with pytest.raises(AssertionError, match="nothing is left"):
            train(tree, SPARSE)
    assert not trained.exists()


def test_when_the_time_is_over_there_is_no_artifact_and_no_error(tree, capfd, caplog):
    status = train(tree, SPARSE | {"train_seconds": 0.01})
    assert status["degraded"] == ["ran out of time: no model can predict yet"]
    assert not (tree / "working" / "artifact").exists()
    assert "UNFINISHED: stopped after" in caplog.text


def planned(tree: Path, preset: str, *overrides: str, folds: int | None = None) -> Run:
    rows = tree / "input" / DEFAULT / "train.csv"
    config = load_config(preset, overrides=overrides)
    return Run.plan(config, rows, tree / "working" / "artifact", folds)


def test_a_training_that_fails_says_why(tree):
    run = planned(tree, "sparse")
    rows = tree / "input" / DEFAULT / "train.csv"
    rows.write_text("id\n1\n")
    with pytest.raises(RuntimeError, match=r"^InputError: .*train.csv: expected the columns"):
        launch.train(run, SECONDS, SECONDS)
    assert list((tree / "working").iterdir()) == []


@pytest.mark.parametrize(
    ("end", "code"),
    [pytest.param("os._exit(3)", "3", marks=pytest.mark.slow), ("os.abort()", r"-6 \(SIGABRT.*\)")],
)
def test_a_training_whose_artifact_is_there_has_succeeded(tree, at_exit, caplog, end, code):
    at_exit(end)
    train(tree, SPARSE)
    assert Artifact.load(tree / "working" / "artifact").facts["members"] == ["fold-0", "fold-1"]
    assert re.search(
        f"fold-1: the training process ended with {code}, after the model was written", caplog.text
    )


def test_a_folder_that_is_taken_is_not_trained_into(tree):
    run = planned(tree, "prior")
    run.out.mkdir()
    with pytest.raises(InputError, match=r"artifact: already exists"):
        launch.train(run, SECONDS, SECONDS)
    run.out.rmdir()
    with run.opened(), pytest.raises(InputError, match="another process is training here"):
        launch.train(run, SECONDS, SECONDS)


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
    monkeypatch.setattr(launch, "train", lambda run, *_: begun.append(run.config.preset))
    train(tree, {"preset": "deberta-v3-small", "overrides": ["model.backbone=scratch"]})
    monkeypatch.delattr(device, "lacking")  # nobody looks
    train(tree, SPARSE)
    assert begun == ["deberta-v3-small", "sparse"]


STAND_IN = """
import json, os, signal, sys, time

if "humanpref.kaggle.runtime.launch" in sys.orig_argv:
    order, started = json.loads(sys.orig_argv[-1]), time.time()
    name, behavior = order["model"], {behavior!r}.get(order["model"], "")
    folder = order["out"] + ".partial"
    open(os.path.join(folder, ".begun-" + name), "w").close()
    if behavior.startswith("outlasts "):
        other = os.path.join(folder, ".begun-" + behavior.split()[1])
        while not os.path.exists(other) and time.time() < started + 60:
            time.sleep(0.01)
        time.sleep(1.5)
    if behavior == "loses a process":
        print("training failed: RuntimeError: the connection was closed")
        print("Root Cause (first observed failure):")
        print("  exitcode  : -9 (pid: 29)  (SIGKILL)", flush=True)
        os._exit(1)
    if behavior == "fails":
        print("training failed: ValueError: no luck", flush=True)
        os._exit(1)
    if behavior == "is killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if behavior == "hangs":
        time.sleep(60)
    os.mkdir(os.path.join(folder, name))
    gpu, seconds = os.environ.get("CUDA_VISIBLE_DEVICES"), order["config"]["training"]["seconds"]
    print("journal " + json.dumps([name, gpu, seconds, started, time.time()]), flush=True)
    os._exit(0)
"""


@pytest.fixture
def stand_ins(tmp_path, monkeypatch, capfd):
    """Let quick stand-ins take the place of the training processes; the models named in `behave`
    fail, are killed, hang, or outlast another's beginning. `journal` returns the model, the GPU,
    the limit, the start and the end of each that finished."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(Run, "finish", lambda run: run.work.rename(run.out))

    class StandIns:
        printed = ""

        def behave(self, **behavior):
            folder = tmp_path / "site"
            folder.mkdir(exist_ok=True)
            names = {name.replace("_", "-"): how for name, how in behavior.items()}
            text = STAND_IN.replace("{behavior!r}", repr(names))
            (folder / "sitecustomize.py").write_text(text)
            monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ['PYTHONPATH']}")

        def journal(self):
            self.printed = capfd.readouterr().out
            lines = [line.partition("journal ")[2] for line in self.printed.splitlines()]
            return [json.loads(line) for line in lines if line]

    stand_ins = StandIns()
    stand_ins.behave()
    return stand_ins


@pytest.fixture
def gpus(monkeypatch):
    """Set the number of GPUs."""
    return lambda number: monkeypatch.setattr(device, "gpus", lambda: number)


def test_each_gpu_trains_one_fold_at_a_time(tree, stand_ins, gpus):
    gpus(2)
    stand_ins.behave(fold_0="outlasts fold-1")
    run = planned(tree, "tiny", folds=5)
    launch.train(run, SECONDS, 300)
    made = stand_ins.journal()
    assert sorted(name for name, *_ in made) == [model.name for model in run.models]
    spans = {gpu: [span for _, own, _, *span in made if own == gpu] for gpu in ("0", "1")}
    assert sum(map(len, spans.values())) == 5
    for own in spans.values():
        assert all(first[1] <= second[0] for first, second in pairwise(own))
    begun = {name: (start, end) for name, *_, start, end in made}
    assert begun["fold-0"][1] > begun["fold-1"][0]
    # The GPU with more models has to train three.
    assert {seconds for _, _, seconds, *_ in made} == {100}
    assert "fold-3: journal" in stand_ins.printed
    made = {path.name for path in run.out.iterdir() if not path.name.startswith(".")}
    assert made == {"run.json", *(model.name for model in run.models)}


def test_seeds_are_trained_like_folds(tree, stand_ins, gpus):
    gpus(2)
    launch.train(planned(tree, "tiny", "training.seeds=2"), SECONDS, 300)
    made = stand_ins.journal()
    assert {(name, seconds) for name, _, seconds, *_ in made} == {
        ("model-seed-42", 300),
        ("model-seed-43", 300),
    }
    assert {gpu for _, gpu, *_ in made} == {"0", "1"}


def test_without_a_second_gpu_folds_are_trained_in_a_row(tree, stand_ins, gpus):
    gpus(1)
    launch.train(planned(tree, "tiny", folds=2), SECONDS, 300)
    (first, second), printed = stand_ins.journal(), stand_ins.printed
    assert (first[:3], second[:3]) == (["fold-0", None, 150], ["fold-1", None, 150])
    assert first[4] <= second[3]
    assert "fold-0: journal" not in printed


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        pytest.param("fails", "^fold-1: ValueError: no luck$", marks=pytest.mark.slow),
        ("is killed", r"^fold-1: the training process ended with -9 \(SIGKILL; out of memory\?\)$"),
        pytest.param(
            "loses a process",
            r"^fold-1: the training process ended with -9 \(SIGKILL; .*\)$",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_fold_that_fails_costs_no_other_fold(tree, stand_ins, gpus, how, reason):
    gpus(2)
    stand_ins.behave(fold_0="outlasts fold-1", fold_1=how)
    run = planned(tree, "tiny", folds=4)
    with pytest.raises(RuntimeError, match=reason):
        launch.train(run, SECONDS, 300)
    # What was being trained is finished, and nothing more is begun.
    assert [name for name, *_ in stand_ins.journal()] == ["fold-0"]
    left = {path.name for path in partial_of(run.out).iterdir()}
    assert left == {"run.json", "fold-0", ".begun-fold-0", ".begun-fold-1"}
    # A later version that has one GPU goes on from there.
    gpus(1)
    stand_ins.behave()
    launch.train(planned(tree, "tiny", folds=4), SECONDS, 300)
    assert [name for name, *_ in stand_ins.journal()] == ["fold-1", "fold-2", "fold-3"]
    assert run.out.is_dir()


def test_when_time_runs_out_finished_folds_are_kept(tree, stand_ins, gpus, monkeypatch):
    gpus(2)
    stand_ins.behave(fold_1="hangs", fold_2="hangs")
    run, started = planned(tree, "tiny", folds=3), time.monotonic()

    class Alarm(threading.Thread):
        """Goes off once the first fold is done; it is never time for the second alarm."""

        def __init__(self, seconds, act):
            super().__init__(daemon=True)
            self.seconds, self.act = seconds, act

        def run(self):
            while self.seconds == SECONDS and not (run.work / "fold-0").is_dir():
                time.sleep(0.01)
            if self.seconds <= SECONDS:
                self.act()

        def cancel(self): ...

    monkeypatch.setattr(launch.time, "monotonic", lambda: 0.0)
    monkeypatch.setattr(launch.threading, "Timer", Alarm)
    launch.train(run, SECONDS, 300)
    monkeypatch.undo()
    assert time.monotonic() - started < 50
    assert not run.out.exists()
    assert {path.name for path in run.work.glob("fold-*")} == {"fold-0"}


def test_an_interrupted_kernel_ends_its_processes(tree, stand_ins, gpus, monkeypatch):
    gpus(2)
    stand_ins.behave(fold_0="hangs", fold_1="hangs")
    interrupt = launch.ThreadPoolExecutor.map

    def interrupted(pool, *arguments):
        results = interrupt(pool, *arguments)
        time.sleep(0.3)
        raise KeyboardInterrupt
        yield from results

    monkeypatch.setattr(launch.ThreadPoolExecutor, "map", interrupted)
    run, started = planned(tree, "tiny", folds=2), time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        launch.train(run, SECONDS, 300)
    assert time.monotonic() - started < 50
    assert not list(run.out.parent.glob("**/fold-*"))


def test_a_base_is_hashed_before_the_processes_that_need_it(
    tree, stand_ins, gpus, monkeypatch, decoder_folder
):
    pytest.importorskip("transformers")
    gpus(2)
    hashed = []
    monkeypatch.setattr("humanpref.models.checkpoint.base_digest", hashed.append)
    run = planned(tree, "llama-3.2-1b-lora", f"model.backbone={decoder_folder()}", folds=2)
    launch.train(run, SECONDS, 300)
    assert hashed == [decoder_folder()]
    assert len(stand_ins.journal()) == 2


def test_a_limit_of_the_configuration_comes_first():
    limited = load_config("tiny", overrides=["training.seconds=60"])
    assert launch.with_limit(limited, 100) == limited
    assert launch.with_limit(load_config("sparse"), 100) == load_config("sparse")
    assert launch.with_limit(load_config("tiny"), 100).training.seconds == 100


def test_only_gradient_descent_is_shared_out(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    monkeypatch.setattr(device, "gpus", lambda: 2)
    assert launch.processes(load_config("tiny")) == 2
    assert launch.processes(load_config("deberta-v3-base")) == 2
    # Sending the gradients takes longer than the second GPU saves.
    assert launch.processes(load_config("deberta-best")) == 1
    assert launch.places(load_config("tiny")) == ["3", "5"]
    assert launch.processes(load_config("sparse")) == 1
    assert launch.places(load_config("sparse")) == [""]
    monkeypatch.setattr(device, "gpus", lambda: 0)
    assert launch.processes(load_config("tiny")) == 1
    assert launch.places(load_config("tiny")) == [""]


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
    # Held-out predictions, which the last validation made, are those of the model.
    pairs, oof = read_pairs(tree / "input" / DEFAULT / "train.csv"), artifact.oof
    held = pairs.set_index("id").loc[oof["id"]].reset_index()
    predicted = artifact.predict_proba(held)
    np.testing.assert_allclose(oof[list(LABEL_COLUMNS)], predicted, atol=1e-9)


@pytest.mark.slow
def test_folds_on_two_gpus_are_those_of_one_process(tree, gpus, monkeypatch, capfd):
    pytest.importorskip("accelerate")
    gpus(2)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    settings = ("training.epochs=1", "model.scratch_hidden_size=16")
    run = planned(tree, "tiny", *settings, folds=3)
    launch.train(run, SECONDS, SECONDS)
    assert "fold-2: model 3 of 3" in capfd.readouterr().out
    alone = experiment.train(run.config, run.source, tree / "alone", folds=3)
    made = Artifact.load(run.out)
    assert made.facts["members"] == alone.facts["members"]
    for name in ("oof.csv", "rows.csv", *(f"fold-{fold}/model.safetensors" for fold in range(3))):
        assert (run.out / name).read_bytes() == (alone.folder / name).read_bytes()
    trainings = [member["training"] for member in made.metrics["members"].values()]
    assert [training["processes"] for training in trainings] == [1, 1, 1]
    assert [path.name for path in (tree / "working").iterdir()] == ["artifact"]
