"""The bundle: the same input, the same bytes; it installs offline; weights and their sources."""

import importlib.util
import json
import os
import shutil
import subprocess
from functools import partial
from pathlib import Path

import pytest

from humanpref.arena import write_arena
from humanpref.cli.main import main
from humanpref.config import load_config
from humanpref.files import read_json, sha256, write_json
from humanpref.kaggle.bundle import stage, wheels
from humanpref.kaggle.bundle.assemble import bundle, name_weights, read_run, use_weights, uses_gpus
from humanpref.kaggle.bundle.check import check_bundle
from humanpref.kaggle.bundle.image import read_image
from humanpref.kaggle.bundle.manifest import write_manifest
from humanpref.kaggle.bundle.metadata import (
    DATASET_METADATA,
    KERNEL_METADATA,
    read_metadata,
    stage_kernel,
)
from humanpref.kaggle.bundle.sources import LAYOUTS, mount_path
from humanpref.kaggle.bundle.wheels import read_wheel
from humanpref.kaggle.competitions import WSDM
from humanpref.kaggle.contract import MARKER, WEIGHTS_MARKER, KernelRun
from humanpref.kaggle.rehearsal import sandbox
from humanpref.kaggle.rehearsal.environment import make_environment
from humanpref.kaggle.runtime.inputs import find_artifacts
from humanpref.kaggle.runtime.train import resolve
from humanpref.runs.artifact import Artifact
from humanpref.runs.artifact_files import seal
from humanpref.runs.train import Run, train
from humanpref.schema import InputError

from ..fake_wheels import make_wheel

