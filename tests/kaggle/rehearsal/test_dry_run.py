"""The dry run: one whole one, and its judgement of what can come out."""

import csv
import json
import logging
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from humanpref.cli.main import main
from humanpref.config import load_config
from humanpref.data import (
    check_submission,
    grouped_folds,
    prompt_keys,
    read_pairs,
    write_submission,
)
from humanpref.files import read_json, write_json
from humanpref.kaggle.bundle import stage
from humanpref.kaggle.rehearsal import dry_run as module
from humanpref.kaggle.rehearsal import sandbox
from humanpref.kaggle.rehearsal.dry_run import Report, dry_run
from humanpref.runs import train as experiment
from humanpref.schema import ID, LABEL_COLUMNS, InputError

PROJECT = Path(__file__).parents[3]
PUBLIC_COLUMNS = [ID, "prompt", "response_a", "response_b"]


@pytest.fixture
def labelled_test(arena) -> Path:
    """The arena's test rows with their labels, as a user may have them."""
    return arena / "test_labels.csv"


@pytest.fixture
def report(tmp_path) -> Report:
    report = Report("tiny", (), "rows", "bwrap", "new", tmp_path / "out", test_rows=3)
    report.exit_codes["infer"] = 0
    return report


def test_the_whole_way(tmp_path):
    lines = []
    out = tmp_path / "results"
    report = dry_run(
        preset="prior", rows=100, out=out, layout="legacy", project=PROJECT, echo=lines.append
    )
    text = report.render()
    assert report.passed, text
    isolated = sandbox.why_no_bubblewrap() is None
    assert text.endswith("PASS" if isolated else "PASS, WITHOUT ISOLATION")
    assert report.exit_codes == {"train": 0, "infer": 0}
    assert (report.train_rows, report.test_rows, report.predicted) == (100, 20, 20)
    assert report.log_loss == pytest.approx(report.prior_log_loss)
    assert report.projected_seconds > 0
    assert report.rows_per_second > 0
    for name in ("train", "infer"):
        assert not report.probes[name].connected
        assert any(line.startswith(f"[{name}] Successfully installed humanpref-") for line in lines)
    assert len(pd.read_csv(out / "submission.csv")) == 20
    assert "20 predicted, 0 fallback" in (out / "infer.log").read_text()
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
    report = dry_run(preset="prior", rows=40, out=out, project=broken, echo=lines.append)
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


@pytest.fixture
def _one_wheel(tmp_path_factory, monkeypatch):
    """Build the package's wheel once for all tests here."""
    folder = tmp_path_factory.getbasetemp() / "wheel-of-the-dry-run"
    build = stage.build_wheel

    def copy(project, out):
        (wheel,) = list(folder.glob("*.whl")) or [build(project, folder)]
        return Path(shutil.copy(wheel, out))

    monkeypatch.setattr(stage, "build_wheel", copy)


@pytest.mark.usefixtures("_one_wheel")
@pytest.mark.slow
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


@pytest.mark.usefixtures("_one_wheel")
@pytest.mark.slow
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
    experiment.train(
        load_config("llama-3.2-1b-lora", None, settings), arena / "train.csv", tmp_path / "lora"
    )
    # Without namespaces the box sees this machine's files: the base must not be found where it was.
    moved = shutil.move(folder, tmp_path / "tiny-llama")
    try:
        report = dry_run(
            test=labelled_test,
            artifacts=[tmp_path / "lora"],
            overrides=[f"model.backbone={moved}"],
            test_rows=6,
            memory=8,
            layout="legacy",
            out=tmp_path / "out",
            project=PROJECT,
            echo=len,
        )
    finally:
        shutil.move(moved, folder)
    assert report.passed, report.render()
    assert report.predicted == 6


@pytest.mark.slow
def test_the_environment_has_an_old_torchao(tmp_path):
    environment = sandbox.make_environment(tmp_path / "environment", without=["torchao"])
    sandbox.add_distribution(environment, "torchao", module.TORCHAO)
    code = (
        "import importlib.metadata as m, torchao; print(m.version('torchao'), torchao.__version__, "
        "torchao.__file__)"
    )
    done = subprocess.run(
        [environment / "bin" / "python", "-c", code], capture_output=True, text=True
    )
    assert done.stdout.split()[:2] == ["0.10.0", "0.10.0"]
    assert str(environment) in done.stdout


