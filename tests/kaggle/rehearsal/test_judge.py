"""The verdict on what a kernel leaves."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from humanpref.data import write_submission
from humanpref.files import write_json
from humanpref.kaggle.rehearsal.judge import judge_inference, judge_training
from humanpref.kaggle.rehearsal.report import Report
from humanpref.schema import ID, LABEL_COLUMNS

STATUS = {
    "rows": 3,
    "predicted": 3,
    "fallback": 0,
    "degraded": [],
    "prior": [1 / 3] * 3,
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
    judge_inference("infer", working, working / "test.csv", None, report)
    return report.reasons


def test_a_good_inference(working, report):
    assert judged(working, report) == []
    assert report.rows_per_second == pytest.approx(6)
    assert report.projected_seconds == pytest.approx(3 + 25_000 / 6)
    assert report.warnings == []


@pytest.mark.parametrize("status", [{"predicted": 0}, {"seconds": {"install": 1.0}}])
def test_without_predictions_nothing_is_projected(working, report, status):
    assert judged(working, report, **status) == []
    assert (report.rows_per_second, report.projected_seconds) == (None, None)


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
    judge_inference(name, working, working / "test.csv", None, report)
    assert report.passed == (code == right)
    assert report.verdict == ("PASS, DEGRADED BY THE FAULT" if code == right else "FAIL")


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
    judge_inference("infer", tmp_path, tmp_path / "test.csv", None, report)
    assert len(report.reasons) == 2


def test_a_fault_that_has_no_effect_fails_the_run(working, report):
    report.fault = "corrupt-weights"
    assert judged(working, report) == [
        "commit run: expected exit code 1, got 0",
        "commit run: status.json does not report the fault",
    ]


@pytest.mark.parametrize(
    ("code", "line", "passed"),
    [
        (1, "The training kernel failed: InputError: no labels", True),
        (0, "The training kernel failed: InputError: no labels", False),
        (1, "Traceback", False),
    ],
)
def test_a_training_without_labels_has_to_fail_and_to_say_why(tmp_path, report, code, line, passed):
    report.fault, report.exit_codes["train"] = "no-labels", code
    (tmp_path / "log").write_text(f"Traceback\n{line}\n\n")
    judge_training(tmp_path, tmp_path / "log", report)
    assert report.reasons == (
        []
        if passed
        else [
            "expected the training kernel to fail and to give the reason, got exit code "
            f"{code} and the last line {line!r}"
        ]
    )


@pytest.mark.parametrize(
    ("line", "passed"), [("... -9 (SIGKILL; out of memory?)", True), ("no memory", False)]
)
def test_a_training_whose_process_is_killed_has_to_say_so(tmp_path, report, line, passed):
    report.fault, report.exit_codes = "killed-training", {"train": 1, "resumed": 1}
    (tmp_path / "log").write_text(f"The training kernel failed: RuntimeError: {line}\n")
    judge_training(tmp_path, tmp_path / "log", report)
    assert (report.reasons == []) == passed
    # The version that resumes the run has no excuse.
    judge_training(tmp_path, tmp_path / "log", report, "resumed")
    assert report.reasons[-1] == "the training kernel ended with exit code 1"


def test_an_inference_whose_process_is_killed_predicts_every_row(working, report):
    report.fault = "killed-inference"
    told = ["model: GPU 1: its process ended with -9"]
    assert judged(working, report, degraded=told) == []
    assert judged(working, report) == ["commit run: status.json does not report the fault"]
    report.reasons.clear()
    (reason,) = judged(working, report, degraded=told, predicted=2)
    assert reason == "commit run: 2 of 3 rows were predicted"


def test_the_inference_after_a_resumed_training_is_a_good_one(working, report):
    report.fault = "killed-training"
    assert judged(working, report) == []
    assert judged(working, report, degraded=["slow"]) == ["commit run: degraded: slow"]


@pytest.mark.parametrize(
    ("log", "unused"),
    [
        ("training: 9 rows, 2 processes", ""),
        ("fold-0: on GPU 0\nfold-1: on GPU 1", ""),
        ("fold-0: on GPU 0", "1"),
        ("", "0, 1"),
    ],
)
def test_every_gpu_has_to_be_used_in_training(tmp_path, report, log, unused):
    report.gpus, report.exit_codes = 2, {"train": 0, "resumed": 0}
    (tmp_path / "log").write_text(log)
    (tmp_path / "artifact").mkdir()
    write_json(tmp_path / "artifact" / "metrics.json", {})
    judge_training(tmp_path, tmp_path / "log", report)
    judge_training(tmp_path, tmp_path / "log", report, "resumed", launches=True)
    assert report.reasons == []  # a blend trains in one process, and a single model may be left
    judge_training(tmp_path, tmp_path / "log", report, launches=True)
    assert report.reasons == ([f"training: no process for GPU {unused}"] if unused else [])


def test_every_gpu_has_to_be_used_in_inference(working, report):
    report.gpus = 2
    (working / "infer.log").write_text("GPU 0: tokens\n")
    write_json(working / "status.json", STATUS | {"log": "infer.log"})
    judge_inference("infer", working, working / "test.csv", None, report, uses_gpus=True)
    assert report.reasons == ["commit run: no process for GPU 1"]


def test_a_training_has_to_leave_its_metrics(tmp_path, report):
    report.exit_codes["train"] = 3
    (tmp_path / "log").touch()
    judge_training(tmp_path, tmp_path / "log", report)
    report.exit_codes["train"] = 0
    judge_training(tmp_path, tmp_path / "log", report)
    assert report.reasons == [
        "the training kernel ended with exit code 3",
        "the training kernel left no artifact/metrics.json",
    ]
    (tmp_path / "artifact").mkdir()
    write_json(tmp_path / "artifact" / "metrics.json", {"seconds_per_step": 0.5})
    judge_training(tmp_path, tmp_path / "log", report)
    assert (report.seconds_per_step, len(report.reasons)) == (0.5, 2)


def test_a_submission_of_the_prior_has_its_log_loss(working, report):
    labels = pd.DataFrame([["3", 1, 0, 0], ["1", 0, 1, 0]], columns=[ID, *LABEL_COLUMNS])
    judge_inference("infer", working, working / "test.csv", labels, report)
    assert report.log_loss == report.prior_log_loss == pytest.approx(np.log(3))


def test_a_log_loss_is_taken_row_by_row(working, report):
    probabilities = np.array([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.1, 0.1, 0.8]])
    write_submission(working / "submission.csv", ["1", "2", "3"], probabilities)
    labels = pd.DataFrame([["3", 0, 0, 1], ["1", 1, 0, 0]], columns=[ID, *LABEL_COLUMNS])
    write_json(working / "status.json", STATUS | {"prior": [0.5, 0.2, 0.3]})
    judge_inference("infer", working, working / "test.csv", labels, report)
    assert report.prior_log_loss == pytest.approx(-(np.log(0.3) + np.log(0.5)) / 2)
    assert report.log_loss == pytest.approx(-(np.log(0.8) + np.log(0.5)) / 2)


def test_a_faulty_submission_or_a_planted_fault_has_no_log_loss(working, report):
    labels = pd.DataFrame([["3", 1, 0, 0]], columns=[ID, *LABEL_COLUMNS])
    report.fault = "slow"
    judge_inference("infer", working, working / "test.csv", labels, report)
    report.fault = None
    (working / "submission.csv").write_text("id\n1\n")
    judge_inference("infer", working, working / "test.csv", labels, report)
    assert (report.log_loss, report.prior_log_loss) == (None, None)


def test_labels_of_rows_that_were_cut_off_do_not_count(working, report):
    labels = pd.DataFrame([["3", 1, 0, 0], ["9", 0, 1, 0]], columns=[ID, *LABEL_COLUMNS])
    report.test_rows = 1
    judge_inference("infer", working, working / "test.csv", labels, report)
    assert report.log_loss == pytest.approx(np.log(3))


def test_a_projection_counts_what_grows_with_the_rows(working, report):
    seconds = {"install": 2.0, "load": 1.0, "fallback": 0.3, "read": 0.6, "predict": 0.6}
    judged(working, report, seconds=seconds | {"total": 99})
    assert report.projected_seconds == pytest.approx(3 + 25_000 * 1.5 / 3)
    assert report.rows_per_second == pytest.approx(5)
