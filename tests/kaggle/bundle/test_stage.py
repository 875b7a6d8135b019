"""What is uploaded, and where it is mounted."""

import json
import shutil
import tomllib
import zipfile
from pathlib import Path

import pytest

import humanpref
from humanpref.config import load_config
from humanpref.files import read_json, sha256, write_json
from humanpref.kaggle.bundle import stage
from humanpref.kaggle.contract import COMPETITION, KernelRun
from humanpref.runs.train import train
from humanpref.schema import InputError

from ..fake_wheels import make_wheel

PROJECT = Path(__file__).parents[3]
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


@pytest.fixture
def artifact(arena, tmp_path) -> Path:
    """An artifact of the smallest model."""
    train(load_config("prior"), arena / "train.csv", tmp_path / "prior", None)
    return tmp_path / "prior"


def sources() -> set[Path]:
    """What a build could leave its droppings in or beside."""
    below = {path for path in (PROJECT / "src").rglob("*") if "__pycache__" not in path.parts}
    return below | {path for path in PROJECT.iterdir() if not path.name.startswith(".")}


def test_the_wheel_holds_the_package_and_the_checkout_stays_as_it_is(tmp_path):
    before = sources()
    wheel = stage.build_wheel(PROJECT, tmp_path / "one")
    assert sources() == before
    assert wheel.name == f"humanpref-{humanpref.__version__}-py3-none-any.whl"
    files = {
        path for path in before if path.is_file() and PROJECT / "src" / "humanpref" in path.parents
    }
    expected = {str(path.relative_to(PROJECT / "src")) for path in files}
    with zipfile.ZipFile(wheel) as archive:
        assert {name for name in archive.namelist() if ".dist-info/" not in name} == expected
    # The same sources give the same bytes, so that a digest tells whether a dataset is up to date.
    assert sha256(wheel) == sha256(stage.build_wheel(PROJECT, tmp_path / "two"))


def test_a_wheel_is_built_from_clean_sources(tmp_path):
    """What tools leave in a checkout is not copied, so that it can neither get into the wheel nor
    change its bytes."""
    for name in (
        "pkg/__init__.py",
        "pkg/__pycache__/a.pyc",
        "pkg.egg-info/SOURCES.txt",
        ".hidden",
        "pkg/deep/x.egg-info/y",
    ):
        (tmp_path / "src" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "src" / name).write_text("x")
    stage.copy_clean(tmp_path / "src", tmp_path / "copy")
    assert [path for path in (tmp_path / "copy").rglob("*") if path.is_file()] == [
        tmp_path / "copy" / "pkg" / "__init__.py"
    ]


def test_a_wheels_bytes_do_not_depend_on_order_times_modes_or_compression(tmp_path):
    built = []
    for number, names in enumerate(
        (["b.py", "a.py", "p-1.dist-info/RECORD"], ["p-1.dist-info/RECORD", "a.py", "b.py"])
    ):
        path = tmp_path / f"{number}.whl"
        with zipfile.ZipFile(
            path, "w", (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)[number]
        ) as archive:
            for name in names:
                entry = zipfile.ZipInfo(name, date_time=(2000 + number, 1, 1, 0, 0, 0))
                entry.external_attr = (0o100600, 0o100777)[number] << 16
                archive.writestr(entry, name * 50)
        built.append(stage._repack(path, tmp_path / f"{number}.out"))
    assert built[0].read_bytes() == built[1].read_bytes()
    with zipfile.ZipFile(built[0]) as archive:
        assert archive.namelist() == ["a.py", "b.py", "p-1.dist-info/RECORD"]
        assert archive.testzip() is None