@pytest.mark.usefixtures("_one_wheel")
@pytest.mark.slow
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


def _failures(fault: str) -> str:
    return {
        "missing-dataset": "expected one dataset with humanpref-dataset.json under",
        "corrupt-wheel": "with SHA-256",
        "corrupt-weights": "artifacts/prior/",
        "slow": "TimeoutError: stopped after",
        "oom": "RuntimeError: the inference process ended with -9 (SIGKILL; out of memory?)",
    }[fault]


@pytest.mark.usefixtures("_one_wheel")
@pytest.mark.parametrize("fault", [fault for fault in module.FAULTS if fault != "no-labels"])
@pytest.mark.slow
def test_a_fault_fails_the_commit_run_and_not_the_hidden_one(
    fault, artifact, labelled_test, tmp_path
):
    report = dry_run(
        test=labelled_test,
        artifacts=[artifact],
        fault=fault,
        out=tmp_path / "out",
        project=PROJECT,
        echo=len,
    )
    assert report.passed, report.render()
    assert report.exit_codes == {"infer": 1, "rerun": 0}
    assert report.predicted == 0
    for name in ("infer", "rerun"):
        assert _failures(fault) in report.degraded[name][0]
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


@pytest.mark.usefixtures("_one_wheel")
@pytest.mark.slow
def test_training_without_labels_ends_in_a_clear_error(tmp_path):
    report = dry_run(
        preset="prior", rows=40, fault="no-labels", out=tmp_path / "out", project=PROJECT, echo=len
    )
    assert report.passed, report.render()
    assert report.exit_codes == {"train": 1}
    last = (tmp_path / "out" / "train.log").read_text().splitlines()[-1]
    assert last.startswith("The training kernel failed: InputError: ")
    assert "winner_model_a" in last


def test_a_fault_that_has_no_effect_fails_the_run(working, report, tmp_path):
    report.fault = "corrupt-weights"
    assert judged(working, report) == [
        "commit run: expected exit code 1, got 0",
        "commit run: the fault is not in status.json",
    ]
    report.reasons.clear()
    report.exit_codes["train"] = 0
    (tmp_path / "log").write_text("all is well\n")
    module._judge_refusal(tmp_path / "log", report)
    report.exit_codes["train"] = 1
    module._judge_refusal(tmp_path / "log", report)
    (tmp_path / "log").write_text(
        "Traceback\nThe training kernel failed: InputError: no labels\n\n"
    )
    module._judge_refusal(tmp_path / "log", report)
    assert report.reasons == [
        "the training kernel ended well, in spite of the fault",
        "the training kernel failed without saying why; its last line: all is well",
    ]


def test_rows_are_repeated_under_ids_of_their_own(tmp_path):
    path = tmp_path / "test.csv"
    path.write_text("id,prompt\n2,a\nx,b\n")
    module._repeat_rows(path, 5)
    assert path.read_text() == "id,prompt\n2,a\nx,b\n1,a\n3,b\n4,a\n"
    module._repeat_rows(path, 1)
    assert path.read_text() == "id,prompt\n2,a\n"


def test_a_fault_leaves_what_was_staged_alone(artifact, tmp_path):
    """The mounts are hard links to it."""
    staged, inputs = tmp_path / "staged", tmp_path / "input"
    shutil.copytree(artifact, staged / "artifacts" / "prior")
    (staged / "humanpref-1.whl").write_bytes(b"a wheel")
    before = {path: path.read_bytes() for path in staged.rglob("*") if path.is_file()}
    shutil.copytree(staged, inputs / "d", copy_function=os.link)
    module._break(inputs, None)
    assert {
        path: (inputs / "d" / path.relative_to(staged)).read_bytes() for path in before
    } == before
    for fault in ("corrupt-wheel", "corrupt-weights"):
        module._break(inputs, fault)
    changed = [
        path
        for path in before
        if (inputs / "d" / path.relative_to(staged)).read_bytes() != before[path]
    ]
    assert sorted(path.suffix for path in changed) == [".safetensors", ".whl"]
    assert {path: path.read_bytes() for path in before} == before


