"""Run kernels in sequence, each in a new sandbox with the sources listed in its metadata."""

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from humanpref.files import read_json
from humanpref.kaggle.bundle.assemble import mounting
from humanpref.kaggle.bundle.metadata import fill_owner, kernel_code, read_metadata
from humanpref.kaggle.bundle.sources import KINDS, mount_path
from humanpref.kaggle.contract import MARKER
from humanpref.kaggle.rehearsal import sandbox
from humanpref.kaggle.rehearsal.environment import add_distribution, make_environment
from humanpref.kaggle.rehearsal.faults import OOM_BYTES, damage_inputs, kill_of
from humanpref.kaggle.rehearsal.probe import probe
from humanpref.kaggle.rehearsal.report import TITLES, Report
from humanpref.training.device import PLAYED_GPUS

OWNER = "dry-run"
"""Stand-in for the Kaggle user name in the metadata."""
TORCHAO = "0.10.0"
"""The version of torchao in Kaggle's image, with which peft refuses to work; each environment gets
an empty package of this version."""
RERUN = {"KAGGLE_IS_COMPETITION_RERUN": "1"}
"""The environment variable that Kaggle sets only in the hidden rerun."""


@dataclass
class Kernels:
    """The kernels of a dry run.

    Attributes
    ----------
    folder : Path
        The folder for sandboxes, environments and logs.
    sources : dict
        The folders of the sources that can be mounted. A key is a pair: the kind of the source, and
        its name in kernel-metadata.json. The output of each kernel is added after its run. Models
        are mounted even if the metadata does not list them.
    report : Report
        The report to which measurements are added.
    echo : callable
        Called with each line of output.
    memory : int, optional
        Memory limit of each process in bytes.
    trains : bool
        Whether the training kernel runs; otherwise artifacts replace its output.
    """

    folder: Path
    sources: dict[tuple[str, str], Path]
    report: Report
    echo: Callable[[str], None]
    memory: int | None = None
    trains: bool = True

    def run(self, name: str, metadata_path: Path) -> Path:
        """Run one kernel, and return the folder that served as its `/kaggle/working`.

        Parameters
        ----------
        name : str
            A key of `TITLES`.
        metadata_path : Path
            The kernel's kernel-metadata.json.
        """
        report = self.report
        metadata = mounting(read_metadata(metadata_path), report.competition)
        metadata = fill_owner(metadata, OWNER)
        if metadata.get("enable_internet") is not False:
            report.reasons.append(
                f"{metadata_path}: enable_internet is not false; the competition refuses such a "
                "kernel"
            )
        if name == "resumed":  # a second version mounts the output of the first
            metadata["kernel_sources"] = [metadata["id"]]
        box = self._make_box(name)
        inputs, working = box.root / "input", box.root / "working"
        self.mount(inputs, metadata, metadata_path)
        code = kernel_code(metadata_path.parent / metadata["code_file"])
        command = [box.python, "-c", code]
        if metadata["kernel_type"] == "script":
            (box.root / "src" / "script.py").write_text(code, encoding="utf-8")
            command = [box.python, str(box.kaggle / "src" / "script.py")]
        report.probes[name] = probe(box)
        report.reasons += [f"{TITLES[name]}: {fault}" for fault in report.probes[name].faults]
        memory = self.memory
        if name not in ("train", "resumed"):
            damage_inputs(inputs, report.fault)
            memory = OOM_BYTES if report.fault == "oom" else memory
        before = _listing(inputs)
        started = time.perf_counter()
        with open(self.folder / f"{name}.log", "w", encoding="utf-8") as log:

            def echo(line: str) -> None:
                log.write(f"{line}\n")
                self.echo(f"[{name}] {line}")

            variables = RERUN if name == "rerun" else {}
            if report.gpus:
                variables = variables | {
                    PLAYED_GPUS: str(report.gpus),
                    "ACCELERATE_USE_CPU": "true",
                }
            kill = kill_of(report.fault, name)
            report.exit_codes[name] = sandbox.run(box, command, echo, memory, variables, kill)
        if kill is not None and not kill.done:
            report.reasons.append(f"{TITLES[name]}: there was no process to kill")
        report.seconds[name] = time.perf_counter() - started
        report.disk_bytes[name] = sum(size for size, _ in _listing(working).values())
        if (working / "status.json").is_file():
            status = read_json(working / "status.json")
            report.peak_memory_bytes[name] = status.get("peak_memory_bytes", 0)
        if _listing(inputs) != before:
            report.reasons.append(
                f"{TITLES[name]}: changed its input folder, which is read-only on Kaggle"
            )
        self.sources["kernel", metadata["id"]] = working
        return working

    def _make_box(self, name: str) -> sandbox.Box:
        """Create a sandbox whose environment lacks the packages that the kernel installs."""
        mode, brought = self.report.mode, ["torchao"]
        for (kind, _), source in self.sources.items():
            if kind == "dataset":
                brought += read_json(source / MARKER)["wheels"]
        environment = make_environment(self.folder / f"{name}-environment", brought, mode == "none")
        add_distribution(environment, "torchao", TORCHAO)
        return sandbox.make_box(mode, self.folder / name, environment)

    def mount(self, target: Path, metadata: dict[str, Any], metadata_path: Path) -> None:
        """Lay out `/kaggle/input` in `target` according to the metadata."""
        warnings = self.report.warnings
        named = [(kind, name) for kind in KINDS for name in metadata.get(f"{kind}_sources", [])]
        unnamed = [key for key in self.sources if key[0] == "model" and key not in named]
        for kind, reference in named + unnamed:
            if source := self.sources.get((kind, reference)):
                mounted = target / mount_path(kind, reference, self.report.layout)
                shutil.copytree(source, mounted, copy_function=os.link)
            elif kind != "kernel" or self.trains:
                warnings.append(
                    f"{metadata_path}: the {kind} {reference} is not available here, so it was not "
                    "mounted"
                )
        for kind, reference in unnamed:
            warnings.append(
                f"{metadata_path}: mounted the {kind} {reference}; before a push, list your own in "
                f"its {kind}_sources"
            )


def _listing(folder: Path) -> dict[Path, tuple[int, int]]:
    """Return the size and the modification time (ns) of every file in a folder."""
    stats = {path: path.stat() for path in folder.rglob("*") if path.is_file()}
    return {path: (stat.st_size, stat.st_mtime_ns) for path, stat in stats.items()}
