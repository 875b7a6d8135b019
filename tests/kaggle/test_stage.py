"""What is uploaded, and where it is mounted."""

import json
import shutil
import tomllib
import zipfile
from pathlib import Path

import pytest

import humanpref
from humanpref.files import read_json, sha256
from humanpref.kaggle import stage
from humanpref.kaggle.kernels import Run
from humanpref.kaggle.metadata import COMPETITION
from humanpref.schema import InputError

PROJECT = Path(__file__).parents[2]


def sources() -> set[Path]:
    """What a build could leave its droppings in or beside."""
    below = {path for path in (PROJECT / "src").rglob("*") if "__pycache__" not in path.parts}
    return below | {path for path in PROJECT.iterdir() if not path.name.startswith(".")}


def test_the_wheel_holds_the_package_and_the_checkout_stays_as_it_is(tmp_path):
    before = sources()
    wheel = stage.build_wheel(PROJECT, tmp_path / "one")
    assert sources() == before
    assert wheel.name == f"humanpref-{humanpref.__version__}-py3-none-any.whl"
    package = (PROJECT / "src" / "humanpref").rglob("*")
    expected = {str(path.relative_to(PROJECT / "src")) for path in package if path.suffix in (".py", ".toml")}
    with zipfile.ZipFile(wheel) as archive:
        assert {name for name in archive.namelist() if ".dist-info/" not in name} == expected
    # The same sources give the same bytes, so that a digest tells whether a dataset is up to date.
    assert sha256(wheel) == sha256(stage.build_wheel(PROJECT, tmp_path / "two"))


def test_a_wheel_that_cannot_be_built(tmp_path):
    shutil.copytree(PROJECT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "setup.py").write_text("raise SystemExit('broken')")
    with pytest.raises(InputError, match="the wheel cannot be built, pip ended with 1"):
        stage.build_wheel(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_staged_dataset(tmp_path, monkeypatch):
    project = tmp_path / "project"
    (project / "wheels").mkdir(parents=True)
    (project / "wheels" / "peft-0.19.1-py3-none-any.whl").write_bytes(b"vendored")
    (project / "wheels" / "humanpref-0.0.1-py3-none-any.whl").write_bytes(b"an old one of ours")

    def build(_, out):
        (out / "humanpref-0.1.0-py3-none-any.whl").write_bytes(b"ours")

    monkeypatch.setattr(stage, "build_wheel", build)
    run = Run("tiny", ("training.epochs=1",))
    folder = stage.stage_dataset(tmp_path / "dataset", project, run)
    manifest = read_json(folder / stage.MARKER)
    assert manifest["format"] == 1
    assert manifest["version"] == humanpref.__version__
    names = ["humanpref-0.1.0-py3-none-any.whl", "peft-0.19.1-py3-none-any.whl", "run.toml"]
    assert [entry["name"] for entry in manifest["files"]] == names
    for entry in manifest["files"]:
        path = folder / entry["name"]
        assert (path.stat().st_size, sha256(path)) == (entry["bytes"], entry["sha256"])
    assert sorted(path.name for path in folder.iterdir()) == sorted([*names, stage.MARKER])
    assert Run.from_dict(tomllib.loads((folder / "run.toml").read_text())) == run
    assert stage.wheel_names(folder) == ["humanpref", "peft"]
    with pytest.raises(InputError, match="expected an empty folder"):
        stage.stage_dataset(folder, project, run)


@pytest.mark.parametrize(
    ("kind", "reference", "new", "legacy"),
    [
        ("competition", COMPETITION, f"competitions/{COMPETITION}", COMPETITION),
        ("dataset", "me/humanpref-wheels", "datasets/me/humanpref-wheels", "humanpref-wheels"),
        ("dataset", "me/humanpref-wheels/3", "datasets/me/humanpref-wheels", "humanpref-wheels"),
        ("kernel", "me/humanpref-train", "notebooks/me/humanpref-train", "humanpref-train"),
        ("model", "meta/llama/transformers/1b/1", "models/meta/llama/transformers/1b/1", "llama/transformers/1b/1"),
    ],
)
def test_where_kaggle_mounts(kind, reference, new, legacy):
    assert str(stage.mount_path(kind, reference, "new")) == new
    assert str(stage.mount_path(kind, reference, "legacy")) == legacy


@pytest.mark.parametrize(("kind", "reference"), [("dataset", "wheels"), ("model", "a/b/c/d"), ("kernel", "me/")])
def test_a_reference_that_names_nothing(kind, reference):
    with pytest.raises(InputError, match=f"does not name a {kind}"):
        stage.mount_path(kind, reference, "new")


def test_the_checkout_is_found_from_within_and_from_without(tmp_path, monkeypatch):
    assert stage.find_project(PROJECT / "kernel" / "infer") == PROJECT
    assert stage.find_project(tmp_path) == Path(humanpref.__file__).resolve().parents[2]
    installed = tmp_path / "lib" / "humanpref" / "__init__.py"
    monkeypatch.setattr(humanpref, "__file__", str(installed))
    with pytest.raises(InputError, match="no checkout of humanpref"):
        stage.find_project(tmp_path)


def test_the_code_of_a_notebook_is_that_of_its_code_cells(tmp_path):
    cells = [
        {"cell_type": "markdown", "source": ["# no code"]},
        {"cell_type": "code", "source": ["a = 1\n", "b = 2"]},
        {"cell_type": "code", "source": "print(a + b)"},
    ]
    (tmp_path / "n.ipynb").write_text(json.dumps({"cells": cells}))
    assert stage.kernel_code(tmp_path / "n.ipynb") == "a = 1\nb = 2\n\nprint(a + b)"
    (tmp_path / "s.py").write_text("print(1)\n")
    assert stage.kernel_code(tmp_path / "s.py") == "print(1)\n"