def test_options_of_a_fault_that_make_no_sense(artifact, tmp_path):
    for options, message in (
        ({"fault": "fire"}, "--fault 'fire': expected one of missing-dataset"),
        ({"fault": "no-labels", "artifacts": [artifact]}, "does not run with --artifact"),
        ({"test_rows": 0}, "--rows 0: expected at least 1"),
        ({"artifacts": [tmp_path]}, "not an artifact"),
    ):
        with pytest.raises(InputError, match=message):
            dry_run(out=tmp_path / "out", project=PROJECT, **options)


# ----------------------------------------------------------------------------------------------
# what the kernels get to see


def test_the_kernels_never_see_the_tests_labels(arena, labelled_test, tmp_path):
    data, labels = module._stage_competition(tmp_path / "c", arena / "train.csv", labelled_test, 0)
    assert (tmp_path / "c" / "test.csv").read_bytes() == (arena / "test.csv").read_bytes()
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == [
        "sample_submission.csv",
        "test.csv",
        "train.csv",
    ]
    assert (tmp_path / "c" / "train.csv").read_bytes() == (arena / "train.csv").read_bytes()
    assert (
        (tmp_path / "c" / "sample_submission.csv")
        .read_text()
        .startswith(",".join([ID, *LABEL_COLUMNS]))
    )
    assert list(labels[ID]) == list(read_pairs(labelled_test)[ID])
    assert str(labelled_test) in data


def test_a_test_without_labels_has_no_log_loss(arena, tmp_path):
    _, labels = module._stage_competition(
        tmp_path / "c", arena / "train.csv", arena / "test.csv", 0
    )
    assert labels is None
    _, labels = module._stage_competition(tmp_path / "d", None, arena / "test.csv", 40)
    assert labels is None
    assert len(pd.read_csv(tmp_path / "d" / "train.csv")) == 40


def test_a_part_of_the_training_rows_is_held_out_by_prompt(arena, tmp_path):
    data, labels = module._stage_competition(tmp_path / "c", arena / "train.csv", None, 0)
    pairs = read_pairs(arena / "train.csv", labels=True)
    expected = pairs[grouped_folds(pairs, k=5, seed=42) == 0]
    train, test = (
        read_pairs(tmp_path / "c" / "train.csv", labels=True),
        read_pairs(tmp_path / "c" / "test.csv"),
    )
    assert "held out" in data
    assert list(test[ID]) == list(expected[ID]) == list(labels[ID])
    assert labels[list(LABEL_COLUMNS)].to_numpy() == pytest.approx(
        expected[list(LABEL_COLUMNS)].to_numpy()
    )
    assert len(train) + len(test) == len(pairs)
    assert not set(prompt_keys(train)) & set(prompt_keys(test))
    with open(tmp_path / "c" / "test.csv", newline="") as file:
        assert next(csv.reader(file)) == PUBLIC_COLUMNS
    texts = ["prompt", "response_a", "response_b", "model_a", "model_b"]
    kept = pairs[~pairs[ID].isin(test[ID])].reset_index(drop=True)
    pd.testing.assert_frame_equal(train[texts], kept[texts])


def test_bad_rows_are_refused_before_anything_runs(arena, tmp_path):
    bad = tmp_path / "bad.csv"
    bad.write_text("id,prompt\n1,x\n")
    for train, test in (
        (bad, None),
        (arena / "train.csv", bad),
        (None, bad),
        (arena / "test.csv", arena / "test.csv"),
    ):
        with pytest.raises(InputError, match="missing column"):
            dry_run(
                train=train,
                test=test,
                preset="prior",
                out=tmp_path / "out",
                project=PROJECT,
                mode="none",
            )
    assert not (tmp_path / "out").exists()


