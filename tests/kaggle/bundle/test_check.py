"""Kaggle's rules: each slip is found, named with its file and key, and all at once."""

import json
import shutil
from pathlib import Path

import pytest

from humanpref.cli.main import main
from humanpref.config import load_config
from humanpref.files import read_json, write_json
from humanpref.kaggle.bundle import check
from humanpref.kaggle.bundle.assemble import KERNELS
from humanpref.kaggle.bundle.check import check_bundle, check_dataset, check_kernel, check_project
from humanpref.kaggle.bundle.metadata import DATASET_METADATA, read_metadata, write_metadata
from humanpref.kaggle.bundle.stage import write_manifest
from humanpref.kaggle.contract import MARKER, KernelRun
from humanpref.runs.train import train
from humanpref.schema import InputError

pytest.importorskip("slugify", reason="needs python-slugify, which the Kaggle client brings")

PROJECT = Path(__file__).parents[3]


@pytest.fixture
def project(tmp_path) -> Path:
    """The committed metadata and code, to be spoilt."""
    for path in (
        DATASET_METADATA,
        *KERNELS.values(),
        "kernel/train/train.py",
        "kernel/infer/infer.ipynb",
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PROJECT / path, tmp_path / path)
    return tmp_path


def change(path: Path, **values) -> Path:
    """Change keys of a metadata file; None takes a key away."""
    metadata = read_metadata(path) | values
    write_metadata(path, {key: value for key, value in metadata.items() if value is not None})
    return path


def test_the_committed_files_have_no_findings(project):
    assert check_project(PROJECT) == check_project(project) == []


SLIPS = [
    ("id", "ann/abc", "has 3 characters; Kaggle takes 5 to 50"),
    ("id", "ann/humanpref-train/3", "leave the version away"),
    ("id", "humanpref-train", "write owner/slug"),
    ("id", None, "write owner/slug"),
    ("title", "Abcd", "has 4 characters; Kaggle takes 5 to 50"),
    ("title", "humanpref train " * 4, "Kaggle takes 5 to 50"),
    (
        "title",
        "Humanpref training",
        "becomes the slug 'humanpref-training', but the id says 'humanpref-train'",
    ),
    ("title", None, "expected text, got None"),
    ("language", "r", 'write "python"'),
    ("kernel_type", "script ", 'write "script" or "notebook"'),
    ("kernel_type", "notebook", "is no notebook"),
    ("code_file", "no.py", "cannot be read (No such file or directory)"),
    ("code_file", "../infer/infer.ipynb", "outside the metadata's folder"),
    ("code_file", "", "expected the path of the code"),
    ("enable_internet", None, "not set, and Kaggle's default is true"),
    ("enable_internet", True, "refuses a kernel with internet"),
    ("enable_internet", "false", 'expected true or false, got "false"'),
    ("enable_gpu", 1, "expected true or false, got 1"),
    ("is_private", 0, "expected true or false, got 0"),
    ("machine_shape", "NvidiaTeslaP100", "the P100 is retired"),
    ("docker_image_pinning_type", "newest", 'write "original" or "latest"'),
    (
        "dataset_sources",
        ["humanpref-wheels", "INSERT_USERNAME/humanpref-wheels"],
        "'humanpref-wheels' names nothing",
    ),
    ("dataset_sources", ["INSERT_USERNAME/humanpref-wheels", "a/b/c"], "'a/b/c' names nothing"),
    ("kernel_sources", "ann/some-kernel", "expected a list of texts"),
    ("model_sources", ["metaresearch/llama-3.2/transformers/1b"], "all five parts"),
    ("model_sources", ["metaresearch/llama-3.2/transformers/1b/latest"], "all five parts"),
    ("competition_sources", ["llm-classification-finetuning", "kaggle/some"], "without an owner"),
    ("keywords", [1], "expected a list of texts"),
]


@pytest.mark.parametrize(("key", "value", "message"), SLIPS)
def test_a_slip_in_a_kernels_metadata(project, key, value, message):
    path = change(project / KERNELS["train"], **{key: value})
    findings = check_kernel(path).findings
    assert {finding.level for finding in findings} == {"error"}
    expected = "code_file" if message == "is no notebook" else key
    # Another slug is another than the title's, too.
    assert {finding.key for finding in findings} == (
        {"id", "title"} if value == "ann/abc" else {expected}
    ), findings
    assert message in str(findings[0])
    assert str(findings[0]).startswith(f"error: {path}: key {expected}: ")
    assert "\n" not in str(findings[0])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("is_private", False, "would be public"),
        ("machine_shape", None, "means two T4"),
        ("model_sources", ["a/b/c/d/1"] * 2, "stands there twice"),
    ],
)
def test_what_can_be_left_as_it_is_is_a_warning(project, key, value, message):
    (finding,) = check_kernel(change(project / KERNELS["train"], **{key: value})).findings
    assert (finding.level, finding.key) == ("warning", key)
    assert message in str(finding)


