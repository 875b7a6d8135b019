"""Both kernels, as programs of their own on a made-up Kaggle tree, and what they call."""

import ast
import csv
import functools
import io
import json
import math
import time
import weakref
import zipfile
from pathlib import Path

import numpy as np
import pytest

from humanpref.config import load_config
from humanpref.data import check_submission, read_pairs
from humanpref.files import sha256, write_json
from humanpref.kaggle.bundle import stage
from humanpref.kaggle.bundle.metadata import fill_manifest, kernel_code
from humanpref.kaggle.contract import COMPETITION, KernelRun
from humanpref.kaggle.rehearsal.environment import make_environment
from humanpref.kaggle.runtime import infer as inference
from humanpref.kaggle.runtime import inputs, launch
from humanpref.kaggle.runtime import workers as predicting
from humanpref.models.blend import write_state
from humanpref.models.blend_weights import Blend
from humanpref.models.budget import LEFT, Budget
from humanpref.runs import train as experiment
from humanpref.runs.blending import blend
from humanpref.runs.predict import predict
from humanpref.schema import ID, LABEL_COLUMNS, InputError
from humanpref.training import device

from ..tree import INFER, PROJECT, TRAIN, Tree, copy_dataset, write_manifest


@pytest.fixture(params=["new", pytest.param("legacy", marks=pytest.mark.slow)])
def tree(request, tmp_path) -> Tree:
    return Tree(tmp_path / "kaggle", request.param)


@pytest.fixture
def new_tree(tmp_path) -> Tree:
    return Tree(tmp_path / "kaggle")


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Path:
    """An environment that no test installs into."""
    return make_environment(tmp_path_factory.mktemp("bare") / "environment")


@pytest.fixture
def fresh(tmp_path) -> Path:
    return make_environment(tmp_path / "environment")


@pytest.fixture(scope="module")
def wheels(tmp_path_factory) -> Path:
    """The staged dataset of a run of the cheapest preset."""
    return stage.stage_dataset(tmp_path_factory.mktemp("wheels"), PROJECT, KernelRun("prior"))


def link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.symlink_to(source)


def fake_dataset(folder: Path, infer: str, run: str = 'preset = "prior"\n') -> None:
    """A dataset whose `humanpref` is a stand-in with the given `infer`."""
    files = {
        "humanpref/__init__.py": "",
        "humanpref/kaggle/__init__.py": "",
        "humanpref/kaggle/runtime/__init__.py": "",
        "humanpref/kaggle/runtime/infer.py": infer,
        "humanpref-9.9.dist-info/METADATA": "Metadata-Version: 2.1\n"
        "Name: humanpref\nVersion: 9.9\n",
        "humanpref-9.9.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n"
        "Tag: py3-none-any\n",
    }
    record = io.StringIO()
    rows = [[name, "", ""] for name in (*files, "humanpref-9.9.dist-info/RECORD")]
    csv.writer(record, lineterminator="\n").writerows(rows)
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "humanpref-9.9-py3-none-any.whl", "w") as wheel:
        for name, text in {**files, "humanpref-9.9.dist-info/RECORD": record.getvalue()}.items():
            wheel.writestr(name, text)
    (folder / "run.toml").write_text(run)
    write_manifest(folder)


# -------------------------------------------------------------------------------------------------
# the text of both


def code(path: Path) -> ast.Module:
    return ast.parse(kernel_code(path))


def test_the_kernels_constants_are_the_packages():
    constants = {
        target.id: ast.literal_eval(node.value)
        for path in (TRAIN, INFER)
        for node in code(path).body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant | ast.List)
        for target in node.targets
    }
    assert constants["MARKER"] == stage.MARKER
    assert constants["COMPETITION"] == COMPETITION
    assert constants["LABELS"] == list(LABEL_COLUMNS)


def test_no_kernel_asks_where_its_file_is():
    for path in (TRAIN, INFER):
        assert "__file__" not in path.read_text()