PROJECT = Path(__file__).parents[3]


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A bundle of this checkout; tests that change it take a copy."""
    # Looked for, not imported: it would replace distutils in the test process.
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("building the wheel needs setuptools")
    return bundle(PROJECT, tmp_path_factory.mktemp("bundle") / "bundle", KernelRun("sparse"))


@pytest.fixture
def own(built, tmp_path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "bundle"))


@pytest.mark.slow
def test_the_same_input_gives_the_same_bytes(built, tmp_path):
    """From a copy of the checkout with other times, other modes and what tools leave behind."""
    other = tmp_path / "checkout"
    for name in ("src", "kernel", "wheels"):
        shutil.copytree(
            PROJECT / name,
            other / name,
            ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "*.whl"),
        )
    for path in (p for p in PROJECT.iterdir() if p.is_file()):
        shutil.copyfile(path, other / path.name)
    for path in other.rglob("*.py"):
        path.chmod(0o777)
        os.utime(path, (1e9, 1e9))
    (other / "src" / "humanpref" / "__pycache__").mkdir()
    (other / "src" / "humanpref" / "__pycache__" / "cli.pyc").write_text("x")
    (other / "src" / "humanpref.egg-info").mkdir()
    (other / "src" / "humanpref.egg-info" / "SOURCES.txt").write_text("src/humanpref/ghost.py\n")
    again = bundle(other, tmp_path / "again", KernelRun("sparse"))
    assert contents(again) == contents(built)
    names = set(contents(built))
    wheel = next(name for name in names if name.endswith(".whl"))
    assert names == {
        wheel,
        "dataset/run.toml",
        f"dataset/{MARKER}",
        "dataset/dataset-metadata.json",
        "train/kernel-metadata.json",
        "train/train.py",
        "infer/kernel-metadata.json",
        "infer/kernel/infer/infer.ipynb",
    }


def test_a_bundle_has_no_findings_and_its_kernels_can_be_staged(built, tmp_path):
    assert check_bundle(built) == []
    stage_kernel(built / "infer" / KERNEL_METADATA, tmp_path / "staged", "ann")
    stage_kernel(PROJECT / KERNEL_METADATA, tmp_path / "direct", "ann")
    staged, direct = contents(tmp_path / "staged"), contents(tmp_path / "direct")
    # The models of this preset use no GPU, so that its kernels ask for none.
    asked = json.loads(direct[KERNEL_METADATA]) | {"enable_gpu": False}
    del asked["machine_shape"]
    assert json.loads(staged.pop(KERNEL_METADATA)) == asked
    del direct[KERNEL_METADATA]
    assert staged == direct


@pytest.mark.parametrize(
    ("preset", "artifacts", "used"),
    [
        ("sparse", [], (False, False)),
        ("tiny", [], (True, True)),
        ("", ["prior"], (False, False)),
        ("sparse", ["tiny"], (False, True)),
    ],
)
def test_which_kernels_use_a_gpu(tmp_path, preset, artifacts, used):
    for name in artifacts:
        folder = tmp_path / "artifacts" / name
        model = folder / "model"
        model.mkdir(parents=True)
        write_json(model / "config.json", load_config(name).to_dict())
        seal(folder, {"format": 1, "members": ["model"], "prior": [0.4, 0.4, 0.2]})
    assert tuple(uses_gpus(tmp_path, KernelRun(preset)).values()) == used


def test_a_bundle_is_replaced_and_nothing_else(own, monkeypatch, tmp_path):
    (own / "weights-some").mkdir()
    (own / "weights-some" / "kept").write_text("kept")
    before = contents(own)

    def fail(*_):
        raise InputError("no luck")

    monkeypatch.setattr(stage, "build_wheel", fail)
    with pytest.raises(InputError, match="no luck"):
        bundle(PROJECT, own, KernelRun("prior"))
    assert contents(own) == before
    monkeypatch.setattr(stage, "build_wheel", lambda _, out: make_wheel(out, "humanpref", "0.1.0"))
    bundle(PROJECT, own, KernelRun("prior"))
    assert read_run(own / "dataset") == KernelRun("prior")
    assert (own / "weights-some" / "kept").read_text() == "kept"
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError, match="not a bundle; create one first, in a new folder"):
        bundle(PROJECT, tmp_path / "mine", KernelRun("prior"))
    with pytest.raises(InputError, match="unknown preset"):
        bundle(PROJECT, tmp_path / "new", KernelRun("no such"))
    assert not (tmp_path / "new").exists()


@pytest.fixture
def artifact(tmp_path) -> Path:
    write_arena(tmp_path / "arena", rows=40, seed=0)
    train(load_config("prior"), tmp_path / "arena" / "train.csv", tmp_path / "mine")
    return tmp_path / "mine"


def run_bundle(capsys, out: Path, *words: object) -> tuple[int, str]:
    """`humanpref kaggle bundle`; its exit code, and the line with the result or the error."""
    code = main(["kaggle", "bundle", "--out", str(out), *map(str, words)])
    said = capsys.readouterr()
    return code, said.out.splitlines()[0] if code == 0 else said.err.splitlines()[-1]


def test_what_a_bundle_predicts_with_is_what_was_asked_for(artifact, monkeypatch, capsys, tmp_path):
    """Own artifacts alone, what is trained there alone, or the mean of both where both are asked
    for."""
    monkeypatch.setattr(stage, "build_wheel", lambda _, out: make_wheel(out, "humanpref", "0.1.0"))
    out = tmp_path / "bundle"
    train = "INSERT_USERNAME/humanpref-train"
    for words, models, trains in (
        ((), "the model trained with preset sparse", True),
        (("--artifact", artifact), f"{artifact}", False),
        (
            ("--artifact", artifact, "--preset", "prior"),
            f"the unweighted mean of {artifact}, the model trained with preset prior",
            True,
        ),
        (("--artifact", artifact, "--infer-hours", 2), f"{artifact}", False),
    ):
        assert run_bundle(capsys, out, *words) == (0, f"bundle: {out}; predicts with {models}")
        sources = read_metadata(out / "infer" / KERNEL_METADATA)["kernel_sources"]
        assert ((out / "train").is_dir(), train in sources) == (trains, trains)
        assert (out / "dataset" / "artifacts" / "mine" / "artifact.json").is_file() == (
            "--artifact" in words
        )
        assert [finding for finding in check_bundle(out) if finding.level == "error"] == []
    # The competition is in run.toml and in the metadata of both kernels.
    words = ("--preset", "prior", "--artifact", artifact, "--competition", WSDM)
    assert run_bundle(capsys, out, *words)[0] == 0
    for name in ("train", "infer"):
        assert read_metadata(out / name / KERNEL_METADATA)["competition_sources"] == [WSDM]
    run = read_run(out / "dataset")
    assert (run.competition, run.config.training.classes) == (WSDM, 2)
    assert [finding for finding in check_bundle(out) if finding.level == "error"] == []
    code, told = run_bundle(capsys, out, "--competition", "titanic")
    assert code == 2
    assert "competition: expected one of llm-classification-finetuning, lmsys-" in told
    facts = read_json(artifact / "artifact.json")
    seal(artifact, facts | {"classes": 2})
    code, told = run_bundle(capsys, out, "--artifact", artifact)
    assert code == 2
    assert "predicts no ties, but the competition llm-classification-finetuning has" in told
    seal(artifact, facts)
    assert run_bundle(capsys, out, "--artifact", artifact)[0] == 0
    # A model that only names its base: the weights are for the kernel that there is.
    name_weights("metaresearch/llama-3.2/transformers/1b/1", out)
    assert read_metadata(out / "infer" / KERNEL_METADATA)["model_sources"] == [
        "metaresearch/llama-3.2/transformers/1b/1"
    ]
    assert read_run(out / "dataset").backbone == "llama-3.2/transformers/1b"
    assert [finding for finding in check_bundle(out) if finding.level == "error"] == []


def test_the_trained_folds_of_an_unfinished_run_are_bundled(monkeypatch, caplog, tmp_path):
    """As `humanpref kaggle output --train` fetches them."""
    monkeypatch.setattr(stage, "build_wheel", lambda _, out: make_wheel(out, "humanpref", "0.1.0"))
    write_arena(tmp_path / "arena", rows=40, seed=0)
    run = Run.plan(load_config("prior"), tmp_path / "arena" / "train.csv", tmp_path / "mine", 3)
    with run.opened():
        for model in run.models[:2]:
            run.train_model(model)
        left = run.gather().folder
    out = tmp_path / "bundle"
    bundle(PROJECT, out, KernelRun(""), [left])
    assert f"{left}: only 2 of 3 models were trained" in caplog.text
    assert check_bundle(out) == []
    (found,) = find_artifacts(out / "dataset")
    assert Artifact.load(found).facts["members"] == ["fold-0", "fold-1"]


@pytest.mark.parametrize(
    "words", [("--set", "model.alpha=1"), ("--folds", 2), ("--train-hours", 3), ("--all-rows",)]
)
def test_options_of_a_training_that_there_is_not(artifact, capsys, tmp_path, words):
    code, line = run_bundle(capsys, tmp_path / "bundle", "--artifact", artifact, *words)
    assert code == 2
    assert "need training, but --artifact alone trains nothing; add --preset" in line
    assert not (tmp_path / "bundle").exists()


def test_a_bundle_that_fails_leaves_nothing(monkeypatch, tmp_path):
    wheel = partial(make_wheel, name="humanpref", version="0.1.0", requires=("nowhere",))
    monkeypatch.setattr(stage, "build_wheel", lambda _, out: wheel(out))
    with pytest.raises(InputError, match="needs nowhere, which neither the image nor the bundle"):
        bundle(PROJECT, tmp_path / "new" / "bundle", KernelRun("sparse"))
    assert list((tmp_path / "new").iterdir()) == []


# ------------------------------------------------------------------------------------------------
# does it install offline?

# What a competitor's machine, or the kernel, does with the dataset: the install, the command, a
# model on a few rows.
USE = """
set -e
"$PYTHON" -m pip install --no-index --no-deps --no-cache-dir --disable-pip-version-check $TARGET \\
  --find-links "$DATASET" humanpref
