"""The report of a dry run: what was measured, for people and for programs, and its folder."""

import dataclasses
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from humanpref.files import read_json
from humanpref.kaggle.rehearsal.faults import FAULTS
from humanpref.kaggle.rehearsal.probe import Probe
from humanpref.schema import InputError

HIDDEN_ROWS = 25_000
"""Rows of the competition's hidden test file."""
TITLES = {"train": "training", "infer": "commit run", "rerun": "hidden rerun"}
"""The runs of a dry run: the training kernel, and the inference kernel's two."""

_KIND = "humanpref dry run"
# The report comes last, since it makes the folder ours.
_RESULTS = ("submission.csv", "train.log", "infer.log", "rerun.log", "report.json")
_ISOLATION = {
    "bwrap": "bubblewrap: no network, read-only inputs, a file system of its own",
    "none": "NONE: bubblewrap does not work here; only Python's own sockets are blocked",
}


@dataclass
class Report:
    """What a dry run found. `reasons` say why it failed; `warnings` are what to look at all the
    same.

    `probes`, `exit_codes`, `seconds`, `peak_memory_bytes` and `disk_bytes` are by run (`TITLES`),
    as is `degraded`, what made inference's submission less than whole.
    """

    preset: str
    overrides: tuple[str, ...]
    data: str
    mode: str
    layout: str
    out: Path
    fault: str | None = None
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
    reasons: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """The verdict."""
        return not self.reasons

    @property
    def verdict(self) -> str:
        """PASS or FAIL, and what a pass does not prove."""
        if not self.passed:
            return "FAIL"
        degraded = ["DEGRADED BY THE FAULT"] * any(self.degraded.values())
        return ", ".join(["PASS", *degraded, *["WITHOUT ISOLATION"] * (self.mode == "none")])

    def render(self) -> str:
        """The report for a person to read, the verdict last."""
        overrides = "".join(f" --set {override}" for override in self.overrides)
        lines = [f"  {name:<13} {text}" for name, text in self._lines()]
        return "\n".join([f"Dry run of preset {self.preset}{overrides}", *lines, self.verdict])

    def _lines(self) -> Iterator[tuple[str, str]]:
        rows = f"{self.train_rows:,} training rows, {self.test_rows:,} test rows"
        yield "data", f"{self.data}: {rows}"
        yield "isolation", f"{_ISOLATION[self.mode]} ({self.layout} layout)"
        if self.fault:
            yield "fault", f"{self.fault}: {FAULTS[self.fault]}"
        for name, probe in self.probes.items():
            yield (
                TITLES[name],
                f"a connection to the outside {probe.connection}, a name look-up {probe.lookup}, "
                f"mounting the input writable {probe.input_remount}, writing to it "
                f"{probe.input_write}; network interfaces: "
                f"{', '.join(probe.interfaces) or 'none'}",
            )
            if name in self.exit_codes:
                memory = self.peak_memory_bytes.get(name)
                used = f"{memory / 2**20:,.0f} MiB of memory at most, " if memory else ""
                yield (
                    "",
                    f"exit code {self.exit_codes[name]} after {self.seconds[name]:.0f} s; {used}"
                    f"{self.disk_bytes.get(name, 0) / 2**20:,.1f} MiB written",
                )
            if self.fault:  # without one they are reasons
                yield from (("degraded", text) for text in self.degraded.get(name, []))
        if self.seconds_per_step is not None:
            yield "training step", f"{self.seconds_per_step:.3f} seconds"
        if self.log_loss is not None:
            yield "log loss", f"{self.log_loss:.4f} (the prior's: {self.prior_log_loss:.4f})"
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
        """The report as plain JSON types."""
        values = {**dataclasses.asdict(self), "out": str(self.out)}
        return {"kind": _KIND, "passed": self.passed, "verdict": self.verdict, **values}


def claim(out: Path) -> None:
    """Check, before anything runs, that the results may go to `out`.

    Raises
    ------
    InputError
        If it is a file, cannot be written, or is neither empty nor an earlier dry run's.
    """
    if out.is_dir():
        report = read_json(out / "report.json") if (out / "report.json").is_file() else None
        ours = isinstance(report, dict) and report.get("kind") == _KIND
        if any(out.iterdir()) and not ours:
            raise InputError(
                f"{out}: exists and is not the folder of a dry run; name another one with --out, "
                "or remove it"
            )
    elif out.exists():
        raise InputError(f"{out}: is a file, expected a folder for the results")
    parent = next(folder for folder in (out, *out.absolute().parents) if folder.is_dir())
    if not os.access(parent, os.W_OK):
        raise InputError(f"{out}: cannot be written")


def deliver(folder: Path, out: Path) -> None:
    """Replace an earlier dry run's results in `out` by those in `folder`."""
    out.mkdir(parents=True, exist_ok=True)
    for name in _RESULTS:
        (out / name).unlink(missing_ok=True)
    for name in _RESULTS:
        if (folder / name).is_file():
            shutil.copy(folder / name, out)


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 100 * 60 else f"{seconds / 3600:.1f} hours"
