"""Run kernels one after the other, each in a new box with what its metadata names."""

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from humanpref.files import read_json
from humanpref.kaggle.bundle.metadata import fill_owner, kernel_code, read_metadata
from humanpref.kaggle.bundle.sources import mount_path
from humanpref.kaggle.contract import MARKER
from humanpref.kaggle.rehearsal import sandbox
from humanpref.kaggle.rehearsal.environment import add_distribution, make_environment
from humanpref.kaggle.rehearsal.faults import OOM_BYTES, damage_inputs
from humanpref.kaggle.rehearsal.probe import probe
from humanpref.kaggle.rehearsal.report import TITLES, Report

OWNER = "dry-run"
"""Stands for the Kaggle user in the metadata."""
TORCHAO = "0.10.0"
"""Kaggle's image has this one, with which peft refuses to work: each environment gets a stand-in
for it."""
RERUN = {"KAGGLE_IS_COMPETITION_RERUN": "1"}
"""What Kaggle sets in the hidden rerun, and only there."""


@dataclass
class Kernels:
    """The kernels of a dry run.

    Attributes
    ----------
    folder : Path
        Where the boxes, environments and logs go.
    sources : dict
        What can be mounted, by kind and reference as in kernel-metadata.json. A kernel's output is
        added when it has run; models are mounted even where the metadata does not name them.
    report : Report
        Gets what was measured.
    echo : callable
        Gets each line of output.
    memory : int, optional
        Bytes that a process may hold.
    trains : bool
        Whether the training kernel runs; else artifacts stand for its output.
    """

    folder: Path
    sources: dict[tuple[str, str], Path]
    report: Report
    echo: Callable[[str], None]
    memory: int | None = None
    trains: bool = True

    def run(self, name: str, metadata_path: Path) -> Path:
        """Run one kernel, one of `TITLES`; give its `/kaggle/working`."""
        report = self.report
        metadata = fill_owner(read_metadata(metadata_path), OWNER)
        if metadata.get("enable_internet") is not False:
            report.reasons.append(
                f"{metadata_path}: enable_internet is not false; the competition refuses such a "
                "kernel"
            )
        datasets = (path for (kind, _), path in self.sources.items() if kind == "dataset")
        brought = [wheel for dataset in datasets for wheel in read_json(dataset / MARKER)["wheels"]]
        environment = make_environment(
            self.folder / f"{name}-environment",
            without=[*brought, "torchao"],
            block_sockets=report.mode == "none",
        )
        add_distribution(environment, "torchao", TORCHAO)
        box = sandbox.make_box(report.mode, self.folder / name, environment)
        inputs, working = box.root / "input", box.root / "working"
        self.mount(inputs, metadata, metadata_path)
        code = kernel_code(metadata_path.parent / metadata["code_file"])
        (box.root / "src" / "script.py").write_text(code, encoding="utf-8")
        script = str(box.kaggle / "src" / "script.py")
        command = [box.python, script]
        if metadata["kernel_type"] == "notebook":  # has no __file__
            run = f"exec(compile(open({script!r}).read(), 'notebook', 'exec'))"
            command = [box.python, "-c", run]
        report.probes[name] = probe(box)
        report.reasons += [f"{TITLES[name]}: {fault}" for fault in report.probes[name].faults]
        memory = self.memory
        if name != "train":
            damage_inputs(inputs, report.fault)
            memory = OOM_BYTES if report.fault == "oom" else memory
        before = _listing(inputs)
        started = time.perf_counter()
        with open(self.folder / f"{name}.log", "w", encoding="utf-8") as log:

            def echo(line: str) -> None:
                log.write(f"{line}\n")
                self.echo(f"[{name}] {line}")

            variables = RERUN if name == "rerun" else None
            report.exit_codes[name] = sandbox.run(
                box, command, echo, memory=memory, variables=variables
            )
        report.seconds[name] = time.perf_counter() - started
        report.disk_bytes[name] = sum(size for _, size, _ in _listing(working))
        if (working / "status.json").is_file():
            status = read_json(working / "status.json")
            report.peak_memory_bytes[name] = status.get("peak_memory_bytes", 0)
        if _listing(inputs) != before:
            report.reasons.append(
                f"{TITLES[name]}: changed its input folder, which is read-only on Kaggle"
            )
        self.sources["kernel", metadata["id"]] = working
        return working

    def mount(self, target: Path, metadata: dict, metadata_path: Path) -> None:
        """Lay out `/kaggle/input` as the metadata says."""
        kinds = ("competition", "dataset", "kernel", "model")
        named = [(kind, name) for kind in kinds for name in metadata.get(f"{kind}_sources", [])]
        unnamed = [key for key in self.sources if key[0] == "model" and key not in named]
        for kind, reference in named + unnamed:
            source = self.sources.get((kind, reference))
            if source is not None:
                mounted = target / mount_path(kind, reference, self.report.layout)
                mounted.parent.mkdir(parents=True, exist_ok=True)
                shutil.copytree(source, mounted, copy_function=os.link)
            elif kind != "kernel" or self.trains:
                self.report.warnings.append(
                    f"{metadata_path}: the {kind} {reference} is not here, so it was not mounted"
                )
        for kind, reference in unnamed:
            self.report.warnings.append(
                f"{metadata_path}: mounted the {kind} {reference}; before a push, name your own in "
                f"its {kind}_sources"
            )


def _listing(folder: Path) -> list[tuple[str, int, int]]:
    """Every file under `folder` with its size and time of change."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
