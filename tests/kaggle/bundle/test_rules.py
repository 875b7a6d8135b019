"""Kaggle's rules: each slip is found, and named with its file and key."""

import json

import pytest

from humanpref.kaggle.bundle.assemble import KERNELS
from humanpref.kaggle.bundle.metadata import DATASET_METADATA, read_metadata
from humanpref.kaggle.bundle.rules import check_dataset, check_kernel
from humanpref.schema import InputError

from .committed import change

pytest.importorskip("slugify", reason="needs python-slugify, which the Kaggle client brings")


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


def test_a_missing_library_is_named(project, monkeypatch):
    import builtins

    original = builtins.__import__

    def without(name, *rest):
        if name == "slugify":
            raise ImportError(name)
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match="needs python-slugify"):
        check_kernel(project / KERNELS["train"])