def test_what_is_predicted_does_not_depend_on_the_run():
    """The inference kernel alone asks which run it is in, and only to judge what came out."""
    for path in (TRAIN, *(Path(m.__file__) for m in (inference, inputs, launch, predicting))):
        assert "KAGGLE_IS_COMPETITION_RERUN" not in path.read_text()
    (predict,) = [node for node in code(INFER).body if getattr(node, "name", "") == "predict"]
    assert "status['run']" not in ast.unparse(predict)
    for path in (
        TRAIN,
        INFER,
        *(Path(m.__file__) for m in (inference, inputs, launch, predicting)),
    ):
        assert "KAGGLE_KERNEL_RUN_TYPE" not in path.read_text()


# -------------------------------------------------------------------------------------------------
# the whole way


def test_train_then_infer(tree, wheels, tmp_path, fresh):
    link(wheels, tree.dataset)
    filled = tmp_path / TRAIN.name
    filled.write_text(fill_manifest(TRAIN.read_text(), sha256(wheels / stage.MARKER)))
    done = tree.run(filled, fresh)
    assert done.returncode == 0, done.stdout + done.stderr
    assert tree.status["prior"] == pytest.approx(tree.rates, abs=0.1)
    assert (tree.status["manifest"], tree.status["degraded"]) == (sha256(wheels / stage.MARKER), [])
    tree.working.rename(tmp_path / "trained")
    tree.working.mkdir()
    link(tmp_path / "trained", tree.kernel)
    done = tree.run(INFER, make_environment(tmp_path / "second"))
    assert done.returncode == 0, done.stdout + done.stderr
    status = tree.status
    assert (status["rows"], status["predicted"], status["fallback"], status["degraded"]) == (
        8,
        8,
        0,
        [],
    )
    assert status["run"] == "commit"
    assert status["prior_source"].endswith("artifact/artifact.json")
    assert status["manifest"] == sha256(wheels / stage.MARKER)
    assert {"fallback", "install", "read", "load", "predict", "total"} <= status["seconds"].keys()
    assert "8 of 8 rows" in (tree.working / status["log"]).read_text()
    assert tree.submission().shape == (8, 3)


@pytest.mark.slow
def test_a_wheel_that_kaggle_unpacked(new_tree, wheels, fresh):
    wheel = copy_dataset(wheels, new_tree.dataset)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(wheel.with_suffix(""))
    wheel.unlink()
    done = new_tree.run(TRAIN, fresh)
    assert done.returncode == 0, done.stdout + done.stderr
    spoilt = wheel.with_suffix("") / "humanpref" / "schema.py"
    spoilt.write_text(spoilt.read_text() + "\n")
    done = new_tree.run(TRAIN, fresh)
    assert done.returncode != 0
    assert "schema.py: its SHA-256 is not that of the wheel's RECORD" in done.stderr


# -------------------------------------------------------------------------------------------------
# what can go wrong


