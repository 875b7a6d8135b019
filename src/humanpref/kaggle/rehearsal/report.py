"""The report of a dry run, as text and as JSON, and the folder of its results."""

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from humanpref.files import check_new, check_writable, locked, read_json, temporary_folder
from humanpref.kaggle.competitions import DEFAULT
from humanpref.kaggle.rehearsal.faults import FAULTS
from humanpref.kaggle.rehearsal.probe import Probe
from humanpref.schema import InputError

HIDDEN_ROWS = 25_000
"""Number of rows in the competition's hidden test file."""
TITLES = {"train": "training", "resumed": "resumed", "infer": "commit run", "rerun": "hidden rerun"}
"""The titles of a dry run's four runs of a kernel: two of the training kernel (the second only if a
fault kills the first), and two of the inference kernel."""

_KIND = "humanpref dry run"
# report.json comes last, since it marks the folder as the result of a dry run.
_RESULTS = ("submission.csv", *(f"{name}.log" for name in TITLES), "report.json")
_ISOLATION = {
    "bwrap": "bubblewrap: no network, read-only inputs, a separate file system",
    "none": "NONE: bubblewrap does not work here; your files and credentials were readable to the "
    "kernels, and only Python's own sockets are blocked",
}


@dataclass
class Report:
    """The results of a dry run. The dry run passes if `reasons` has no reasons for failure, even if
    there are `warnings`.

    `probes`, `exit_codes`, `seconds`, `peak_memory_bytes`, `disk_bytes` and `degraded` (why a
    submission is incomplete) have one entry for each run of a kernel, by its key in `TITLES`.
    """

    preset: str
    overrides: tuple[str, ...]
    data: str
    mode: str
    layout: str
    out: Path
    fault: str | None = None
    gpus: int = 0
    competition: str = DEFAULT
    train_rows: int = 0
    test_rows: int = 0
    probes: dict[str, Probe] = field(default_factory=dict)
    exit_codes: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    peak_memory_bytes: dict[str, int] = field(default_factory=dict)
    disk_bytes: dict[str, int] = field(default_factory=dict)
    seconds_per_step: float | None = None
    predicted: int = 0
    degraded: dict[str, list[str]] = field(default_factory=dict)
    rows_per_second: float | None = None
    projected_seconds: float | None = None
    log_loss: float | None = None
    prior_log_loss: float | None = None
    accuracy: float | None = None
    prior_accuracy: float | None = None
    reasons: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def rows(self) -> str:
        """The data source and its numbers of rows."""
        return f"{self.data}: {self.train_rows:,} training rows, {self.test_rows:,} test rows"

    def worse_than_prior(self) -> str:
        """Return one line if the submission scores worse than the prior, otherwise an empty
        string."""
        if self.log_loss is not None and self.log_loss > self.prior_log_loss + 1e-9:
            loss, prior = self.log_loss, self.prior_log_loss
            return f"the log loss {loss:.4f} is above the prior's {prior:.4f}"
        if self.accuracy is not None and self.accuracy < self.prior_accuracy:
            return (
                f"the accuracy {self.accuracy:.4f} is below {self.prior_accuracy:.4f}, the "
                "accuracy of naming the likelier winner for every row"
            )
        return ""

    @property
    def passed(self) -> bool:
        """Whether there are no reasons for failure."""
        return not self.reasons

    @property
    def verdict(self) -> str:
        """PASS or FAIL, with the qualifications of a pass."""
        if not self.passed:
            return "FAIL"
        parts = ["PASS"]
        if any(self.degraded.values()):
            parts.append("DEGRADED BY THE FAULT")
        if self.mode == "none":
            parts.append("WITHOUT ISOLATION")
        return ", ".join(parts)

    def render(self) -> str:
        """Return the report as text, the verdict last."""
        overrides = "".join(f" --set {override}" for override in self.overrides)
        lines = [f"  {name:<13} {text}" for name, text in self._lines()]
        return "\n".join([f"Dry run of preset {self.preset}{overrides}", *lines, self.verdict])

    def _lines(self) -> Iterator[tuple[str, str]]:
        """Yield the lines of the report, each as a label and its text."""
        if self.competition != DEFAULT:
            yield "competition", self.competition
        yield "data", self.rows
        yield "isolation", f"{_ISOLATION[self.mode]} ({self.layout} layout)"
        if self.gpus:
            yield "GPUs", f"{self.gpus}, each simulated by a process on the CPU"
        if self.fault:
            yield "fault", f"{self.fault}: {FAULTS[self.fault]}"
        for name, probe in self.probes.items():
            yield TITLES[name], str(probe)
            memory = self.peak_memory_bytes.get(name)
            used = f"{memory / 2**20:,.0f} MiB of memory at most, " if memory else ""
            yield (
                "",
                f"exit code {self.exit_codes[name]} after {self.seconds[name]:.0f} s; {used}"
                f"{self.disk_bytes[name] / 2**20:,.1f} MiB written",
            )
            if self.fault:  # without a fault, these texts are among the reasons
                yield from (("degraded", text) for text in self.degraded.get(name, []))
        if self.seconds_per_step is not None:
            yield "training step", f"{self.seconds_per_step:.3f} seconds"
        if self.log_loss is not None:
            yield "log loss", f"{self.log_loss:.4f} (the prior's: {self.prior_log_loss:.4f})"
        if self.accuracy is not None:
            yield "accuracy", f"{self.accuracy:.4f} (the prior's: {self.prior_accuracy:.4f})"
        if self.rows_per_second is not None:
            yield (
                "speed",
                f"{self.rows_per_second:,.1f} rows per second; {HIDDEN_ROWS:,} rows would take "
                f"{_duration(self.projected_seconds)} on this machine, installation and loading "
                "included",
            )
        submission = self.out / "submission.csv"
        if submission.exists():
            yield "submission", f"{submission}: {self.predicted} of {self.test_rows} predicted"
        yield from (("warning", text) for text in self.warnings)
        yield from (("failed", text) for text in self.reasons)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON types."""
        values = {**dataclasses.asdict(self), "out": str(self.out)}
        return {"kind": _KIND, "passed": self.passed, "verdict": self.verdict, **values}


def claim(out: Path) -> None:
    """Check, before anything runs, that the results can be written to `out`.

    Raises
    ------
    InputError
        If they cannot be written, or if `out` exists but is neither empty nor the result of an
        earlier dry run.
    """
    if not out.exists():
        check_new(out)
        return
    path = out / "report.json"
    report = read_json(path) if path.is_file() else None
    ours = isinstance(report, dict) and report.get("kind") == _KIND
    if not out.is_dir() or (any(out.iterdir()) and not ours):
        raise InputError(
            f"{out}: expected a new or empty folder, or one from an earlier dry run; name a "
            "different one with --out, or remove it"
        )
    check_writable(path)


@contextlib.contextmanager
def held(out: Path) -> Iterator[None]:
    """Keep other dry runs out of the folder `out` while the block runs. If the folder does not
    exist, it is created, and removed after the block if it is empty.

    Raises
    ------
    InputError
        If another dry run is using the folder.
    """
    new = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(out))
        except BlockingIOError:
            raise InputError(
                f"{out}: another dry run is using this folder; name a different one with --out"
            ) from None
        try:
            yield
        finally:
            if new and not any(out.iterdir()):
                out.rmdir()


def deliver(folder: Path, out: Path) -> None:
    """Replace an earlier dry run's results in `out` with the new results in `folder`. If there is
    no space for them, the earlier results remain."""
    out.mkdir(parents=True, exist_ok=True)
    names = [name for name in _RESULTS if (folder / name).is_file()]
    with temporary_folder(out / "report.json") as copies:
        for name in names:
            shutil.copy(folder / name, copies)
        for name in _RESULTS:
            (out / name).unlink(missing_ok=True)
        for name in names:
            os.replace(copies / name, out / name)


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 100 * 60 else f"{seconds / 3600:.1f} hours"
