"""Judge what a kernel left: its exit code, its status and its submission, into the report."""

from pathlib import Path

import numpy as np
import pandas as pd

from humanpref.data import check_submission, labels_of
from humanpref.files import read_json
from humanpref.kaggle.rehearsal.report import HIDDEN_ROWS, TITLES, Report
from humanpref.logloss import log_loss
from humanpref.schema import ID, LABEL_COLUMNS

HIDDEN_HOURS = 9
"""What the competition allows for the hidden rows."""


def judge_training(working: Path, report: Report) -> None:
    """Judge a training kernel that has to leave an artifact."""
    code, metrics = report.exit_codes["train"], working / "artifact" / "metrics.json"
    if code != 0:
        report.reasons.append(f"the training kernel ended with exit code {code}")
    elif metrics.is_file():
        report.seconds_per_step = read_json(metrics).get("seconds_per_step")
    else:
        report.reasons.append("the training kernel left no artifact/metrics.json")


def judge_refusal(log: Path, report: Report) -> None:
    """Judge a training kernel that cannot train: it has to fail, and its last line to say why."""
    last = log.read_text(encoding="utf-8").rstrip().rpartition("\n")[2]
    if report.exit_codes["train"] == 0:
        report.reasons.append("the training kernel ended well, in spite of the fault")
    elif not last.startswith("The training kernel failed: "):
        report.reasons.append(
            f"the training kernel failed without saying why; its last line: {last[:200]}"
        )


def judge_inference(name: str, working: Path, test_csv: Path, report: Report) -> None:
    """Judge the commit run (`infer`) or the hidden rerun (`rerun`) of the inference kernel."""
    reasons = []
    expected = int(name == "infer" and report.fault is not None)
    if report.exit_codes[name] != expected:
        reasons.append(f"expected exit code {expected}, got {report.exit_codes[name]}")
    faults = check_submission(working / "submission.csv", test_csv)
    reasons += [f"submission: {fault}" for fault in faults]
    status = read_json(working / "status.json") if (working / "status.json").is_file() else None
    if status is None:
        reasons.append("no status.json")
    else:
        report.predicted, report.degraded[name] = status["predicted"], status["degraded"]
        if report.fault is None:
            reasons += [f"degraded: {reason}" for reason in status["degraded"]]
            _project(status, report)
        elif not status["degraded"]:
            reasons.append("the fault is not in status.json")
    report.reasons += [f"{TITLES[name]}: {reason}" for reason in reasons]


def _project(status: dict, report: Report) -> None:
    """Project the time of the hidden rows from that of the test's."""
    rows, seconds = status["predicted"], status["seconds"]
    if not (rows and seconds.get("predict")):
        return
    fixed = sum(seconds.get(phase, 0.0) for phase in ("install", "load"))
    growing = sum(seconds.get(phase, 0.0) for phase in ("fallback", "read", "predict"))
    report.rows_per_second = rows / seconds["predict"]
    report.projected_seconds = fixed + HIDDEN_ROWS * growing / rows
    if report.projected_seconds > HIDDEN_HOURS * 3600:
        report.warnings.append(
            f"{HIDDEN_ROWS:,} rows would take more than the {HIDDEN_HOURS} hours allowed, on "
            "this machine"
        )


def judge_log_loss(
    submission: Path, labels: pd.DataFrame, prior: list[float], report: Report
) -> str | None:
    """Report the log loss on the labelled test rows; give what is wrong if it is not under that of
    the prior."""
    probabilities = pd.read_csv(submission, dtype={ID: str}).set_index(ID)[list(LABEL_COLUMNS)]
    labels = labels[: report.test_rows]
    truth = labels_of(labels)
    report.log_loss = log_loss(truth, probabilities.loc[labels[ID]].to_numpy())
    report.prior_log_loss = log_loss(truth, np.tile(prior, (len(truth), 1)))
    if report.log_loss < report.prior_log_loss:
        return None
    return (
        f"the log loss {report.log_loss:.4f} is not under the prior's {report.prior_log_loss:.4f}"
    )
