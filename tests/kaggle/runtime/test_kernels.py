"""Both kernels, as programs of their own on a made-up Kaggle tree, and what they call."""

import ast
import csv
import io
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from humanpref.data import check_submission
from humanpref.files import sha256
from humanpref.kaggle.bundle import stage
from humanpref.kaggle.bundle.metadata import fill_manifest, kernel_code
from humanpref.kaggle.competitions import COMPETITIONS, DEFAULT, WSDM
from humanpref.kaggle.rehearsal.competition import read_competition
from humanpref.kaggle.rehearsal.environment import make_environment
from humanpref.kaggle.runtime import infer as inference
from humanpref.kaggle.runtime import inputs, launch
from humanpref.runs import engine, schedule, workers
from humanpref.schema import ID

from ..sampled import sampled
from ..tree import INFER, TRAIN, Tree, copy_dataset, write_manifest


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
    assert constants["DEFAULT"] == DEFAULT


def test_no_kernel_asks_where_its_file_is():
    for path in (TRAIN, INFER):
        assert "__file__" not in path.read_text()


def test_what_is_predicted_does_not_depend_on_the_run():
    """The inference kernel alone asks which run it is in, and only to judge what came out."""
    for path in (
        TRAIN,
        *(Path(m.__file__) for m in (inference, inputs, launch, engine, schedule, workers)),
    ):
        assert "KAGGLE_IS_COMPETITION_RERUN" not in path.read_text()
    (predict,) = [node for node in code(INFER).body if getattr(node, "name", "") == "predict"]
    assert "status['run']" not in ast.unparse(predict)
    for path in (
        TRAIN,
        INFER,
        *(Path(m.__file__) for m in (inference, inputs, launch, engine, schedule, workers)),
    ):
        assert "KAGGLE_KERNEL_RUN_TYPE" not in path.read_text()


# -------------------------------------------------------------------------------------------------
# the whole way


@pytest.mark.slow
def test_train_then_infer(tree, wheels, tmp_path, fresh):
    link(wheels, tree.dataset)
    filled = tmp_path / TRAIN.name
    filled.write_text(fill_manifest(TRAIN.read_text(), sha256(wheels / stage.MARKER)))
    done = tree.run(filled, fresh)
    assert done.returncode == 0, done.stdout + done.stderr
    facts = json.loads((tree.working / "artifact/artifact.json").read_text())
    assert facts["prior"] == pytest.approx(tree.rates, abs=0.1)
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
    assert "schema.py: its SHA-256 differs from the wheel's RECORD" in done.stderr


# -------------------------------------------------------------------------------------------------
# what can go wrong


@pytest.mark.parametrize("source", sampled(["artifact", "train.parquet", "a half each"], every=3))
def test_the_fallback_of_a_competition_that_asks_for_the_winner(new_tree, bare, source):
    pytest.importorskip("pyarrow")
    files = read_competition(None, None, rules=COMPETITIONS[WSDM])
    files.train = files.train[files.train["winner"] == "model_b"]
    if source == "a half each":
        files.drop_labels()
    elif source == "artifact":
        new_tree.add_artifact({"prior": [0.5, 0.3, 0.2]})
    shutil.rmtree(new_tree.competition)
    folder = new_tree.competition.with_name(WSDM)
    files.write(folder)
    done = new_tree.run(INFER, bare, rerun=True)
    assert done.returncode == 0, done.stdout + done.stderr
    submission, columns = new_tree.working / "submission.csv", COMPETITIONS[WSDM].submission
    assert check_submission(submission, folder / "test.parquet", columns) == []
    winner = "model_b" if source == "train.parquet" else "model_a"
    assert set(pd.read_csv(submission)["winner"]) == {winner}
    assert new_tree.status["competition"] == WSDM
    assert new_tree.status["prior_source"].endswith(source.replace("artifact", "artifact.json"))


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


@pytest.mark.slow
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


def test_a_full_disk_is_one_line_that_names_the_space(new_tree, wheels, bare):
    """The device `full` has no space."""
    link(wheels, new_tree.dataset)
    (new_tree.working / "status.json").symlink_to("/dev/full")
    done = new_tree.run(TRAIN, bare)
    last = done.stderr.splitlines()[-1]
    assert last.startswith(
        "The training kernel failed: OSError: [Errno 28] No space left on device"
    )
    assert last.endswith(f" MiB are free in {new_tree.working}")

    (new_tree.working / "submission.csv.partial").symlink_to("/dev/full")
    last = new_tree.run(INFER, bare).stderr.splitlines()[-1]
    assert last.startswith(
        f"RuntimeError: {new_tree.working / 'submission.csv'}: OSError: [Errno 28]"
    )
    assert last.endswith(f" MiB are free in {new_tree.working}")


@pytest.mark.parametrize("name", ["infer.log", pytest.param("status.json", marks=pytest.mark.slow)])
def test_without_space_for_it_the_hidden_rerun_has_a_submission(new_tree, bare, name):
    partial = name if name == "infer.log" else f"{name}.partial"
    (new_tree.working / partial).symlink_to("/dev/full")
    done = new_tree.run(INFER, bare, rerun=True)
    assert done.returncode == 0, done.stderr
    assert "No space left on device" in done.stdout or name == "infer.log"
    new_tree.submission()


def test_training_without_the_dataset_says_what_is_mounted(tree, bare):
    done = tree.run(TRAIN, bare)
    assert done.returncode != 0
    assert f"expected one dataset with {stage.MARKER}" in done.stderr
    assert f"{DEFAULT}/train.csv" in done.stderr


CRASH = """
import json, os, signal
def infer(input_root, working, test_csv, prior, seconds, competition):
    status = json.loads((working / "status.json").read_text())
    (working / "status.json").write_text(json.dumps(status | {"predicted": 5, "fallback": 3}))
    print("five rows done", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
DEATH = "import os, signal\ndef infer(*_):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
REFUSAL = "def infer(*_):\n    raise ValueError('no luck\\nat all')\n"
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
        pytest.param(
            REFUSAL,
            'preset = "prior"\n',
            "RuntimeError: the inference process ended with 1: ValueError: no luck",
            0,
            marks=pytest.mark.slow,
        ),
        pytest.param(SPOILER, 'preset = "prior"\n', "status.json", 0, marks=pytest.mark.slow),
    ],
    ids=["killed", "killed at once", "too slow", "refused", "no status"],
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
def infer(input_root, working, test_csv, prior, seconds, competition):
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