def test_a_backbone_has_to_be_a_folder_and_is_mounted(tmp_path):
    with pytest.raises(InputError, match="kernels have no network"):
        dry_run(preset="deberta-v3-small", out=tmp_path / "out", project=PROJECT)
    folder = tmp_path / "deberta"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    overrides = (f"model.backbone={folder}", "seed=3")
    config = load_config("deberta-v3-small", None, list(overrides))
    run, found = module._run_of("deberta-v3-small", overrides, config)
    assert (run.backbone, run.overrides, found) == ("deberta", ("seed=3",), folder)
    for preset in ("tiny", "cpu-best"):
        run, found = module._run_of(preset, ("seed=3",), load_config(preset))
        assert (run.backbone, found) == ("", None)


def test_inputs_are_mounted_as_the_metadata_says(report, arena, tmp_path):
    stage = module._Stage(
        tmp_path, tmp_path, {("competition", "c"): arena, ("dataset", "me/d"): arena}, report, print
    )
    metadata = {
        "competition_sources": ["c"],
        "dataset_sources": ["me/other"],
        "kernel_sources": [],
        "model_sources": [],
    }
    stage._mount(tmp_path / "input", metadata, Path("k.json"), {("model", "a/b/c/d/1"): arena})
    mounted = sorted(
        str(path.parent.relative_to(tmp_path / "input"))
        for path in tmp_path.glob("input/**/train.csv")
    )
    assert mounted == ["competitions/c", "models/a/b/c/d/1"]
    assert any("the dataset me/other is not here" in warning for warning in report.warnings)
    assert any("name your own in its model_sources" in warning for warning in report.warnings)


# -------------------------------------------------------------------------------------------------
# the verdict

STATUS = {
    "rows": 3,
    "predicted": 3,
    "fallback": 0,
    "degraded": [],
    "seconds": {"install": 2.0, "load": 1.0, "predict": 0.5},
}


@pytest.fixture
def working(tmp_path) -> Path:
    """What a good inference kernel leaves."""
    folder = tmp_path / "working"
    folder.mkdir()
    (folder / "test.csv").write_text("id\n1\n2\n3\n")
    write_submission(folder / "submission.csv", ["1", "2", "3"], np.full((3, 3), 1 / 3))
    write_json(folder / "status.json", STATUS)
    return folder


def judged(working: Path, report: Report, **status) -> list[str]:
    write_json(working / "status.json", STATUS | status)
    module._judge_inference("infer", working, working / "test.csv", report)
    return report.reasons


def test_a_good_inference(working, report):
    assert judged(working, report) == []
    assert report.rows_per_second == pytest.approx(6)
    assert report.projected_seconds == pytest.approx(3 + 25_000 / 6)
    assert report.warnings == []


def test_a_slow_inference_is_warned_of(working, report):
    judged(working, report, seconds={"predict": 5.0})
    assert "more than the 9 hours" in report.warnings[0]


def test_a_degraded_run_is_a_failure(working, report):
    """Whatever it was: `submit` would refuse it."""
    assert judged(working, report, degraded=["half: 2 row predictions for lack of time"]) == [
        "commit run: degraded: half: 2 row predictions for lack of time"
    ]
    assert report.verdict == "FAIL"


@pytest.mark.parametrize(("name", "right"), [("infer", 1), ("rerun", 0)])
@pytest.mark.parametrize("code", [0, 1, -9])
def test_each_run_has_the_exit_code_it_must_have(working, report, name, right, code):
    report.fault, report.exit_codes[name] = "corrupt-wheel", code
    write_json(working / "status.json", STATUS | {"degraded": ["no luck"], "predicted": 0})
    module._judge_inference(name, working, working / "test.csv", report)
    assert report.passed == (code == right)
    assert report.verdict == ("PASS, DEGRADED BY THE FAULT" if code == right else "FAIL")


def test_a_pass_without_isolation_says_so(working, report):
    report.mode = "none"
    judged(working, report)
    assert (
        report.render().splitlines()[-1] == report.to_dict()["verdict"] == "PASS, WITHOUT ISOLATION"
    )


def test_an_exit_code_is_a_failure(working, report):
    report.exit_codes["infer"] = 1
    assert judged(working, report) == ["commit run: expected exit code 0, got 1"]


