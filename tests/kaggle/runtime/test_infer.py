"""Failures planted in a bundle: what the inference kernel makes of each, in the commit run and in
the hidden rerun."""

import shutil
import zipfile
from pathlib import Path

import pytest

from humanpref.config import load_config
from humanpref.kaggle.bundle import stage
from humanpref.kaggle.contract import KernelRun
from humanpref.kaggle.rehearsal.environment import make_environment
from humanpref.runs import train as experiment

from ..sampled import sampled
from ..tree import INFER, PROJECT, Tree, copy_dataset, write_manifest


@pytest.fixture(scope="module")
def wheels(tmp_path_factory) -> Path:
    return stage.stage_dataset(tmp_path_factory.mktemp("wheels"), PROJECT, KernelRun("prior"))


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[: len(content) // 2])


def plant(tree: Tree, module: str, code: str) -> None:
    """Add code to a module of the wheel."""
    wheel = next(tree.dataset.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    files[module] += code.encode()
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    write_manifest(tree.dataset)


def lose_the_wheel(tree):
    next(tree.dataset.glob("*.whl")).unlink()


def lose_the_dataset(tree):
    shutil.rmtree(tree.dataset)


def cut_every_weight(tree):
    for path in tree.kernel.rglob("*.safetensors"):
        cut(path)


def cut_one_of_two_artifacts(tree):
    shutil.copytree(tree.kernel / "artifact", tree.kernel / "other")
    for path in (tree.kernel / "other").rglob("*.safetensors"):
        cut(path)


def spoil_one_of_two_artifacts(tree):
    shutil.copytree(tree.kernel / "artifact", tree.kernel / "other")
    cut(tree.kernel / "other" / "artifact.json")


def cut_one_fold(tree):
    cut(next((tree.kernel / "artifact" / "fold-0").glob("*.safetensors")))


def raise_in_row_3(tree):
    bad = tree.ids[2]
    code = """
_predict = PriorModel.predict_proba
def _raise(self, pairs):
    if %r in set(pairs["id"]):
        raise RuntimeError("no luck")
    return _predict(self, pairs)
PriorModel.predict_proba = _raise
"""
    plant(tree, "humanpref/models/prior.py", code % bad)


def run_out_of_time_at_once(tree):
    (tree.dataset / "run.toml").write_text('preset = "prior"\ninference_seconds = 0\n')
    write_manifest(tree.dataset)


def run_out_of_time_after_a_block(tree):
    code = """
# The first model's share, and what is left before its first block.
_answers = iter([1.0, 1.0])
Budget.left = lambda self: next(_answers, 0.0)
"""
    plant(tree, "humanpref/models/budget.py", code)


# What is done to the tree, how many of the 8 rows are predicted all the same, whether the commit
# run ends well, and what `degraded` says.
PLANTED = [
    (lose_the_dataset, 0, False, "expected one dataset"),
    (lose_the_wheel, 0, False, "neither a file nor an unpacked wheel"),
    (cut_every_weight, 0, False, "model.safetensors"),
    (cut_one_of_two_artifacts, 8, False, "other/fold-0"),
    (spoil_one_of_two_artifacts, 8, False, "other: "),
    (cut_one_fold, 8, True, "artifact/fold-0"),
    (raise_in_row_3, 7, True, "RuntimeError: no luck"),
    (run_out_of_time_at_once, 0, False, "TimeoutError: stopped after"),
    (run_out_of_time_after_a_block, 4, True, "row predictions for lack of time"),
]


@pytest.fixture(scope="module")
def folds(arena, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("folds") / "artifact"
    experiment.train(load_config("prior"), arena / "train.csv", folder, folds=2)
    return folder


@pytest.mark.parametrize(
    ("fault", "predicted", "ends_well", "reason"),
    sampled(PLANTED, every=3),
    ids=[fault.__name__ for fault, *_ in PLANTED],
)
def test_a_failure_in_a_bundle(wheels, folds, tmp_path, fault, predicted, ends_well, reason):
    tree, environment = Tree(tmp_path / "kaggle"), make_environment(tmp_path / "environment")
    copy_dataset(wheels, tree.dataset)
    shutil.copytree(folds, tree.kernel / "artifact")
    fault(tree)
    for rerun in (False, True):
        done = tree.run(INFER, environment, rerun)
        status = tree.status
        assert status["run"] == ("rerun" if rerun else "commit")
        assert done.returncode == (0 if rerun or ends_well else 1), done.stdout + done.stderr
        assert (status["predicted"], status["fallback"]) == (predicted, 8 - predicted)
        assert any(reason in text for text in status["degraded"]), status["degraded"]
        assert not any("\n" in text for text in status["degraded"])
        assert (tree.submission() == status["prior"]).all(axis=1).sum() >= 8 - predicted
        if done.returncode:
            assert done.stderr.splitlines()[-1].startswith("RuntimeError: ")
            assert reason in done.stderr.splitlines()[-1]