@pytest.mark.parametrize("source", ["artifact", "train.csv", "a third each"])
def test_the_fallbacks_probabilities(tree, bare, source):
    expected = np.full(3, 1 / 3)
    if source == "artifact":
        tree.add_artifact({"prior": [0.5, 0.3, 0.2]})
        expected = np.array([0.5, 0.3, 0.2])
    elif source == "train.csv":
        tree.add_artifact(
            {"prior": [0.5, float("nan"), 0.2]}
        )  # not usable: the next source is asked
        expected = tree.rates
    else:
        (tree.competition / "train.csv").write_text("id,prompt\n")
    done = tree.run(INFER, bare, rerun=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert tree.submission() == pytest.approx(np.tile(expected, (8, 1)))
    status = tree.status
    assert status["prior_source"].endswith({"artifact": "artifact.json"}.get(source, source))
    assert (status["predicted"], status["fallback"]) == (0, 8)
    assert f"expected one dataset with {stage.MARKER}" in status["degraded"][0]
    assert status["degraded"][1:] == ["8 of 8 rows have the prior"]
    log = (tree.working / "infer.log").read_text()
    assert "Traceback" in log
    assert "test.csv" in log  # the tree shows what was there instead


def test_the_fallback_takes_the_ids_as_they_stand(new_tree, bare):
    long = json.dumps(["x" * 200_000])
    rows = [
        ["prompt", ID, "response_a", "response_b"],
        [long, "0042", "[]", "[]"],
        [long, "a,b", "[]", "[]"],
    ]
    with open(new_tree.test_csv, "w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows(rows)
    assert new_tree.run(INFER, bare, rerun=True).returncode == 0
    with open(new_tree.working / "submission.csv", newline="") as file:
        assert [row[0] for row in csv.reader(file)] == [ID, "0042", "a,b"]


def test_without_a_test_file_there_is_nothing_to_fall_back_on(new_tree, bare):
    new_tree.test_csv.unlink()
    done = new_tree.run(INFER, bare)
    assert done.returncode != 0
    assert "no test.csv" in done.stderr
    assert "sample_submission.csv" in done.stderr  # the tree


@pytest.mark.parametrize("kernel", [TRAIN, INFER], ids=["train", "infer"])
def test_another_dataset_than_the_one_pushed_is_not_installed(
    new_tree, wheels, bare, tmp_path, kernel
):
    """Whole as it may be."""
    link(wheels, new_tree.dataset)
    filled = tmp_path / kernel.name
    filled.write_text(fill_manifest(kernel.read_text(), "0" * 64))
    done = new_tree.run(filled, bare)
    words = f"expected the manifest with SHA-256 {'0' * 64}, got {sha256(wheels / stage.MARKER)}"
    assert words in (
        done.stderr if kernel == TRAIN else (new_tree.working / "infer.log").read_text()
    )
    assert "Successfully installed" not in done.stdout
    assert not (new_tree.working / "artifact").exists()
    assert new_tree.status["manifest"] == sha256(wheels / stage.MARKER)
    if kernel == TRAIN:
        assert done.returncode != 0
    else:
        assert new_tree.status["predicted"] == 0


@pytest.mark.parametrize("kernel", [TRAIN, INFER])
def test_a_corrupted_wheel_is_not_installed(new_tree, wheels, bare, kernel):
    wheel = copy_dataset(wheels, new_tree.dataset)
    wheel.write_bytes(wheel.read_bytes()[:-1] + b"?")
    done = new_tree.run(kernel, bare)
    message = f"{wheel}: expected"
    if kernel == TRAIN:
        assert done.returncode != 0
        assert f"The training kernel failed: RuntimeError: {message}" in done.stderr
        assert not (new_tree.working / "artifact").exists()
    else:
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1].startswith(
            f"RuntimeError: nothing was predicted; RuntimeError: {message}"
        )
        assert message in new_tree.status["degraded"][0]
        new_tree.submission()


def test_training_without_the_dataset_says_what_is_mounted(tree, bare):
    done = tree.run(TRAIN, bare)
    assert done.returncode != 0
    assert f"expected one dataset with {stage.MARKER}" in done.stderr
    assert f"{COMPETITION}/train.csv" in done.stderr


CRASH = """
import json, os, signal
def infer(input_root, working, test_csv, prior, seconds):
    status = json.loads((working / "status.json").read_text())
    (working / "status.json").write_text(json.dumps(status | {"predicted": 5, "fallback": 3}))
    print("five rows done", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
DEATH = "import os, signal\ndef infer(*_):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
SPOILER = "def infer(input_root, working, *_):\n    (working / 'status.json').unlink()\n"
SLEEP = "import time\ndef infer(*_):\n    print('asleep', flush=True)\n    time.sleep(60)\n"


@pytest.mark.parametrize(
    ("code", "run", "failure", "predicted"),
    [
        (
            CRASH,
            'preset = "prior"\n',
            "the inference process ended with -9 (SIGKILL; out of memory?)",
            5,
        ),
        pytest.param(
            DEATH,
            'preset = "prior"\n',
            "the inference process ended with -9 (SIGKILL; out of memory?)",
            0,
            marks=pytest.mark.slow,
        ),
        pytest.param(
            SLEEP,
            'preset = "prior"\ninference_seconds = 2\n',
            "TimeoutError: stopped after",
            0,
            marks=pytest.mark.slow,
        ),
        pytest.param(SPOILER, 'preset = "prior"\n', "status.json", 0, marks=pytest.mark.slow),
    ],
    ids=["killed", "killed at once", "too slow", "no status"],
)
def test_the_submission_survives_the_inference_process(
    new_tree, fresh, code, run, failure, predicted
):
    """A commit run ends with an error if nothing was predicted, the hidden rerun never."""
    fake_dataset(new_tree.dataset, code, run)
    for rerun in (False, True):
        done = new_tree.run(INFER, fresh, rerun)
        assert done.returncode == (0 if rerun or predicted else 1), done.stderr
        status = new_tree.status
        assert failure in status["degraded"][0]
        assert (status["run"], status["predicted"]) == ("rerun" if rerun else "commit", predicted)
        new_tree.submission()


TOLD = """
import json
def infer(input_root, working, test_csv, prior, seconds):
    status = json.loads((working / "status.json").read_text())
    status |= {"told": seconds, "predicted": 8, "degraded": []}
    (working / "status.json").write_text(json.dumps(status))
"""


def test_the_inference_process_plans_with_less_time_than_it_has(new_tree, fresh):
    fake_dataset(new_tree.dataset, TOLD, 'preset = "prior"\ninference_seconds = 500\n')
    assert new_tree.run(INFER, fresh).returncode == 0
    left = 500 - sum(new_tree.status["seconds"][phase] for phase in ("fallback", "install"))
    assert new_tree.status["told"] == pytest.approx(0.9 * left, abs=2)
    assert new_tree.status["degraded"] == []


# -------------------------------------------------------------------------------------------------
# infer itself


class StandIn:
    """A model that answers with one row of probabilities, and fails where it is told to."""

    def __init__(self, answer, bad_id=None, error=None) -> None:
        self.answer, self.bad_id, self.error = answer, bad_id, error or RuntimeError("no luck")

    def predict_proba(self, pairs):
        if self.bad_id in (*pairs[ID], "every"):
            raise self.error
        return np.tile(self.answer, (len(pairs), 1)).astype(np.float64)

    def costs(self, pairs):
        if self.bad_id in list(pairs[ID]) and isinstance(self.error, Exception):
            raise self.error
        return np.ones(len(pairs))

    def cheaper(self):
        return []


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class Slow(StandIn):
    """One that takes so many seconds a row, on a clock of the test's own; `others` are cheaper
    variants by name."""

    def __init__(self, answer, clock, seconds, bad_id=None, **others) -> None:
        super().__init__(answer, bad_id)
        self.clock, self.seconds, self.others = clock, seconds, others
        self.rows = 0

    def predict_proba(self, pairs):
        self.rows += len(pairs)
        self.clock.now += self.seconds * len(pairs)
        return super().predict_proba(pairs)

    def costs(self, pairs):
        return np.full(len(pairs), self.seconds)

    def cheaper(self):
        return list(self.others.items())


A, B, PRIOR = [0.8, 0.1, 0.1], [0.2, 0.3, 0.5], [0.4, 0.3, 0.3]


def write_model(folder: Path, model: object, models: dict[Path, object]) -> None:
    """A stand-in on disk, or a blend of some: a tuple of (weights, mean) and the members."""
    folder.mkdir(parents=True)
    config = {"family": getattr(model, "family", "prior")}
    if isinstance(model, tuple):
        (weights, mean), *members = model
        config = {"family": "blend", "model": {"mean": mean}}
        writers = [
            functools.partial(write_model, model=member, models=models) for member in members
        ]
        write_state(folder, Blend(mean, np.array(weights)), writers)
    models[folder] = model
    write_json(folder / "config.json", config)


@pytest.fixture
def infer(new_tree, monkeypatch):
    """Run `infer` on artifacts with stand-ins as their models; gives the tree."""

    def run(*artifacts, block=4, seconds=math.inf, clock=time.monotonic):
        models = {}

        def load(folder):
            found = models[folder]
            if isinstance(found, BaseException):
                raise found
            return found

        for number, artifact in enumerate(artifacts):
            folder = new_tree.kernel / str(number)
            members = artifact if isinstance(artifact, list) else [artifact]
            for member, model in enumerate(members):
                write_model(folder / f"fold-{member}", model, models)
            names = [f"fold-{member}" for member in range(len(members))]
            write_json(
                folder / "artifact.json",
                {"format": 1, "members": names, "prior": PRIOR, "family": "prior"},
            )
        monkeypatch.setattr(inference, "load_model", load)
        monkeypatch.setattr(predicting, "BLOCK_ROWS", block)
        monkeypatch.setattr(inference, "Budget", functools.partial(Budget, clock=clock))
        inference.infer(new_tree.input, new_tree.working, new_tree.test_csv, PRIOR, seconds)
        return new_tree

    return run


def test_the_mean_of_the_artifacts(infer):
    tree = infer(StandIn(A), StandIn(B))
    assert tree.submission() == pytest.approx(np.tile(np.mean([A, B], axis=0), (8, 1)))
    assert [entry["rows"] for entry in tree.status["artifacts"]] == [8, 8]


@pytest.mark.parametrize(
    "error",
    [InputError("a weight is missing"), MemoryError("too large"), SystemExit("a library gave up")],
)
def test_an_artifact_that_fails_leaves_the_others_alone(infer, caplog, error):
    tree = infer(error, StandIn(B), StandIn(A, "every", SystemExit("bye")))
    assert tree.submission() == pytest.approx(np.tile(B, (8, 1)))
    status = tree.status
    assert (status["predicted"], status["fallback"]) == (8, 0)
    assert f"{type(error).__name__}: {error}" in status["degraded"][0]
    assert any("SystemExit: bye" in failure for failure in status["degraded"][1:])
    assert "Traceback" in caplog.text


@pytest.mark.parametrize("error", [RuntimeError("no luck"), MemoryError("too long")])
def test_one_bad_row_costs_one_row(infer, new_tree, error):
    bad = new_tree.ids[5]
    tree = infer(StandIn(A, bad, error))
    expected = np.tile(A, (8, 1))
    expected[5] = PRIOR
    assert tree.submission() == pytest.approx(expected)
    status = tree.status
    assert (status["predicted"], status["fallback"]) == (7, 1)
    assert f"id {bad!r}: {type(error).__name__}" in status["degraded"][0]
    assert status["degraded"][1:] == ["1 of 8 rows have the prior"]


def test_an_artifact_that_always_fails_is_given_up(infer, monkeypatch):
    monkeypatch.setattr(predicting, "MAX_FAILURES", 3)
    tree = infer(StandIn(A, "every"))
    assert tree.submission() == pytest.approx(np.tile(PRIOR, (8, 1)))
    assert "given up after 3 failed calls in a row" in tree.status["degraded"][-2]
    assert tree.status["artifacts"][0]["rows"] == 0


@pytest.mark.parametrize(
    "answer", [[np.nan, 0.5, 0.5], [0.5, 0.6, -0.1], [0.5, 0.5, 0.5], [0.5, 0.5]]
)
def test_what_is_no_probability_is_not_used(infer, answer):
    tree = infer(StandIn(answer), StandIn(B))
    assert tree.submission() == pytest.approx(np.tile(B, (8, 1)))
    assert tree.status["degraded"]


def test_an_interruption_keeps_what_is_predicted(infer, new_tree):
    with pytest.raises(KeyboardInterrupt):
        infer(StandIn(A, new_tree.ids[4], KeyboardInterrupt()))
    assert new_tree.submission() == pytest.approx(np.array([A] * 4 + [PRIOR] * 4))
    assert new_tree.status["predicted"] == 4


def test_what_there_is_no_time_for_is_given_up_in_order(infer, new_tree, caplog, monkeypatch):
    """Both folds of a slow model within the time, at every moment a valid submission."""
    written, write, test_csv = [], inference._Board.write, new_tree.test_csv

    def spy(board):
        write(board)
        written.append(check_submission(board.working / "submission.csv", test_csv))

    monkeypatch.setattr(inference._Board, "write", spy)
    clock = Clock()
    halves = [Slow(B, clock, 5) for _ in range(2)]
    folds = [Slow(A, clock, 10, half=half) for half in halves]
    tree = infer(folds, seconds=140, clock=clock)  # of 160
    assert clock.now <= 140
    probabilities = tree.submission()
    status = tree.status
    given_up = status["given_up"]["half"]
    assert (status["predicted"], status["fallback"]) == (8, 0)
    assert status["degraded"] == [f"half: {given_up} row predictions for lack of time"]
    assert given_up == sum(half.rows for half in halves)
    assert all(half.rows for half in halves)  # each has its share of the time
    share = given_up / 16
    assert probabilities.mean(axis=0) == pytest.approx(
        share * np.array(B) + (1 - share) * np.array(A)
    )
    assert "left: half" in caplog.text
    assert f"time budget of 140 s: half: {given_up} row predictions" in caplog.text
    assert len(written) > 4
    assert not any(written)


def test_what_no_variant_has_time_for_keeps_the_prior(infer, caplog):
    clock = Clock()
    tree = infer(Slow(A, clock, 10, half=Slow(B, clock, 5)), seconds=53, clock=clock)
    assert clock.now <= 53
    status = tree.status
    left = status["given_up"][LEFT]
    assert 0 < left == status["fallback"]
    assert (tree.submission() == np.array(PRIOR)).all(axis=1).sum() == left
    assert f"{LEFT}: {left} row predictions" in caplog.text


def test_a_bad_row_costs_one_row_where_time_is_short_too(infer, new_tree):
    bad = new_tree.ids[5]
    clock = Clock()
    tree = infer(Slow(A, clock, 10, bad, half=Slow(B, clock, 5, bad)), seconds=70, clock=clock)
    assert (tree.submission() == np.array(PRIOR)).all(axis=1).nonzero()[0].tolist() == [5]
    assert tree.status["given_up"] == {"half": 3}
    assert f"id {bad!r}" in tree.status["degraded"][0]
    assert len(tree.status["degraded"]) == 3  # and the half, and the prior's row


@pytest.mark.parametrize(
    ("variables", "rows"),
    [
        ({"KAGGLE_KERNEL_RUN_TYPE": "Batch"}, 0),
        ({"KAGGLE_KERNEL_RUN_TYPE": "Batch", "KAGGLE_IS_COMPETITION_RERUN": "1"}, 8),
        ({"KAGGLE_KERNEL_RUN_TYPE": "Batch", device.DRY_RUN: "1"}, 8),
        ({}, 8),
    ],
)
def test_a_model_that_needs_a_gpu_and_has_none(infer, monkeypatch, caplog, variables, rows):
    """In the commit run it fails as one does that cannot be loaded; elsewhere what a CPU can do is
    better than nothing."""
    for name in ("KAGGLE_KERNEL_RUN_TYPE", "KAGGLE_IS_COMPETITION_RERUN", device.DRY_RUN):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(device, "lacking", lambda: "none is here")
    needy = StandIn(A)
    needy.family = "decoder"
    tree = infer(needy, StandIn(B))
    assert [entry["rows"] for entry in tree.status["artifacts"]] == [rows, 8]
    assert "needs a GPU, and none is here" in caplog.text


def test_nobody_looks_for_a_gpu_where_no_model_uses_one(infer, monkeypatch):
    monkeypatch.delattr(device, "lacking")
    assert infer(StandIn(A)).status["predicted"] == 8


def test_what_a_quick_model_leaves_over_goes_to_a_slow_one(infer, monkeypatch):
    clock = Clock()
    slow = Slow(A, clock, 10, half=Slow(B, clock, 5))
    slow.family = "embedding"  # a network
    tree = infer(slow, StandIn(B), StandIn(B), seconds=100, clock=clock)
    assert tree.status["given_up"] == {}
    assert [entry["rows"] for entry in tree.status["artifacts"]] == [8, 8, 8]


def test_the_mean_of_the_artifacts_is_not_that_of_the_models(infer):
    """Three folds count as much as the one model of another artifact, whichever of them fail."""
    third = [1.0, 0.0, 0.0]
    tree = infer([StandIn(A), StandIn(B), StandIn(third)], StandIn(B))
    assert tree.submission() == pytest.approx(
        np.tile(np.mean([np.mean([A, B, third], axis=0), B], axis=0), (8, 1))
    )
    assert [entry["rows"] for entry in tree.status["artifacts"]] == [8, 8]


@pytest.mark.parametrize("mean", ["arithmetic", "geometric"])
def test_a_blend_mixes_what_its_members_say(infer, mean):
    """Also a blend in a blend, and with a member that cannot be loaded: its weight goes to the
    others."""
    inner = (([0.5, 0.5], mean), StandIn(B), StandIn([0.1, 0.1, 0.8]))
    tree = infer((([0.6, 0.2, 0.2], mean), StandIn(A), inner, InputError("a weight is missing")))
    within = Blend(mean, np.array([0.5, 0.5]))(np.array([[B], [[0.1, 0.1, 0.8]]]))
    expected = Blend(mean, np.array([0.75, 0.25]))(np.stack([np.array([A]), within]))
    assert tree.submission() == pytest.approx(np.tile(expected, (8, 1)))
    (failure,) = tree.status["degraded"]
    assert "member-2: InputError: a weight is missing" in failure


def test_a_row_that_one_member_cannot_is_the_others(infer, new_tree):
    bad = new_tree.ids[5]
    tree = infer((([0.6, 0.4], "geometric"), StandIn(A), StandIn(B, bad)))
    both = Blend("geometric", np.array([0.6, 0.4]))(np.array([[A], [B]]))
    expected = np.tile(both, (8, 1))
    expected[5] = A
    assert tree.submission() == pytest.approx(expected)


def test_a_model_is_freed_before_the_next(infer, monkeypatch):
    alive = weakref.WeakSet()
    infer_with = inference._predict_with

    class Counted(StandIn):
        def __init__(self):
            assert not alive
            super().__init__(A)
            self.itself = self  # so that it takes the garbage collector to free it
            alive.add(self)

    def predict_with(*arguments):
        monkeypatch.setattr(inference, "load_model", lambda folder: Counted())
        infer_with(*arguments)

    monkeypatch.setattr(inference, "_predict_with", predict_with)
    tree = infer([None, None], (([0.5, 0.5], "arithmetic"), None, None), None)
    assert tree.status["degraded"] == []
    assert tree.status["predicted"] == 8


def test_a_real_blend_is_what_it_is_by_itself(arena, new_tree):
    """The artifacts that `humanpref blend` and training by folds leave, against
    `experiment.predict`."""
    for name, overrides in (("one", ()), ("two", ("model.word_ngrams=1",))):
        experiment.train(
            load_config("sparse", None, list(overrides)),
            arena / "train.csv",
            new_tree.root / name,
            folds=2,
        )
    folder = new_tree.kernel / "blended"
    folder.parent.mkdir(parents=True)
    blended = blend([new_tree.root / "one", new_tree.root / "two"], folder, "geometric")
    inference.infer(new_tree.input, new_tree.working, new_tree.test_csv, PRIOR)
    expected = blended.predict_proba(read_pairs(new_tree.test_csv))
    assert new_tree.submission() == pytest.approx(expected, abs=1e-6)
    assert new_tree.status["degraded"] == []


def test_a_real_blend_knows_special_cases(write_csv, new_tree):
    kinds = [((["a"], ["b"]), 0), ((["a"], ["a"]), 2), (([""], ["b"]), 1), ((["a"], [" "]), 0)]
    rows = [
        ([f"prompt {i}"], *kinds[i % 4][0], (i // 4) % 3 if i % 4 == 0 else kinds[i % 4][1])
        for i in range(120)
    ]
    train_csv = write_csv(rows)
    experiment.train(load_config("prior"), train_csv, new_tree.root / "one", folds=2)
    experiment.train(load_config("prior"), train_csv, new_tree.root / "two", folds=3)
    folder = new_tree.kernel / "blended"
    folder.parent.mkdir(parents=True)
    blended = blend([new_tree.root / "one", new_tree.root / "two"], folder)
    assert blended.metrics["blend"]["offsets"]
    write_csv(rows[:8], labels=False).replace(new_tree.test_csv)
    inference.infer(new_tree.input, new_tree.working, new_tree.test_csv, PRIOR)
    told = new_tree.submission()
    assert told == pytest.approx(predict([blended], read_pairs(new_tree.test_csv))[0], abs=1e-6)
    assert told.argmax(axis=1)[[1, 2, 3, 5, 6, 7]].tolist() == [2, 1, 0, 2, 1, 0]


def test_no_artifact_is_an_error_that_shows_the_tree(new_tree):
    with pytest.raises(InputError, match=r"no artifact\.json(.|\n)*test\.csv"):
        inference.infer(new_tree.input, new_tree.working, new_tree.test_csv, PRIOR)