def test_a_faulty_submission_is_a_failure(working, report):
    (working / "submission.csv").write_text(
        "id,winner_model_a,winner_model_b,winner_tie\n1,0.5,0.5,0\n3,0.5,0.5,0\n"
    )
    reasons = judged(working, report)
    assert any("expected 3 rows" in reason for reason in reasons)
    assert any("expected id '2'" in reason for reason in reasons)


def test_a_missing_submission_and_status_are_failures(tmp_path, report):
    (tmp_path / "test.csv").write_text("id\n1\n")
    module._judge_inference("infer", tmp_path, tmp_path / "test.csv", report)
    assert len(report.reasons) == 2


@pytest.mark.parametrize(
    ("preset", "synthetic", "reasons", "warnings"),
    [("tiny", True, 1, 0), ("tiny", False, 0, 1), ("prior", True, 0, 0)],
)
def test_a_log_loss_that_is_no_better_than_the_priors(
    working, report, preset, synthetic, reasons, warnings
):
    labels = pd.DataFrame([["3", 1, 0, 0], ["1", 0, 1, 0]], columns=[ID, *LABEL_COLUMNS])
    module._judge_log_loss(
        working / "submission.csv", labels, [1 / 3] * 3, preset != "prior", synthetic, report
    )
    assert report.log_loss == report.prior_log_loss == pytest.approx(np.log(3))
    assert (len(report.reasons), len(report.warnings)) == (reasons, warnings)


def test_a_log_loss_is_taken_row_by_row(working, report):
    probabilities = np.array([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.1, 0.1, 0.8]])
    write_submission(working / "submission.csv", ["1", "2", "3"], probabilities)
    labels = pd.DataFrame([["3", 0, 0, 1], ["1", 1, 0, 0]], columns=[ID, *LABEL_COLUMNS])
    module._judge_log_loss(working / "submission.csv", labels, [1 / 3] * 3, True, True, report)
    assert report.log_loss == pytest.approx(-(np.log(0.8) + np.log(0.5)) / 2)
    assert report.passed


def test_a_kernel_that_writes_its_inputs_fails(arena, tmp_path, report, monkeypatch):
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
    monkeypatch.setattr(module, "wheel_names", lambda _: [])
    report.mode = "none"
    module._Stage(tmp_path, tmp_path, {}, report, logging.info).run(
        "train", kernel / "kernel-metadata.json", {}
    )
    assert report.exit_codes["train"] == 0
    assert report.reasons == ["training: changed its input folder, which is read-only on Kaggle"]


# -------------------------------------------------------------------------------------------------
# the results folder


def test_a_folder_that_is_not_ours_is_left_alone(tmp_path):
    ours = tmp_path / "ours"
    ours.mkdir()
    assert module._claim(ours) == ours  # empty
    (ours / "submission.csv").write_text("precious")
    with pytest.raises(InputError, match="is not the folder of a dry run"):
        dry_run(preset="prior", out=ours, project=PROJECT)
    (ours / "report.json").write_text('{"kind": "something else"}')
    with pytest.raises(InputError, match="is not the folder of a dry run"):
        module._claim(ours)
    (ours / "report.json").write_text('{"kind": "humanpref dry run"}')
    assert module._claim(ours) == ours
    with pytest.raises(InputError, match="is a file"):
        module._claim(ours / "report.json")


def test_options_that_make_no_sense(tmp_path):
    with pytest.raises(InputError, match="layout 'old'"):
        dry_run(layout="old", out=tmp_path / "out", project=PROJECT)
    with pytest.raises(InputError, match="unknown preset"):
        dry_run(preset="tinny", out=tmp_path / "out", project=PROJECT)


def test_no_proof_of_isolation_fails_the_run(report):
    probe = sandbox.Probe(
        "bwrap",
        "timed out",
        False,
        False,
        "failed",
        False,
        ("lo",),
        "failed",
        "failed",
        False,
        False,
    )
    report.probes["train"] = probe
    report.exit_codes["train"], report.seconds["train"] = 0, 1.0
    report.reasons += probe.faults
    assert "no proof" in report.render()
    assert not report.passed
