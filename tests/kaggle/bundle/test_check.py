"""Kaggle's rules: each slip is found, named with its file and key, and all at once."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from humanpref.cli.main import main
from humanpref.config import load_config
from humanpref.files import read_json, write_json
from humanpref.kaggle.bundle.assemble import KERNELS
from humanpref.kaggle.bundle.check import check_bundle, check_project
from humanpref.kaggle.bundle.manifest import write_manifest
from humanpref.kaggle.bundle.metadata import DATASET_METADATA, read_metadata
from humanpref.kaggle.contract import MARKER, KernelRun
from humanpref.runs.artifact_files import seal
from humanpref.runs.train import train
from humanpref.schema import InputError

from .committed import FACTS, IMAGE, change

pytest.importorskip("slugify", reason="needs python-slugify, which the Kaggle client brings")

PROJECT = Path(__file__).parents[3]


def test_the_committed_files_have_no_findings(project):
    assert check_project(PROJECT) == check_project(project) == []


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
    assert "the training kernel's output (INSERT_USERNAME/humanpref-train) is not listed" in str(
        findings[2]
    )


def test_all_findings_come_at_once_and_end_in_an_exit_code(project, monkeypatch, capsys):
    change(project / KERNELS["train"], title="x", enable_internet=None)
    change(project / DATASET_METADATA, subtitle="short")
    monkeypatch.setattr("humanpref.kaggle.bundle.checkout.find_project", lambda: project)
    assert main(["kaggle", "check"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "3 errors, 0 warnings"
    assert len(lines) == 4
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
        # As a bundle has it: the models of this preset use no GPU.
        change(folder / name / "kernel-metadata.json", enable_gpu=False, machine_shape=None)
    dataset = folder / "dataset"
    dataset.mkdir()
    shutil.copyfile(PROJECT / DATASET_METADATA, dataset / DATASET_METADATA)
    (dataset / "run.toml").write_text(KernelRun("sparse").to_toml())
    write_manifest(dataset, MARKER, FACTS)
    return folder


def test_a_bundles_files_are_those_of_the_manifest(bundle):
    assert check_bundle(bundle) == []
    dataset = bundle / "dataset"
    (dataset / "run.toml").write_text(KernelRun("prior").to_toml())
    (dataset / "more").write_text("x")
    assert [(f.path.name, f.problem.partition(" (rerun")[0]) for f in check_bundle(bundle)] == [
        ("more", "not in the manifest"),
        ("run.toml", "not the file that the manifest describes"),
    ]
    (dataset / "more").write_text("")
    (finding,) = (f for f in check_bundle(bundle) if f.path.name == "more")
    assert finding.problem.startswith("an empty file, which Kaggle drops")
    (dataset / MARKER).write_text("[]")
    assert any("not a manifest" in f.problem for f in check_bundle(bundle))
    (dataset / "run.toml").unlink()
    with pytest.raises(InputError, match=r"run\.toml: cannot be read"):
        check_bundle(bundle)
    (dataset / MARKER).unlink()
    with pytest.raises(InputError, match="not a bundle"):
        check_bundle(bundle)


def test_a_gpu_that_does_not_fit_the_models(bundle):
    for name, kernel in KERNELS.items():
        change(bundle / name / Path(kernel).name, enable_gpu=True, machine_shape="NvidiaTeslaT4")
    assert [(finding.key, finding.level) for finding in check_bundle(bundle)] == [
        ("enable_gpu", "warning")
    ] * 2
    dataset = bundle / "dataset"
    (dataset / "run.toml").write_text(KernelRun("tiny").to_toml())
    write_manifest(dataset, MARKER, FACTS)
    assert check_bundle(bundle) == []
    change(bundle / "train" / "kernel-metadata.json", enable_gpu=False)
    (finding,) = check_bundle(bundle)
    assert "the kernel's models use a GPU; set it to true" in str(finding)


def test_a_backbone_that_no_source_mounts(bundle):
    dataset = bundle / "dataset"

    def problems(run: KernelRun) -> list[str]:
        (dataset / "run.toml").write_text(run.to_toml())
        write_manifest(dataset, MARKER, FACTS)
        found = check_bundle(bundle)
        return [finding.problem for finding in found if finding.key != "enable_gpu"]

    assert problems(KernelRun("tiny")) == []
    assert problems(KernelRun("cpu-best")) == []  # which leaves out the member that needs one
    assert "needs a backbone's weights" in problems(KernelRun("deberta-v3-small"))[0]
    assert "no source mounts it" in problems(KernelRun("deberta-v3-small", backbone="deberta"))[0]
    with pytest.raises(InputError, match="unknown preset"):
        problems(KernelRun("tinny"))
    change(
        bundle / "train" / "kernel-metadata.json",
        model_sources=["microsoft/deberta/transformers/small/1"],
    )
    assert problems(KernelRun("deberta-v3-small", backbone="deberta/transformers/small")) == []
    assert problems(KernelRun("deberta-v3-small", backbone="deberta/small")) != []


def test_a_library_that_neither_the_image_nor_the_bundle_has(bundle, arena):
    dataset = bundle / "dataset"
    change(
        bundle / "train" / "kernel-metadata.json",
        model_sources=["google/gemma-2/transformers/9b-it/1"],
    )

    def problems(run: KernelRun, *without: str, **wheels: str) -> list[str]:
        (dataset / "run.toml").write_text(run.to_toml())
        image = {name: version for name, version in IMAGE.items() if name not in without}
        facts = {"image": {"versions": image}, "wheels": FACTS["wheels"] | wheels}
        write_manifest(dataset, MARKER, facts)
        found = check_bundle(bundle)
        return [finding.problem for finding in found if finding.key != "enable_gpu"]

    quantised = KernelRun("gemma-2-9b-qlora", backbone="gemma-2/transformers/9b-it")
    assert problems(quantised, bitsandbytes="0.49.2") == []
    (problem,) = problems(quantised)
    assert problem.startswith(
        "preset gemma-2-9b-qlora needs bitsandbytes, which neither the image nor the bundle has; "
        "rerun humanpref kaggle bundle (and humanpref kaggle lock before it"
    )
    assert problems(replace(quantised, overrides=("model.quantisation=none",))) == []
    (problem,) = problems(KernelRun("boosted"), "xgboost")
    assert problem.startswith("preset boosted needs xgboost, which neither")
    (problem,) = problems(KernelRun("cpu-best"), "sentence-transformers")
    assert problem.startswith("preset cpu-best needs sentence-transformers, which neither")
    mine = dataset / "artifacts" / "mine"
    train(load_config("prior"), arena / "train.csv", mine, None)
    write_json(mine / "model" / "config.json", load_config("qwen-2.5-7b-qlora").to_dict())
    # Without the versions that wrote it, which may be newer than the image's.
    seal(mine, read_json(mine / "artifact.json") | {"versions": {}})
    (problem,) = problems(KernelRun("sparse"))
    assert problem.startswith("artifact mine needs bitsandbytes, which neither")


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
        seal(artifact, facts | {"versions": {"transformers": version}})
        write_manifest(dataset, MARKER, manifest)
        found = check_bundle(bundle)
        return [finding.problem for finding in found if finding.key != "enable_gpu"]

    image = {"versions": IMAGE | {"transformers": "5.0.0"}}
    assert problems("5.0.0", image=image, wheels={}) == []
    assert problems("5.15.0", image=image, wheels={}) == [
        "written by transformers 5.15.0, but the image has 5.0.0; train with the image's versions "
        "(constraints.txt), or name a newer freeze (bundle --image)"
    ]
    assert problems("5.15.0", image=image, wheels={"transformers": "5.15.0"}) == []
    seal(artifact, facts | {"versions": ["transformers"]})
    write_manifest(dataset, MARKER, {"image": image, "wheels": {}})
    with pytest.raises(InputError, match="key 'versions': cannot be read"):
        check_bundle(bundle)
