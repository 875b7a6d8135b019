"""The dry run from end to end."""

import dataclasses
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from humanpref.cli.main import main
from humanpref.config import load_config
from humanpref.data import check_submission
from humanpref.files import read_json, write_json
from humanpref.kaggle.bundle import stage
from humanpref.kaggle.competitions import COMPETITIONS, LMSYS, WSDM
from humanpref.kaggle.rehearsal import sandbox
from humanpref.kaggle.rehearsal.dry_run import DryRun, dry_run
from humanpref.runs import train as experiment
from humanpref.runs.artifact_files import seal
from humanpref.schema import InputError

PROJECT = Path(__file__).parents[3]


@pytest.fixture
def _one_wheel(tmp_path_factory, monkeypatch):
    """Build the package's wheel once for all tests here."""
    folder = tmp_path_factory.getbasetemp() / "wheel-of-the-dry-run"
    build = stage.build_wheel

    def copy(project, out):
        (wheel,) = list(folder.glob("*.whl")) or [build(project, folder)]
        return Path(shutil.copy(wheel, out))

    monkeypatch.setattr(stage, "build_wheel", copy)


@pytest.fixture
def labelled_test(arena) -> Path:
    """The arena's test rows with their labels, as a user may have them."""
    return arena / "test_labels.csv"


@pytest.mark.usefixtures("_one_wheel")
def test_the_whole_way(arena, tmp_path):
    lines = []
    out = tmp_path / "results"
    options = DryRun(preset="prior", out=out, layout="legacy", project=PROJECT)
    report = dry_run(options, lines.append)
    text = report.render()
    assert report.passed, text
    isolated = sandbox.why_no_bubblewrap() is None
    assert text.endswith("PASS" if isolated else "PASS, WITHOUT ISOLATION")
    assert report.exit_codes == {"train": 0, "infer": 0}
    assert (report.train_rows, report.test_rows, report.predicted) == (2000, 400, 400)
    assert report.log_loss == pytest.approx(report.prior_log_loss)
    assert report.projected_seconds > 0
    assert report.rows_per_second > 0
    for name in ("train", "infer"):
        assert report.probes[name].unreachable
        assert any(line.startswith(f"[{name}] Successfully installed humanpref-") for line in lines)
    assert len(pd.read_csv(out / "submission.csv")) == 400
    assert "400 predicted, 0 fallback" in (out / "infer.log").read_text()
    saved = read_json(out / "report.json")
    assert saved["passed"] is True
    assert saved["log_loss"] == report.log_loss
    # The folder is ours now: another run may write there, and one that fails leaves no old
    # submission behind.
    broken = tmp_path / "broken"
    for path in (
        "kernel-metadata.json",
        "dataset-metadata.json",
        "kernel",
        "src",
        "setup.py",
        "README.md",
        "wheels",
    ):
        (broken / path).parent.mkdir(parents=True, exist_ok=True)
        (broken / path).symlink_to(PROJECT / path)
    (broken / "kernel").unlink()
    (broken / "kernel" / "train").mkdir(parents=True)
    metadata = json.loads((PROJECT / "kernel" / "train" / "kernel-metadata.json").read_text())
    write_json(
        broken / "kernel" / "train" / "kernel-metadata.json", metadata | {"enable_internet": True}
    )
    (broken / "kernel" / "train" / "train.py").write_text("raise SystemExit('no luck')")
    rows = {"train": arena / "train.csv", "test": arena / "test.csv"}
    options = dataclasses.replace(options, layout="new", project=broken, **rows)
    report = dry_run(options, lines.append)
    assert not report.passed
    assert "the training kernel ended with exit code 1" in report.reasons
    assert any("enable_internet is not false" in reason for reason in report.reasons)
    assert "[train] no luck" in lines
    assert not (out / "submission.csv").exists()
    assert read_json(out / "report.json")["passed"] is False
    assert report.render().endswith("FAIL")


# ----------------------------------------------------------------------------------- inference
# alone, more rows, and faults