"$PYTHON" -m humanpref.cli --help >/dev/null
"$PYTHON" -m humanpref.cli sample --rows 60 --out rows
"$PYTHON" -m humanpref.cli train --preset sparse --train rows/train.csv --out artifact
"$PYTHON" -m humanpref.cli predict artifact --test rows/test.csv --out submission.csv
"$PYTHON" -c '
import sys, humanpref as h
print(h.__file__, sys.version_info[:2], "torch" in sys.modules)'
"""


@pytest.mark.slow
def test_it_installs_and_works_offline_in_the_sandbox(built, tmp_path):
    """On the running Python, with its packages but without this one, and without a network."""
    mode = sandbox.detect()
    environment = make_environment(tmp_path / "environment", block_sockets=mode == "none")
    box = sandbox.make_box(mode, tmp_path / "box", environment)
    shutil.copytree(built / "dataset", box.root / "input" / "dataset")
    lines: list[str] = []
    command = ["/bin/sh", "-c", f"PYTHON={box.python} DATASET={box.kaggle}/input/dataset; {USE}"]
    assert sandbox.run(box, command, lines.append) == 0, "\n".join(lines)
    assert str(environment) in lines[-1]
    assert (box.root / "working" / "submission.csv").read_text().count("\n") == 13


@pytest.mark.slow
def test_it_installs_and_works_on_the_images_python(built, tmp_path):
    site = tmp_path / "site"
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "PIP_NO_INDEX": "1",
        "OMP_NUM_THREADS": "1",
    }
    environment |= {
        "PYTHON": image_python(),
        "DATASET": str(built / "dataset"),
        "TARGET": f"--target {site}",
    }
    environment |= {"PYTHONPATH": str(site)}
    done = subprocess.run(
        ["/bin/sh", "-c", USE], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{site}/humanpref/__init__.py (3, 12) False" in done.stdout


# Runs the kernels' own installation, and looks at what it leaves.
INSTALL = """
import ctypes, importlib.metadata, importlib.util, sys
from functools import partial
from pathlib import Path
import bootstrap
dataset = Path(sys.argv[1])
bootstrap.install(bootstrap.check_dataset(dataset))
folder = Path(importlib.util.find_spec("bitsandbytes").origin).parent
print(sys.version_info[:2], importlib.metadata.version("bitsandbytes"))
print(sorted(path.name for path in folder.glob("libbitsandbytes_c*.so")))
print(bool(ctypes.CDLL(str(folder / "libbitsandbytes_cpu.so"))))
try:
    import bitsandbytes
