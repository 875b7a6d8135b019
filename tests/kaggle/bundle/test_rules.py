"""Kaggle's rules: each slip is found, and named with its file and key."""

import re

import pytest

from humanpref.kaggle.bundle.assemble import KERNELS
from humanpref.kaggle.bundle.metadata import DATASET_METADATA
from humanpref.kaggle.bundle.rules import check_dataset, check_kernel
from humanpref.schema import InputError

from .committed import change

pytest.importorskip("slugify", reason="needs python-slugify, which the Kaggle client brings")


ID = "expected owner/slug without a version"
SLIPS = [
    ("id", "ann/abc", f"{ID}, .* hyphens and between 5 and 50 characters long"),
    ("id", f"ann/{'a' * 51}", ID),
    ("id", "ann/humanpref-train/3", ID),
    ("id", "ann/Humanpref-train", ID),
    ("id", "humanpref-train", ID),
    ("id", None, f"{ID}, .*, got None"),
    ("title", "Abcd", "expected text of 5 to 50 characters, got 'Abcd'"),
    ("title", "humanpref train " * 4, "expected text of 5 to 50 characters"),
    (
        "title",
        "Humanpref training",
        "becomes the slug 'humanpref-training', but the id says 'humanpref-train', .* use a title "
        "such as 'humanpref train'",
    ),
    ("title", None, "expected text of 5 to 50 characters, got None"),
    ("language", "r", 'expected "python", got "r"'),
    ("kernel_type", "script ", 'expected "script" or "notebook", got "script "'),
    ("code_file", "no.py", "no.py: cannot be read \\(No such file or directory\\)"),
    ("code_file", "../infer/infer.ipynb", "expected a path inside the metadata's folder"),
    ("code_file", "", "expected a path inside the metadata's folder, got ''"),
    ("enable_internet", None, "expected false, got null; Kaggle's default is true"),
    ("enable_internet", True, "expected false, got true; .* refuses a kernel with internet"),
    ("enable_internet", "false", 'expected false, got "false"'),
    ("enable_gpu", 1, "expected true or false or null, got 1"),
    ("enable_tpu", True, "expected false or null, got true; no model of this package uses a TPU"),
    ("is_private", 0, "expected true or false or null, got 0"),
    (
        "machine_shape",
        "NvidiaTeslaP100",
        'expected "NvidiaTeslaT4", which means two T4s, got .*P100',
    ),
    ("docker_image_pinning_type", "newest", 'expected "original" or "latest" or null'),
    ("dataset_sources", ["humanpref-wheels"], "expected owner/slug or owner/slug/VERSION, got 'hu"),
    ("dataset_sources", ["INSERT_USERNAME/humanpref-wheels", "a/b/c"], ", got 'a/b/c'"),
    ("kernel_sources", "ann/some-kernel", "expected a list of strings, got 'ann/some-kernel'"),
    ("model_sources", ["metaresearch/llama-3.2/transformers/1b"], "all five parts"),
    ("competition_sources", ["llm-classification-finetuning", "kaggle/some"], "without an owner"),
    ("keywords", [1], "expected a list of strings"),
]


@pytest.mark.parametrize(("key", "value", "message"), SLIPS)
def test_a_slip_in_a_kernels_metadata(project, key, value, message):
    path = change(project / KERNELS["train"], **{key: value})
    (finding,) = check_kernel(path).findings
    assert (finding.level, finding.key) == ("error", key)
    assert re.search(message, finding.problem), finding.problem
    assert str(finding) == f"error: {path}: key {key}: {finding.problem}"


def test_a_script_is_not_a_notebook(project):
    (finding,) = check_kernel(change(project / KERNELS["train"], kernel_type="notebook")).findings
    assert (finding.key, finding.problem.partition(";")[0]) == (
        "code_file",
        "'train.py' is not a notebook",
    )


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [("is_private", False, "would be public"), ("machine_shape", None, 'expected "NvidiaTeslaT4"')],
)
def test_what_may_be_intended_is_a_warning(project, key, value, message):
    (finding,) = check_kernel(change(project / KERNELS["train"], **{key: value})).findings
    assert (finding.level, finding.key) == ("warning", key)
    assert message in finding.problem


def test_without_a_gpu_any_machine_will_do(project):
    path = change(project / KERNELS["train"], enable_gpu=False, machine_shape=None)
    assert check_kernel(path).findings == []


def test_a_misspelt_key_is_unknown_and_the_real_one_missing(project):
    path = change(project / KERNELS["train"], enable_internet=None, enable_interent=False, zzz=1)
    findings = {finding.key: str(finding) for finding in check_kernel(path).findings}
    assert findings.keys() == {"enable_interent", "enable_internet", "zzz"}
    assert "did you mean enable_internet?" in findings["enable_interent"]
    assert "remove it" in findings["zzz"]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("id", "ann/short", "between 6 and 50 characters long, got 'ann/short'"),
        ("id", "ann/longer", None),
        ("title", "short", "expected text of 6 to 50 characters"),
        ("title", "longer", None),
        ("subtitle", "s" * 19, "expected text of 20 to 80 characters"),
        ("subtitle", "s" * 20, None),
        ("subtitle", "s" * 80, None),
        ("subtitle", "s" * 81, "expected text of 20 to 80 characters"),
        ("subtitle", None, None),
        ("licenses", [], "expected one license"),
        ("licenses", [{"name": "apache-2.0"}, {"name": "other"}], "expected one license"),
        ("licenses", ["apache-2.0"], "expected one license"),
        ("licenses", [{"name": "MIT"}], "for MIT"),
        ("resources", [], "unknown, so Kaggle ignores it; remove it"),
        ("license", "apache-2.0", "did you mean licenses?"),
        ("keywords", "one", "expected a list of strings"),
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
        (b"{'id': 1}", "not valid JSON"),
        (b'{"title": "a title", "title": "another title"}', "key 'title' appears twice"),
        (b"[]", "expected a JSON object"),
        (None, "cannot be read"),
    ],
)
@pytest.mark.parametrize("check", [check_dataset, check_kernel])
def test_a_file_that_is_not_metadata(tmp_path, check, content, message):
    path = tmp_path / "metadata.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        check(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff", "expected UTF-8 text"),
        (b"print()", "is not a notebook with a kernelspec; rebuild it"),
        (b'{"cells": [], "metadata": {}}', "is not a notebook with a kernelspec"),
        (b'{"metadata": {"kernelspec": {"name": ""}}}', "is not a notebook with a kernelspec"),
        (b"\xef\xbb\xbf{}", "is not a notebook with a kernelspec"),
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
    assert message in finding.problem


@pytest.mark.parametrize("source", ["a/b", "a/b/c"])
def test_a_source_listed_twice_is_a_warning(project, source):
    key = "dataset_sources"
    kernel = change(project / KERNELS["train"], dataset_sources=[source, source])
    levels = [(f.key, f.level) for f in check_kernel(kernel).findings]
    assert levels == [(key, "warning"), *([(key, "error")] if source == "a/b/c" else [])]


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
