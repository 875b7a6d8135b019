"""Judge a kernel's exit code, status and submission, and record the verdict in the report."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from humanpref.data import check_submission, labels_of
from humanpref.files import read_json
from humanpref.kaggle.competitions import COMPETITIONS, WINNERS
from humanpref.kaggle.rehearsal.report import HIDDEN_ROWS, TITLES, Report
from humanpref.logloss import log_loss
from humanpref.schema import ID

HIDDEN_HOURS = 9
"""The competition's time limit for the hidden rows."""


def judge_training(
    working: Path, log: Path, report: Report, name: str = "train", launches: bool = False
) -> None:
    """Judge a run of the training kernel.

    Parameters
    ----------
    working : Path
        The kernel's `/kaggle/working`, which must contain an artifact.
    log : Path
        The kernel's log. With fault `no-labels` or `killed-training`, the kernel must fail and give
        the reason in the last line of its log.
    report : Report
        The report to which the results are added.
    name : str
        `train`, or `resumed` for the run that resumes a killed one.
    launches : bool
        Whether the training uses every GPU.
    """
    code, metrics = report.exit_codes[name], working / "artifact" / "metrics.json"
    text = log.read_text(encoding="utf-8")
    failures = {"no-labels": "", "killed-training": "SIGKILL"}
    # Nothing to judge if all GPUs train a single model together (the log then has the number of
    # processes), or in the resumed run, which may have only one model left.
    if launches and name == "train" and f"{report.gpus} processes" not in text:
        _judge_gpus(name, text, report)
    if report.fault in failures and name == "train":
        last = text.rstrip().rpartition("\n")[2]
        expected = failures[report.fault]
        if code == 0 or not last.startswith("The training kernel failed: ") or expected not in last:
            report.reasons.append(
                "expected the training kernel to fail and to give the reason, got exit code "
                f"{code} and the last line {last[:200]!r}"
            )
    elif code != 0:
        report.reasons.append(f"the training kernel ended with exit code {code}")
    elif metrics.is_file():
        report.seconds_per_step = read_json(metrics).get("seconds_per_step")
    else:
        report.reasons.append("the training kernel left no artifact/metrics.json")


def judge_inference(
    name: str,
    working: Path,
    test_csv: Path,
    labels: pd.DataFrame | None,
    report: Report,
    uses_gpus: bool = False,
) -> None:
    """Judge a run of the inference kernel.

    Parameters
    ----------
    name : str
        `infer` for the commit run, or `rerun` for the hidden rerun.
    working : Path
        The run's `/kaggle/working`.
    test_csv : Path
        The test file that was predicted.
    labels : DataFrame, optional
        `id` and the label columns of test rows, if they are known.
    report : Report
        The report to which the results are added.
    uses_gpus : bool
        Whether the models use every GPU.
    """
    reasons = []
    killed = report.fault == "killed-inference"
    handled = report.fault in (None, "killed-training")  # nothing is wrong with this kernel
    expected = int(name == "infer" and not handled and not killed)
    if report.exit_codes[name] != expected:
        reasons.append(f"expected exit code {expected}, got {report.exit_codes[name]}")
    submission, status_json = working / "submission.csv", working / "status.json"
    rules = COMPETITIONS[report.competition]
    faults = check_submission(submission, test_csv, rules.submission)
    reasons += [f"submission: {fault}" for fault in faults]
    if not status_json.is_file():
        reasons.append("no status.json")
    else:
        status = read_json(status_json)
        report.predicted, report.degraded[name] = status["predicted"], status["degraded"]
        if report.gpus and uses_gpus:
            _judge_gpus(name, (working / status["log"]).read_text(encoding="utf-8"), report)
        if killed and status["predicted"] < report.test_rows:
            reasons.append(f"{status['predicted']} of {report.test_rows} rows were predicted")
        if handled:
            reasons += [f"degraded: {reason}" for reason in status["degraded"]]
            _project(status, report)
            if labels is not None and not faults:
                _score(submission, labels[: report.test_rows], status["prior"], report)
        elif not status["degraded"]:
            reasons.append("status.json does not report the fault")
    report.reasons += [f"{TITLES[name]}: {reason}" for reason in reasons]


def _judge_gpus(name: str, log: str, report: Report) -> None:
    """Add a reason for failure if a simulated GPU was not used."""
    unused = [gpu for gpu in range(report.gpus) if f"GPU {gpu}" not in log]
    if unused:
        report.reasons.append(f"{TITLES[name]}: no process for GPU {', '.join(map(str, unused))}")


def _project(status: dict[str, Any], report: Report) -> None:
    """Estimate the time for the hidden rows from the time for the test rows. Warn if the estimate
    is above the limit."""
    rows, seconds = status["predicted"], defaultdict(float, status["seconds"])
    if not (rows and seconds["predict"]):
        return
    fixed = seconds["install"] + seconds["load"]
    growing = seconds["fallback"] + seconds["read"] + seconds["predict"]
    report.rows_per_second = rows / seconds["predict"]
    report.projected_seconds = fixed + HIDDEN_ROWS * growing / rows
    if report.projected_seconds > HIDDEN_HOURS * 3600:
        report.warnings.append(
            f"on this machine, {HIDDEN_ROWS:,} rows would take more than the {HIDDEN_HOURS} hours "
            "allowed"
        )


def _score(submission: Path, labels: pd.DataFrame, prior: list[float], report: Report) -> None:
    """Report the log loss, or the accuracy, of the submission and of the prior on the labeled test
    rows."""
    rules, truth = COMPETITIONS[report.competition], labels_of(labels)
    table = pd.read_csv(submission, dtype={ID: str}).set_index(ID).loc[labels[ID]]
    if rules.names_winner:
        second = truth[:, 1] > truth[:, 0]
        report.accuracy = float(((table[rules.submission[1]] == WINNERS[1]) == second).mean())
        report.prior_accuracy = float((second == (prior[1] > prior[0])).mean())
        return
    probabilities = table[list(rules.submission[1:])]
    report.log_loss = log_loss(truth, probabilities.to_numpy())
    report.prior_log_loss = log_loss(truth, np.tile(prior, (len(truth), 1)))
