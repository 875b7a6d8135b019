"""Kernels in their boxes, with what their metadata names."""

from pathlib import Path

from humanpref.files import write_json
from humanpref.kaggle.rehearsal.kernels import Kernels


def test_inputs_are_mounted_as_the_metadata_says(report, arena, tmp_path):
    sources = {("competition", "c"): arena, ("dataset", "me/d"): arena}
    sources["model", "a/b/c/d/1"] = arena
    kernels = Kernels(tmp_path, sources, report, print)
    metadata = {
        "competition_sources": ["c"],
        "dataset_sources": ["me/other"],
        "kernel_sources": ["me/k"],
        "model_sources": [],
    }
    kernels.mount(tmp_path / "input", metadata, Path("k.json"))
    mounted = sorted(
        str(path.parent.relative_to(tmp_path / "input"))
        for path in tmp_path.glob("input/**/train.csv")
    )
    assert mounted == ["competitions/c", "models/a/b/c/d/1"]
    assert any("the dataset me/other is not here" in warning for warning in report.warnings)
    assert any("the kernel me/k is not here" in warning for warning in report.warnings)
    assert any("name your own in its model_sources" in warning for warning in report.warnings)


def test_a_kernel_that_writes_its_inputs_fails(tmp_path, report):
    """Mode none cannot keep it from doing so, but sees it."""
    kernel = tmp_path / "kernel"
    kernel.mkdir()
    (kernel / "k.py").write_text(
        "import os; open(os.environ['HUMANPREF_KAGGLE_ROOT'] + '/input/x', 'w').close()"
    )
    metadata = {
        "id": "me/kernel",
        "code_file": "k.py",
        "kernel_type": "script",
        "enable_internet": False,
    }
    write_json(kernel / "kernel-metadata.json", metadata)
    report.mode = "none"
    Kernels(tmp_path, {}, report, print).run("train", kernel / "kernel-metadata.json")
    assert report.exit_codes["train"] == 0
    assert report.reasons == ["training: changed its input folder, which is read-only on Kaggle"]