def test_a_misspelt_key_is_unknown_and_the_real_one_missing(project):
    path = change(project / KERNELS["train"], enable_internet=None, enable_interent=False, zzz=1)
    findings = {finding.key: str(finding) for finding in check_kernel(path).findings}
    assert findings.keys() == {"enable_interent", "enable_internet", "zzz"}
    assert "did you mean enable_internet?" in findings["enable_interent"]
    assert "remove it" in findings["zzz"]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("id", "ann/short", "Kaggle takes 6 to 50"),
        ("title", "short", "Kaggle takes 6 to 50"),
        ("subtitle", "too short", "Kaggle takes 20 to 80"),
        ("licenses", [], "exactly one"),
        ("licenses", [{"name": "apache-2.0"}, {"name": "other"}], "exactly one"),
        ("licenses", ["apache-2.0"], "exactly one"),
        ("licenses", [{"name": "MIT"}], "Kaggle does not list MIT"),
        ("resources", [{"path": "no.csv"}], "'no.csv' is not there"),
        ("license", "apache-2.0", "did you mean licenses?"),
        ("description", "é" * 3, None),
    ],
)
def test_a_slip_in_a_datasets_metadata(project, key, value, message):
    findings = check_dataset(change(project / DATASET_METADATA, **{key: value})).findings
    assert [finding.key for finding in findings] == ([key] if message else [])
    assert message is None or message in str(findings[0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xef\xbb\xbf{}", "byte order mark"),
        ('{"title": "é"}'.encode(), "in the machine's encoding"),
        (b"{'id': 1}", "not valid JSON"),
        (b"[]", "expected a JSON object"),
        (b"{}", "expected a JSON object with keys"),
        (b'{"title": "a title", "title": "another"}', "stands there twice"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_is_not_plain_json(tmp_path, content, message):
    path = tmp_path / DATASET_METADATA
    if content is not None:
        path.write_bytes(content)
    assert any(message in str(finding) for finding in check_dataset(path).findings)


def test_letters_beyond_ascii_are_for_kernels_alone(project):
    path = project / KERNELS["train"]
    path.write_text(
        json.dumps(read_metadata(path) | {"keywords": ["é"]}, ensure_ascii=False), encoding="utf-8"
    )
    assert check_kernel(path).findings == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\xef\xbb\xbfprint()", "byte order mark"),
        (b"\xff", "is not UTF-8"),
        (b"print()", "is not a notebook"),
        (b'{"cells": [{"cell_type": "code"}], "metadata": {}}', "no metadata.kernelspec"),
        (b'{"cells": [], "metadata": {"kernelspec": {"name": "python3"}}}', "no code cell"),
        (
            b'{"cells": [{"cell_type": "code"}], "metadata": {"kernelspec": {"name": "python3"}}}',
            'expected one line MANIFEST = ""',
        ),
    ],
)
def test_a_slip_in_the_code(project, content, message):
    (project / "kernel" / "infer" / "infer.ipynb").write_bytes(content)
    (finding,) = check_kernel(project / KERNELS["infer"]).findings
    assert finding.key == "code_file"
    assert message in str(finding)


def test_every_source_that_a_kernel_needs_is_named(project):
    change(
        project / KERNELS["infer"],
        dataset_sources=[],
        competition_sources=["titanic"],
        kernel_sources=None,
    )
    change(project / KERNELS["train"], dataset_sources=["INSERT_USERNAME/humanpref-wheels/2"])
    findings = check_project(project)
    assert [(finding.path, finding.key) for finding in findings] == [
        (project / KERNELS["infer"], key)
        for key in ("competition_sources", "dataset_sources", "kernel_sources")
    ]
    assert "the training kernel's output (INSERT_USERNAME/humanpref-train) is not named" in str(
        findings[2]
    )


def test_all_findings_come_at_once_and_end_in_an_exit_code(project, monkeypatch, capsys):
    change(project / KERNELS["train"], title="x", enable_internet=None)
    change(project / DATASET_METADATA, subtitle="short")
    monkeypatch.setattr("humanpref.kaggle.bundle.stage.find_project", lambda: project)
    assert main(["kaggle", "check"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "4 errors, 0 warnings"
    assert len(lines) == 5
    change(
        project / KERNELS["train"], title="humanpref train", enable_internet=False, is_private=False
    )
    shutil.copyfile(PROJECT / DATASET_METADATA, project / DATASET_METADATA)
    assert main(["kaggle", "check"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "0 errors, 1 warnings"


# -------------------------------------------------------------------------------------------------
# bundles


@pytest.fixture
def bundle(tmp_path) -> Path:
    """A bundle that was made by hand: metadata, code and one file."""
    folder = tmp_path / "bundle"
    for name, path in KERNELS.items():
        code = read_metadata(PROJECT / path)["code_file"]
        (folder / name / code).parent.mkdir(parents=True)
        shutil.copyfile((PROJECT / path).parent / code, folder / name / code)
        shutil.copyfile(PROJECT / path, folder / name / "kernel-metadata.json")
    dataset = folder / "dataset"
    dataset.mkdir()
    shutil.copyfile(PROJECT / DATASET_METADATA, dataset / DATASET_METADATA)
    (dataset / "run.toml").write_text(KernelRun("sparse").to_toml())
    write_manifest(dataset, MARKER, {})
    return folder


def test_a_bundles_files_are_those_of_the_manifest(bundle):
    assert check_bundle(bundle) == []
    dataset = bundle / "dataset"
    (dataset / "run.toml").write_text(KernelRun("prior").to_toml())
    (dataset / "more").write_text("x")
    assert [(f.path.name, f.problem) for f in check_bundle(bundle)] == [
        ("more", "not in the manifest"),
        ("run.toml", "not the file that the manifest describes"),
    ]
    (dataset / "run.toml").unlink()
    (dataset / "more").write_text("")
    problems = {(f.path.name, f.problem) for f in check_bundle(bundle)}
    assert {
        ("run.toml", "in the manifest, but not there"),
        ("more", "an empty file, which Kaggle drops"),
    } < problems
    (dataset / MARKER).write_text("[]")
    assert any("not a manifest" in f.problem for f in check_bundle(bundle))
    (dataset / MARKER).unlink()
    with pytest.raises(InputError, match="not a bundle"):
        check_bundle(bundle)


def test_a_backbone_that_no_source_mounts(bundle):
    dataset = bundle / "dataset"

    def problems(run: KernelRun) -> list[str]:
        (dataset / "run.toml").write_text(run.to_toml())
        write_manifest(dataset, MARKER, {})
        return [finding.problem for finding in check_bundle(bundle)]

    assert problems(KernelRun("tiny")) == []
    assert problems(KernelRun("cpu-best")) == []  # which leaves out the member that needs one
    assert "needs a backbone's weights" in problems(KernelRun("deberta-v3-small"))[0]
    assert "no source mounts it" in problems(KernelRun("deberta-v3-small", backbone="deberta"))[0]
    assert "unknown preset" in problems(KernelRun("tinny"))[0]
    change(
        bundle / "train" / "kernel-metadata.json",
        model_sources=["microsoft/deberta/transformers/small/1"],
    )
    assert problems(KernelRun("deberta-v3-small", backbone="deberta/transformers/small")) == []
    assert problems(KernelRun("deberta-v3-small", backbone="deberta/small")) != []


def test_artifacts_in_the_dataset_stand_for_the_training_kernel(bundle):
    change(bundle / "infer" / "kernel-metadata.json", kernel_sources=[])
    assert [finding.key for finding in check_bundle(bundle)] == ["kernel_sources"]
    (bundle / "dataset" / "artifacts").mkdir()
    assert check_bundle(bundle) == []


def test_an_artifact_that_newer_libraries_wrote_than_the_image_has(bundle, arena):
    dataset = bundle / "dataset"
    artifact = train(
        load_config("prior"), arena / "train.csv", dataset / "artifacts" / "mine", None
    ).folder
    write_json(artifact / "model" / "config.json", load_config("tiny").to_dict())
    facts = read_json(artifact / "artifact.json")

    def problems(version: str, **manifest) -> list[str]:
        write_json(artifact / "artifact.json", facts | {"versions": {"transformers": version}})
        write_manifest(dataset, MARKER, manifest)
        return [finding.problem for finding in check_bundle(bundle)]

    image = {"versions": {"transformers": "5.0.0"}}
    assert problems("5.0.0", image=image, wheels={}) == []
    assert problems("5.15.0", image=image, wheels={}) == [
        "written by transformers 5.15.0, the image has 5.0.0"
    ]
    assert problems("5.15.0", image=image, wheels={"transformers": "5.15.0"}) == []
    assert problems("5.0.0") == ["does not say which versions the image has"]
    write_json(artifact / "artifact.json", facts | {"versions": ["transformers"]})
    write_manifest(dataset, MARKER, {"image": image, "wheels": {}})
    assert "key 'versions': expected versions by library" in str(check_bundle(bundle)[0])


def test_a_missing_library_is_named(project, monkeypatch):
    import builtins

    original = builtins.__import__

    def without(name, *rest):
        if name == "slugify":
            raise ImportError(name)
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match="needs python-slugify"):
        check.check_project(project)