@pytest.fixture(scope="module")
def artifact(arena, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("artifact") / "prior"
    experiment.train(load_config("prior"), arena / "train.csv", folder, None)
    return folder


@pytest.mark.slow
@pytest.mark.usefixtures("_one_wheel")
def test_inference_alone_on_more_rows(artifact, labelled_test, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = [
        "--quiet",
        "kaggle",
        "dry-run",
        "--artifact",
        str(artifact),
        "--test",
        str(labelled_test),
        "--rows",
        "1500",
    ]
    assert main([*command, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == read_json(tmp_path / "dry-run" / "report.json")
    assert report["passed"] is True
    assert list(report["exit_codes"]) == ["infer"]
    assert (report["test_rows"], report["predicted"]) == (1500, 1500)
    assert report["warnings"] == []
    assert report["log_loss"] == pytest.approx(report["prior_log_loss"])
    assert 2**20 < report["peak_memory_bytes"]["infer"] < 2**33
    assert report["disk_bytes"]["infer"] > (tmp_path / "dry-run" / "submission.csv").stat().st_size


@pytest.mark.slow
@pytest.mark.usefixtures("_one_wheel")
def test_a_lora_artifact_beside_the_images_torchao(decoder_folder, arena, labelled_test, tmp_path):
    """It only names its base, which is elsewhere in the box than where it was trained; peft refuses
    this torchao."""
    pytest.importorskip("peft")
    folder = decoder_folder()
    settings = [
        f"model.backbone={folder}",
        "model.max_length=80",
        "model.system_prompt=",
        "model.question=Which?",
    ]
    settings += ["training.seconds=1"]
    config = load_config("llama-3.2-1b-lora", None, settings)
    trained = experiment.train(config, arena / "train.csv", tmp_path / "lora")
    # Without the versions that wrote it, which may be newer than the image's.
    seal(trained.folder, trained.facts | {"versions": {}})
    # Without namespaces the box sees this machine's files: the base must not be found where it was.
    moved = shutil.move(folder, tmp_path / "tiny-llama")
    try:
        options = DryRun(
            test=labelled_test,
            artifacts=(tmp_path / "lora",),
            overrides=(f"model.backbone={moved}",),
            test_rows=6,
            memory=8,
            layout="legacy",
            out=tmp_path / "out",
            project=PROJECT,
        )
        report = dry_run(options, len)
    finally:
        shutil.move(moved, folder)
    assert report.passed, report.render()
    assert report.predicted == 6


@pytest.mark.slow
@pytest.mark.usefixtures("_one_wheel")
def test_both_layouts_and_too_little_memory(artifact, labelled_test, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = [
        "--quiet",
        "kaggle",
        "dry-run",
        "--artifact",
        str(artifact),
        "--test",
        str(labelled_test),
        "--json",
    ]
    assert main([*command, "--layout", "both", "--memory", "0.0625"]) == 1
    reports = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(report["layout"], report["passed"]) for report in reports] == [
        ("new", False),
        ("legacy", False),
    ]
    for report in reports:
        assert "commit run: expected exit code 0, got 1" in report["reasons"]
        assert "commit run: degraded: 24 of 24 rows have the prior" in report["reasons"]
        assert any("SIGKILL; out of memory?" in reason for reason in report["reasons"])
        assert report == read_json(tmp_path / "dry-run" / report["layout"] / "report.json")


FAILURES = {
    "missing-dataset": "expected one dataset with humanpref-dataset.json under",
    "corrupt-wheel": "with SHA-256",
    "corrupt-weights": "artifacts/prior/",
    "slow": "TimeoutError: stopped after",
    "oom": "RuntimeError: the inference process ended with -9 (SIGKILL; out of memory?)",
}
"""What is told of the faults with which nothing can be predicted."""


@pytest.mark.slow
@pytest.mark.usefixtures("_one_wheel")
@pytest.mark.parametrize("fault", FAILURES)
def test_a_fault_fails_the_commit_run_and_not_the_hidden_one(
    fault, artifact, labelled_test, tmp_path
):
    options = DryRun(
        test=labelled_test,
        artifacts=(artifact,),
        fault=fault,
        out=tmp_path / "out",
        project=PROJECT,
    )
    report = dry_run(options, len)
    assert report.passed, report.render()
    assert report.exit_codes == {"infer": 1, "rerun": 0}
    assert report.predicted == 0
    for name in ("infer", "rerun"):
        assert FAILURES[fault] in report.degraded[name][0]
        assert report.degraded[name][-1] == "24 of 24 rows have the prior"
    assert check_submission(tmp_path / "out" / "submission.csv", labelled_test) == []
    assert (
        (tmp_path / "out" / "infer.log").read_text().splitlines()[-1].startswith("RuntimeError: ")
    )
    assert (
        "submission.csv: 24 rows, 0 predicted, 24 fallback"
        in (tmp_path / "out" / "rerun.log").read_text()
    )
    text = report.render()
    assert fault in text
    assert all(f"exit code {code} after" in text for code in (0, 1))
    assert "PASS, DEGRADED BY THE FAULT" in text.splitlines()[-1]
    assert report.to_dict()["verdict"] == report.verdict


def two_gpus(arena, labelled_test, tmp_path, monkeypatch, *options) -> tuple[dict, list[str]]:
    """A dry run of a small model with two played GPUs; returns the report and the lines."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    out = tmp_path / "out"
    command = ["kaggle", "dry-run", "--gpus", "2", "--out", str(out), "--set", "training.epochs=1"]
    rows = ["--train", str(arena / "train.csv"), "--test", str(labelled_test)]
    main(["--quiet", *command, *rows, "--set", "model.scratch_hidden_size=16", *options])
    report = read_json(out / "report.json")
    assert report["passed"], report["reasons"]
    assert report["predicted"] == 23
    log = [line for name in ("train", "infer") for line in (out / f"{name}.log").open()]
    return report, log


@pytest.mark.slow
@pytest.mark.usefixtures("_one_wheel")
def test_two_processes_of_one_training_of_which_one_is_killed(
    arena, labelled_test, tmp_path, monkeypatch
):
    report, log = two_gpus(
        arena, labelled_test, tmp_path, monkeypatch, "--fault", "killed-training"
    )
    assert report["exit_codes"] == {"train": 1, "resumed": 0, "infer": 0}
    assert any("89 rows" in line and "device cpu:0, 2 processes" in line for line in log)
    assert "2 processes" in (tmp_path / "out" / "resumed.log").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("_one_wheel")
def test_two_folds_at_a_time_and_a_process_that_is_killed_in_inference(
    arena, labelled_test, tmp_path, monkeypatch
):
    report, log = two_gpus(
        arena,
        labelled_test,
        tmp_path,
        monkeypatch,
        *("--folds", "2", "--fault", "killed-inference"),
    )
    assert report["exit_codes"] == {"train": 0, "infer": 0, "rerun": 0}
    assert {"fold-0: on GPU 0\n", "fold-1: on GPU 1\n"} <= set(log)
    for name in ("infer", "rerun"):
        assert any("its process ended with -9" in reason for reason in report["degraded"][name])


@pytest.mark.slow
@pytest.mark.usefixtures("_one_wheel")
def test_training_without_labels_ends_in_a_clear_error(tmp_path):
    report = dry_run(
        DryRun(preset="prior", fault="no-labels", out=tmp_path / "out", project=PROJECT), len
    )
    assert report.passed, report.render()
    assert report.exit_codes == {"train": 1}
    last = (tmp_path / "out" / "train.log").read_text().splitlines()[-1]
    assert last.startswith("The training kernel failed: InputError: ")
    assert "winner_model_a" in last


def test_options_that_make_no_sense(artifact, tmp_path):
    for options, message in (
        ({"fault": "fire"}, "--fault 'fire': expected one of missing-dataset"),
        ({"fault": "no-labels", "artifacts": (artifact,)}, "does not run with --artifact"),
        (
            {"fault": "killed-training", "artifacts": (artifact,)},
            "--fault killed-training tests the training kernel",
        ),
        ({"fault": "killed-inference"}, "--fault killed-inference: needs --gpus, such as"),
        ({"gpus": -1}, "--gpus -1: expected at least 0"),
        ({"preset": "tinny"}, "unknown preset"),
        ({"memory": 0}, "--memory 0: expected more than 0 GiB"),
        ({"test_rows": 0}, "--rows 0: expected at least 1"),
        ({"artifacts": (tmp_path,)}, "not an artifact"),
    ):
        with pytest.raises(InputError, match=message):
            dry_run(DryRun(out=tmp_path / "out", project=PROJECT, **options))


def test_bad_rows_are_refused_before_anything_runs(arena, tmp_path):
    bad = tmp_path / "bad.csv"
    bad.write_text("id,prompt\n1,x\n")
    for train, test in (
        (bad, None),
        (arena / "train.csv", bad),
        (None, bad),
        (arena / "test.csv", arena / "test.csv"),
    ):
        with pytest.raises(InputError, match=r"missing column|expected the columns|no labels"):
            dry_run(DryRun(train, test, "prior", out=tmp_path / "out", project=PROJECT))
    assert not (tmp_path / "out").exists()


def test_a_backbone_has_to_be_a_folder_and_is_mounted(tmp_path):
    with pytest.raises(InputError, match="the kernels have no network, so name a folder"):
        DryRun(preset="deberta-v3-small").kernel_run()
    folder = tmp_path / "deberta"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    overrides = (f"model.backbone={folder}", "seed=3")
    run, found = DryRun(preset="deberta-v3-small", overrides=overrides).kernel_run()
    assert (run.backbone, run.overrides, found) == ("deberta", ("seed=3",), folder)
    for preset in ("tiny", "cpu-best"):
        run, found = DryRun(preset=preset, overrides=("seed=3",)).kernel_run()
        assert (run.backbone, found) == ("", None)


@pytest.mark.slow
@pytest.mark.parametrize(("slug", "preset"), [(LMSYS, "prior"), (WSDM, "sparse")])
def test_every_competition_ends_in_a_checked_submission(tmp_path, slug, preset):
    if slug == WSDM:
        pytest.importorskip("pyarrow")
    out, rules = tmp_path / "results", COMPETITIONS[slug]
    options = DryRun(preset=preset, out=out, project=PROJECT, competition=slug)
    report = dry_run(options, print)
    assert report.passed, report.render()
    assert f"  competition   {slug}" in report.render()
    submission = pd.read_csv(out / "submission.csv")
    assert (tuple(submission), len(submission)) == (rules.submission, report.test_rows)
    if slug == WSDM:
        assert set(submission["winner"]) == {"model_a", "model_b"}
        assert 0.5 < report.prior_accuracy < report.accuracy < 1
        assert report.log_loss is None
        assert "no ties, hence two classes" in (out / "train.log").read_text()
    else:
        assert report.log_loss == pytest.approx(report.prior_log_loss)