except ModuleNotFoundError as error:
    print(error)
"""


@pytest.mark.slow
def test_the_kernels_install_bitsandbytes_offline_on_the_images_python(built, tmp_path):
    """The real wheel, in an environment that has nothing, torch least of all."""
    folder, dataset = tmp_path / "wheels", tmp_path / "dataset"
    shutil.copytree(PROJECT / "wheels", folder, ignore=shutil.ignore_patterns("*.whl"))
    shutil.copytree(built / "dataset", dataset)
    ours = read_wheel(next(dataset.glob("humanpref-*.whl")))
    image = read_image(folder / "image.txt")
    extras = (*wheels.EXTRAS, *wheels.OPTIONAL_EXTRAS)
    try:
        (wheel,) = wheels.fetch(folder, ours, image, extras)
    except InputError as error:
        pytest.skip(f"the wheel of bitsandbytes cannot be fetched: {error}")
    assert wheels.closure_faults([ours, wheel], image, extras) == []
    shutil.copy(wheel.path, dataset)
    write_manifest(dataset, MARKER, {})
    python = image_python("import pip, venv")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "PYTHONPATH": os.pathsep.join([str(PROJECT / "kernel"), str(PROJECT / "src")]),
    }
    subprocess.run([python, "-m", "venv", str(tmp_path / "venv")], check=True)
    done = subprocess.run(
        [str(tmp_path / "venv" / "bin" / "python"), "-c", INSTALL, str(dataset)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)
    version, libraries, loads, missing = done.stdout.splitlines()[-4:]
    assert version == f"(3, 12) {wheel.version}"
    assert "libbitsandbytes_cpu.so" in libraries
    assert "libbitsandbytes_cuda128.so" in libraries
    assert (loads, missing) == ("True", "No module named 'torch'")


NEEDED = "import numpy, pandas, scipy, sklearn, safetensors, tqdm, threadpoolctl, pip"


def image_python(needed: str = NEEDED) -> str:
    """A Python 3.12 that has what is needed (by default what the package requires): `$PYTHON312`,
    or one that is installed; skips if there is none."""
    candidates = [os.environ.get("PYTHON312"), shutil.which("python3.12")]
    candidates += sorted(map(str, Path.home().glob(".pyenv/versions/3.12*/bin/python")))
    for python in filter(None, candidates):
        if subprocess.run([python, "-c", needed], capture_output=True).returncode == 0:
            return python
    pytest.skip("no Python 3.12 with what is needed (name one in $PYTHON312)")


# -------------------------------------------------------------------------------------------------
# weights


def test_a_model_that_kaggle_has_is_named(own, tmp_path):
    source = "metaresearch/llama-3.2/transformers/1b/1"
    name_weights(source, own)
    name_weights(source, own)
    for name in ("train", "infer"):
        assert read_metadata(own / name / KERNEL_METADATA)["model_sources"] == [source]
    run = read_run(own / "dataset")
    assert check_bundle(own) == []
    for layout in LAYOUTS:
        folder = tmp_path / layout / mount_path("model", source, layout)
        folder.mkdir(parents=True)
        write_json(folder / "config.json", {})
        assert resolve(
            KernelRun("deberta-v3-small", backbone=run.backbone), tmp_path / layout
        ).model.backbone == str(folder)


@pytest.mark.parametrize("kind", ["packed", "named"])
def test_bundled_again_the_same_preset_keeps_its_weights(own, monkeypatch, caplog, kind):
    monkeypatch.setattr(stage, "build_wheel", lambda _, out: make_wheel(out, "humanpref", "0.1.0"))
    bundle(PROJECT, own, KernelRun("deberta-v3-small"))
    if kind == "named":
        name_weights("someone/deberta/transformers/small/2", own)
    else:
        packed = own / "weights-small"
        packed.mkdir()
        write_json(packed / WEIGHTS_MARKER, {"format": 1, "files": []})
        write_json(packed / DATASET_METADATA, {"id": "INSERT_USERNAME/weights-small"})
        digest = sha256(packed / WEIGHTS_MARKER)
        use_weights(own, "dataset", "INSERT_USERNAME/weights-small", "weights-small", digest)
    before = contents(own)
    caplog.clear()
    bundle(PROJECT, own, KernelRun("deberta-v3-small"))
    assert contents(own) == before
    assert "next run: humanpref kaggle weights" not in caplog.text
    bundle(PROJECT, own, KernelRun("deberta-v3-small", overrides=("training.epochs=1",)))
    assert read_run(own / "dataset").backbone
    # A preset with other weights, or with none, is another matter.
    for preset in ("deberta-v3-base", "sparse"):
        bundle(PROJECT, own, KernelRun(preset))
        assert not read_run(own / "dataset").backbone
        text = (own / "infer" / KERNEL_METADATA).read_text()
        assert "weights-small" not in text
        assert "someone" not in text
    if kind == "packed":
        bundle(PROJECT, own, KernelRun("deberta-v3-small"))
        use_weights(own, "dataset", "INSERT_USERNAME/weights-small", "weights-small", "0" * 64)
        bundle(PROJECT, own, KernelRun("deberta-v3-small"))
        assert not read_run(own / "dataset").backbone


def test_a_bundle_of_a_version_with_other_presets_is_replaced(own, monkeypatch):
    monkeypatch.setattr(stage, "build_wheel", lambda _, out: make_wheel(out, "humanpref", "0.1.0"))
    bundle(PROJECT, own, KernelRun("deberta-v3-small"))
    name_weights("someone/deberta/transformers/small/2", own)
    path = own / "dataset" / "run.toml"
    path.write_text(path.read_text().replace("deberta-v3-small", "gone"))
    bundle(PROJECT, own, KernelRun("deberta-v3-base"))
    run = read_run(own / "dataset")
    assert (run.preset, run.backbone) == ("deberta-v3-base", "")


def test_weights_need_a_bundle(tmp_path):
    with pytest.raises(InputError, match="not a bundle; create one first"):
        name_weights("a/b/c/d/1", tmp_path)


def test_a_preset_with_a_backbone_says_what_comes_next(own, monkeypatch, caplog):
    monkeypatch.setattr(stage, "build_wheel", lambda _, out: make_wheel(out, "humanpref", "0.1.0"))
    bundle(PROJECT, own, KernelRun("deberta-v3-small"))
    assert "next run: humanpref kaggle weights FOLDER" in caplog.text
    assert any("needs a backbone's weights" in str(finding) for finding in check_bundle(own))