def test_a_wheel_that_cannot_be_built(tmp_path):
    shutil.copytree(PROJECT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "setup.py").write_text("raise SystemExit('broken')")
    with pytest.raises(InputError, match="the wheel cannot be built, pip ended with 1"):
        stage.build_wheel(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A checkout with one vendored wheel, and an old wheel of ours beside it; our own wheel is not
    really built."""
    folder = tmp_path / "project"
    vendored = make_wheel(folder / "wheels", "peft", "0.20.0")
    make_wheel(folder / "wheels", "humanpref", "0.0.1")
    (folder / "wheels" / "image.txt").write_text("# Date: 2026-10\nnumpy==2.0.2\npeft==0.19.1\n")
    (folder / "wheels" / "requirements.lock").write_text(
        f"peft==0.20.0 \\\n    --hash=sha256:{sha256(vendored)}\n"
    )
    requires = ("numpy>=1.26", "peft>=0.20; extra == 'torch'")
    monkeypatch.setattr(
        stage,
        "build_wheel",
        lambda _, out: make_wheel(out, "humanpref", "0.1.0", requires=requires),
    )
    return folder


def test_the_staged_dataset(project, tmp_path):
    run = KernelRun("tiny", ("training.epochs=1",))
    folder = stage.stage_dataset(tmp_path / "dataset", project, run)
    manifest = read_json(folder / stage.MARKER)
    assert manifest["format"] == 1
    assert manifest["version"] == humanpref.__version__
    assert manifest["wheels"] == {"humanpref": "0.1.0", "peft": "0.20.0"}
    image = sha256(project / "wheels" / "image.txt")
    assert manifest["image"] == {
        "date": "2026-10",
        "sha256": image,
        "python": ["3.12", "3.13"],
        "versions": {"numpy": "2.0.2", "peft": "0.19.1"},
    }
    names = ["humanpref-0.1.0-py3-none-any.whl", "peft-0.20.0-py3-none-any.whl", "run.toml"]
    assert [entry["name"] for entry in manifest["files"]] == names
    for entry in manifest["files"]:
        path = folder / entry["name"]
        assert (path.stat().st_size, sha256(path)) == (entry["bytes"], entry["sha256"])
    assert sorted(path.name for path in folder.iterdir()) == sorted([*names, stage.MARKER])
    assert KernelRun.from_dict(tomllib.loads((folder / "run.toml").read_text())) == run
    assert stage.wheel_names(folder) == ["humanpref", "peft"]
    with pytest.raises(InputError, match="expected an empty folder"):
        stage.stage_dataset(folder, project, run)


def test_a_dataset_that_would_not_install_is_not_staged(project, tmp_path):
    (project / "wheels" / "image.txt").write_text("peft==0.19.1\n")
    with pytest.raises(
        InputError, match=r"needs numpy>=1\.26, which neither the image nor the bundle has"
    ):
        stage.stage_dataset(tmp_path / "dataset", project, KernelRun("sparse"))
    assert not (tmp_path / "dataset" / stage.MARKER).exists()


def test_artifacts_are_staged_without_what_tools_leave(project, artifact, tmp_path):
    for name in ("__pycache__/x.pyc", "x.egg-info/PKG-INFO", ".cache/x", "model/weights.partial"):
        (artifact / name).parent.mkdir(parents=True, exist_ok=True)
        (artifact / name).write_text("x")
    folder = stage.stage_dataset(tmp_path / "dataset", project, KernelRun("sparse"), [artifact])
    staged = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    expected = {
        f"artifacts/prior/{name}"
        for name in ("artifact.json", "metrics.json", "model/config.json", "model/model.json")
    }
    assert {name for name in staged if name.startswith("artifacts/")} >= expected - {
        "artifacts/prior/model/model.json"
    }
    assert not [
        name
        for name in staged
        if "pycache" in name or "egg-info" in name or ".cache" in name or "partial" in name
    ]
    assert {entry["name"] for entry in read_json(folder / stage.MARKER)["files"]} == staged - {
        stage.MARKER
    }
    with pytest.raises(InputError, match="another artifact is called prior"):
        stage.artifact_names([artifact, artifact])
    with pytest.raises(InputError, match="not an artifact"):
        stage.artifact_names([tmp_path])


@pytest.mark.parametrize(
    ("preset", "library", "version", "refused"),
    [
        ("tiny", "transformers", "5.0.0", False),
        ("tiny", "transformers", "4.57.0", False),
        ("tiny", "transformers", "5.15.0", True),
        ("tiny", "transformers", "a checkout", True),
        ("tiny", "tokenizers", "0.22.3", True),
        ("tiny", "tokenizers", "0.22.2+local", False),
        ("tiny", "peft", "0.21.0", False),  # nothing of it is in this model
        ("tiny", "torch", "2.13.0", False),  # tensors alone, which any version reads
        ("tiny", "scikit-learn", "1.8.0", False),
        ("deberta-best", "scikit-learn", "1.8.0", True),  # whose logits start from a sparse model's
        ("llama-3.2-1b-lora", "peft", "0.20.0", False),  # which the dataset brings
        ("llama-3.2-1b-lora", "peft", "0.21.0", True),
        ("llama-3.2-1b-dpo", "peft", "0.21.0", True),
        ("sparse", "scikit-learn", "1.7.0", True),
        ("sparse", "transformers", "9", False),
        ("boosted", "xgboost", "3.4.1", True),
        ("boosted", "lightgbm", "9", False),
        ("prior", "scikit-learn", "9", False),
    ],
)
def test_an_artifact_that_newer_libraries_wrote_than_the_image_has(
    project, artifact, tmp_path, preset, library, version, refused
):
    image = [
        "numpy==2.0.2",
        "peft==0.19.1",
        "transformers==5.0.0",
        "tokenizers==0.22.2",
        "torch==2.10.0",
    ]
    image += ["lightgbm==4.6.0", "xgboost==3.2.0", "scikit-learn==1.6.1"]
    (project / "wheels" / "image.txt").write_text("\n".join(image))
    facts = read_json(artifact / "artifact.json")
    write_json(artifact / "artifact.json", facts | {"versions": {library: version}})
    write_json(artifact / "model" / "config.json", load_config(preset).to_dict())
    if not refused:
        stage.stage_dataset(tmp_path / "dataset", project, KernelRun("sparse"), [artifact])
        return
    message = (
        rf"^artifacts/prior/artifact\.json: written by {library} {version}, the image has .*; "
        rf"train with the image's"
    )
    with pytest.raises(InputError, match=message):
        stage.stage_dataset(tmp_path / "dataset", project, KernelRun("sparse"), [artifact])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model/notes.txt", b"", "artifacts/prior/model/notes.txt: an empty file"),
        ("more.tar.gz", b"x", "artifacts/prior/more.tar.gz: an archive"),
        ("MORE.ZIP", b"x", "artifacts/prior/MORE.ZIP: an archive"),
        ("model/x.model", POINTER, "artifacts/prior/model/x.model: a git-lfs pointer"),
        (
            "model/x.safetensors",
            b"\x02" + bytes(7) + b"{",
            "artifacts/prior/model/x.safetensors: not whole safetensors",
        ),
    ],
)
def test_what_kaggle_would_drop_or_unpack(project, artifact, tmp_path, name, content, message):
    (artifact / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        stage.stage_dataset(tmp_path / "dataset", project, KernelRun("sparse"), [artifact])
    assert not (tmp_path / "dataset" / stage.MARKER).exists()


def test_what_must_not_be_uploaded(tmp_path):
    assert stage.upload_faults(tmp_path) == []
    (tmp_path / "a" / "__pycache__").mkdir(parents=True)
    (tmp_path / "a" / "__pycache__" / "b.pyc").write_text("x")
    (tmp_path / "b.egg-info").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    found = [fault.partition(":")[0] for fault in stage.upload_faults(tmp_path)]
    assert found == ["a/__pycache__", "a/__pycache__/b.pyc", "b.egg-info", "link"]


def test_nltk_data_is_staged_unpacked_and_in_english(project, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for name in (
        "tokenizers/punkt_tab/english/a.tab",
        "tokenizers/punkt_tab/german/a.tab",
        "tokenizers/punkt_tab/README",
    ):
        (first / name).parent.mkdir(parents=True, exist_ok=True)
        (first / name).write_text("first")
    (first / "tokenizers" / "punkt_tab" / "english" / "empty.tab").touch()
    for package, names in (
        ("corpora/stopwords", ("english", "german")),
        ("corpora/wordnet", ("data.noun", "lexnames")),
    ):
        (second / "corpora").mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(second / f"{package}.zip", "w") as archive:
            for name in names:
                archive.writestr(f"{package[8:]}/{name}", "second")
    folder = stage.stage_dataset(
        tmp_path / "dataset", project, KernelRun("sparse"), nltk_data=[first, second]
    )
    data = folder / "nltk_data"
    assert sorted(
        path.relative_to(data).as_posix() for path in data.rglob("*") if path.is_file()
    ) == [
        "corpora/stopwords/english",
        "corpora/wordnet/data.noun",
        "corpora/wordnet/lexnames",
        "tokenizers/punkt_tab/README",
        "tokenizers/punkt_tab/english/a.tab",
    ]
    with pytest.raises(InputError, match=f"no corpora/stopwords in {first} "):
        stage.stage_dataset(tmp_path / "other", project, KernelRun("sparse"), nltk_data=[first])


@pytest.mark.parametrize(
    ("kind", "reference", "new", "legacy"),
    [
        ("competition", COMPETITION, f"competitions/{COMPETITION}", COMPETITION),
        ("dataset", "me/humanpref-wheels", "datasets/me/humanpref-wheels", "humanpref-wheels"),
        ("dataset", "me/humanpref-wheels/3", "datasets/me/humanpref-wheels", "humanpref-wheels"),
        ("kernel", "me/humanpref-train", "notebooks/me/humanpref-train", "humanpref-train"),
        (
            "model",
            "meta/llama/transformers/1b/1",
            "models/meta/llama/transformers/1b/1",
            "llama/transformers/1b/1",
        ),
    ],
)
def test_where_kaggle_mounts(kind, reference, new, legacy):
    assert str(stage.mount_path(kind, reference, "new")) == new
    assert str(stage.mount_path(kind, reference, "legacy")) == legacy


@pytest.mark.parametrize(
    ("kind", "reference"), [("dataset", "wheels"), ("model", "a/b/c/d"), ("kernel", "me/")]
)
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
