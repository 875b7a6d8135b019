"""The staged dataset: what is uploaded for both kernels."""

import tomllib
import zipfile
from pathlib import Path

import pytest

from humanpref.config import load_config
from humanpref.files import read_json, sha256, write_json
from humanpref.kaggle.bundle import stage
from humanpref.kaggle.contract import KernelRun
from humanpref.runs.artifact_files import seal
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
    requires = (
        "numpy>=1.26",
        "peft>=0.20; extra == 'torch'",
        "bitsandbytes>=0.49; extra == 'quantised'",
    )
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
    assert manifest["wheels"] == {"humanpref": "0.1.0", "peft": "0.20.0"}
    assert manifest["image"] == {"versions": {"numpy": "2.0.2", "peft": "0.19.1"}}
    names = ["humanpref-0.1.0-py3-none-any.whl", "peft-0.20.0-py3-none-any.whl", "run.toml"]
    assert [entry["name"] for entry in manifest["files"]] == names
    for entry in manifest["files"]:
        path = folder / entry["name"]
        assert (path.stat().st_size, sha256(path)) == (entry["bytes"], entry["sha256"])
    assert sorted(path.name for path in folder.iterdir()) == sorted([*names, stage.MARKER])
    assert KernelRun.from_dict(tomllib.loads((folder / "run.toml").read_text())) == run


QLORA = "qwen-2.5-7b-qlora"


@pytest.fixture
def with_bitsandbytes(project) -> Path:
    """The vendored wheel of bitsandbytes, in the lock as well."""
    wheel = make_wheel(project / "wheels", "bitsandbytes", "0.49.2", requires=("numpy",))
    with open(project / "wheels" / "requirements.lock", "a") as lock:
        lock.write(f"bitsandbytes==0.49.2 --hash=sha256:{sha256(wheel)}\n")
    return wheel


def test_a_quantised_preset_brings_bitsandbytes(with_bitsandbytes, project, tmp_path):
    folder = stage.stage_dataset(tmp_path / "dataset", project, KernelRun(QLORA))
    manifest = read_json(folder / stage.MARKER)
    assert manifest["wheels"]["bitsandbytes"] == "0.49.2"
    digests = {entry["name"]: entry["sha256"] for entry in manifest["files"]}
    assert digests[with_bitsandbytes.name] == sha256(folder / with_bitsandbytes.name)
    assert digests[with_bitsandbytes.name] == sha256(with_bitsandbytes)
    plain = KernelRun(QLORA, ("model.quantisation=none",))
    folder = stage.stage_dataset(tmp_path / "plain", project, plain)
    assert "bitsandbytes" not in read_json(folder / stage.MARKER)["wheels"]
    assert not (folder / with_bitsandbytes.name).exists()


def test_a_quantised_artifact_brings_bitsandbytes(with_bitsandbytes, project, artifact, tmp_path):
    write_json(artifact / "model" / "config.json", load_config(QLORA).to_dict())
    seal(artifact, read_json(artifact / "artifact.json"))
    folder = stage.stage_dataset(tmp_path / "dataset", project, KernelRun(""), [artifact])
    assert (folder / with_bitsandbytes.name).is_file()
    assert stage.configs_of(folder, KernelRun(QLORA)).keys() == {
        f"preset {QLORA}",
        "artifact prior",
    }


def test_a_quantised_preset_without_the_wheel_is_not_staged(project, tmp_path):
    needs = r"needs bitsandbytes>=0\.49, which neither the image nor the bundle has"
    with pytest.raises(InputError, match=needs):
        stage.stage_dataset(tmp_path / "dataset", project, KernelRun(QLORA))


def test_a_dataset_that_would_not_install_is_not_staged(project, tmp_path):
    (project / "wheels" / "image.txt").write_text("peft==0.19.1\n")
    with pytest.raises(
        InputError, match=r"needs numpy>=1\.26, which neither the image nor the bundle has"
    ):
        stage.stage_dataset(tmp_path / "dataset", project, KernelRun("sparse"))
    assert not (tmp_path / "dataset" / stage.MARKER).exists()


def test_artifacts_are_staged_without_what_tools_leave(project, artifact, tmp_path):
    for name in ("__pycache__/x.pyc", "x.egg-info/PKG-INFO", ".cache/x", "weights.partial"):
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
    for artifacts, message in (
        ([artifact, artifact], "another artifact is also named prior"),
        ([tmp_path], "not an artifact"),
    ):
        with pytest.raises(InputError, match=message):
            stage.stage_dataset(tmp_path / message, project, KernelRun(""), artifacts)


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
    write_json(artifact / "model" / "config.json", load_config(preset).to_dict())
    seal(artifact, facts | {"versions": {library: version}})
    if not refused:
        stage.stage_dataset(tmp_path / "dataset", project, KernelRun("sparse"), [artifact])
        return
    message = (
        rf"^artifacts/prior/artifact\.json: written by {library} {version}, but the image has .*; "
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
            "artifacts/prior/model/x.safetensors: an incomplete safetensors file",
        ),
    ],
)
def test_what_kaggle_would_drop_or_unpack(project, artifact, tmp_path, name, content, message):
    (artifact / name).write_bytes(content)
    seal(artifact, read_json(artifact / "artifact.json"))
    with pytest.raises(InputError, match=message):
        stage.stage_dataset(tmp_path / "dataset", project, KernelRun("sparse"), [artifact])
    assert not (tmp_path / "dataset" / stage.MARKER).exists()


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
