"""The dry run: both kernels as Kaggle would run them, on this machine, without a network.

It stages what would be uploaded, reads what to mount from the metadata that would be pushed, runs
the training kernel and then the inference kernel on its output, each in a box and an environment of
its own (`humanpref.kaggle.rehearsal.sandbox`), and judges the submission. What it rehearses is the
commit run, the one that is pushed; with a fault the hidden rerun, too.
"""

import csv
import dataclasses
import itertools
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from humanpref.arena import write_arena
from humanpref.config import Config, load_config
from humanpref.data import (
    check_submission,
    grouped_folds,
    labels_of,
    positive_weight_mask,
    read_pairs,
)
from humanpref.files import read_json, write_json
from humanpref.kaggle.bundle.metadata import (
    DATASET_METADATA,
    KERNEL_METADATA,
    fill_owner,
    read_metadata,
)
from humanpref.kaggle.bundle.stage import (
    LAYOUTS,
    artifact_names,
    find_project,
    kernel_code,
    mount_path,
    stage_dataset,
    wheel_names,
)
from humanpref.kaggle.contract import COMPETITION, MARKER, KernelRun
from humanpref.kaggle.rehearsal import sandbox
from humanpref.kaggle.runtime.inputs import find, find_artifacts
from humanpref.logloss import log_loss
from humanpref.runs.artifact import Artifact
from humanpref.schema import ID, LABEL_COLUMNS, TEXT_COLUMNS, InputError

logger = logging.getLogger(__name__)

SYNTHETIC_ROWS = 2_000
"""Training rows of the synthetic arena; it has a fifth as many test rows."""
HELD_OUT_ROWS = 1_000
"""At most so many rows of `--train` become the test, where there is no `--test`."""
HIDDEN_ROWS = 25_000
"""Rows of the competition's hidden test file."""
HIDDEN_HOURS = 9
"""What the competition allows for them."""

FAULTS = {
    "missing-dataset": "the wheel dataset is not mounted",
    "corrupt-wheel": "one byte of the package's wheel is another",
    "corrupt-weights": "half of every artifact's weights is missing",
    "slow": "the time for predicting is over before it begins",
    "oom": "the predicting process is killed for the memory that it takes",
    "no-labels": "train.csv has no labels",
}
"""What can be made to go wrong. `no-labels` is for the training kernel, which has to end with an
error. With each of the others nothing can be predicted: the inference kernel's commit run has to
end with an error, its hidden rerun well, and both with a valid submission and the reason in
status.json."""
RERUN = {"KAGGLE_IS_COMPETITION_RERUN": "1"}
"""What Kaggle sets in the hidden rerun, and only there."""
TORCHAO = "0.10.0"
"""Kaggle's image has this one, with which peft refuses to work: each environment gets a stand-in
for it."""
FAULT_MEMORY = 64 * 2**20
"""Bytes of memory that a process gets under `oom`: enough for pip and for the fallback, too little
for the package."""

_OWNER = "dry-run"
_KIND = "humanpref dry run"
_RESULTS = ("submission.csv", "report.json", "train.log", "infer.log", "rerun.log")
_TITLES = {"train": "training", "infer": "commit run", "rerun": "hidden rerun"}
_TEST_COLUMNS = [ID, *TEXT_COLUMNS]


@dataclass
class Report:
    """What a dry run found. `reasons` say why it failed; `warnings` are what to look at all the
    same.

    Of each run, `train`, `infer` (the commit run) and `rerun` (the hidden one): `probes`,
    `exit_codes`, `seconds`, `peak_memory_bytes`, `disk_bytes`, and of inference `degraded`, what
    made its submission less than whole.
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
    probes: dict[str, sandbox.Probe] = field(default_factory=dict)
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
        return ", ".join(
            ["PASS"]
            + (["DEGRADED BY THE FAULT"] if any(self.degraded.values()) else [])
            + (["WITHOUT ISOLATION"] if self.mode == "none" else [])
        )

    def render(self) -> str:
        """The report for a person to read, the verdict last."""
        lines = [
            "Dry run of preset "
            f"{self.preset}{''.join(f' --set {override}' for override in self.overrides)}"
        ]
        lines += [
            (
                "data",
                f"{self.data}: {self.train_rows:,} training rows, {self.test_rows:,} test rows",
            )
        ]
        isolation = {
            "bwrap": "bubblewrap: no network, read-only inputs, a file system of its own",
            "none": "NONE: bubblewrap does not work here; only Python's own sockets are blocked",
        }
        lines.append(("isolation", f"{isolation[self.mode]} ({self.layout} layout)"))
        if self.fault:
            lines.append(("fault", f"{self.fault}: {FAULTS[self.fault]}"))
        for name, probe in self.probes.items():
            lines.append(
                (
                    _TITLES[name],
                    f"a connection to the outside {probe.connection}, a name look-up "
                    f"{probe.lookup}, mounting the input writable "
                    f"{probe.input_remount}, writing to it {probe.input_write}; network "
                    "interfaces: "
                    f"{', '.join(probe.interfaces) or 'none'}",
                )
            )
            if name in self.exit_codes:
                memory = self.peak_memory_bytes.get(name)
                used = f"{memory / 2**20:,.0f} MiB of memory at most, " if memory else ""
                used += f"{self.disk_bytes.get(name, 0) / 2**20:,.1f} MiB written"
                lines.append(
                    (
                        "",
                        f"exit code {self.exit_codes[name]} after {self.seconds[name]:.0f} s; "
                        f"{used}",
                    )
                )
            if self.fault:  # without one they are reasons
                lines += [("degraded", text) for text in self.degraded.get(name, [])]
        if self.seconds_per_step is not None:
            lines.append(("training step", f"{self.seconds_per_step:.3f} seconds"))
        if self.log_loss is not None:
            lines.append(
                ("log loss", f"{self.log_loss:.4f} (the prior's: {self.prior_log_loss:.4f})")
            )
        if self.rows_per_second is not None:
            lines.append(
                (
                    "speed",
                    f"{self.rows_per_second:,.1f} rows per second; {HIDDEN_ROWS:,} rows would take "
                    f"{_duration(self.projected_seconds)} on this machine, installation and "
                    "loading included",
                )
            )
        if (self.out / "submission.csv").exists():
            lines.append(
                (
                    "submission",
                    f"{self.out / 'submission.csv'}: {self.predicted} of {self.test_rows} "
                    "predicted",
                )
            )
        lines += [("warning", text) for text in self.warnings]
        lines += [("failed", text) for text in self.reasons]
        lines.append(self.verdict)
        return "\n".join(
            line if isinstance(line, str) else f"  {line[0]:<13} {line[1]}" for line in lines
        )

    def to_dict(self) -> dict[str, Any]:
        """The report as plain JSON types."""
        values = {**dataclasses.asdict(self), "out": str(self.out)}
        return {"kind": _KIND, "passed": self.passed, "verdict": self.verdict, **values}


def dry_run(
    train: str | Path | None = None,
    test: str | Path | None = None,
    preset: str = "tiny",
    overrides: Sequence[str] = (),
    out: str | Path | None = None,
    *,
    layout: str = "new",
    mode: str | None = None,
    rows: int = SYNTHETIC_ROWS,
    test_rows: int | None = None,
    artifacts: Sequence[Path] = (),
    fault: str | None = None,
    memory: float | None = None,
    project: Path | None = None,
    echo: Callable[[str], None] = print,
) -> Report:
    """KernelRun both kernels as Kaggle would, and judge what comes out.

    Parameters
    ----------
    train, test : path, optional
        CSVs in the competition's schema. Without both: the synthetic arena. Without `test`: a part
        of `train`, grouped by prompt, that is then not trained on. Without `train`: the synthetic
        arena's training rows. The kernels never see labels of test rows; the report's log loss
        does.
    preset, overrides
        As for `humanpref train`. A `model.backbone` that is a folder is mounted as Kaggle would
        mount a model.
    out : path, optional
        Where submission.csv, report.json and the kernels' logs go; default `dry-run` in the current
        folder. It must be absent, empty, or an earlier dry run's.
    layout : str
        `new` or `legacy`: how Kaggle lays out `/kaggle/input`.
    mode : str, optional
        One of `sandbox.MODES`; default: the best that works here.
    rows : int
        Training rows of the synthetic arena.
    test_rows : int, optional
        Repeat the test's rows, under ids of their own, until there are so many.
    artifacts : sequence of Path
        Rehearse the inference kernel alone, with these; nothing is trained then. Those that only
        name their base find it by `model.backbone` among the overrides.
    fault : str, optional
        One of `FAULTS`: what is made to go wrong. The verdict is then whether the kernel ends as it
        should, in the commit run and in the hidden rerun.
    memory : float, optional
        GiB that a process of a kernel may hold; one that holds more is killed. Kaggle's machines
        have about 30.
    project : Path, optional
        The checkout; default: see `find_project`.
    echo : callable
        Gets the kernels' output, line by line, with the kernel's name before it.

    Raises
    ------
    InputError
        For files, options or a folder that cannot be used; nothing is run then.
    """
    if layout not in LAYOUTS or mode not in (None, *sandbox.MODES):
        raise InputError(
            f"dry run: layout {layout!r} and mode {mode!r}: expected one of {LAYOUTS} and of "
            f"{sandbox.MODES}"
        )
    if fault not in (None, *FAULTS):
        raise InputError(f"--fault {fault!r}: expected one of {', '.join(FAULTS)}")
    if fault == "no-labels" and artifacts:
        raise InputError(
            "--fault no-labels is for the training kernel, which does not run with --artifact"
        )
    if memory is not None and not memory > 0:
        raise InputError(f"--memory {memory}: expected more than 0 GiB")
    if test_rows is not None and test_rows < 1:
        raise InputError(f"--rows {test_rows}: expected at least 1")
    artifact_names(artifacts)
    project = project or find_project()
    out = _claim(Path("dry-run" if out is None else out))
    config = load_config(preset, None, list(overrides))
    run, backbone = _run_of(preset, overrides, config)
    if fault == "slow":
        run = dataclasses.replace(run, inference_seconds=0)
    mode = mode or sandbox.detect()
    with tempfile.TemporaryDirectory(prefix="humanpref-dry-run-") as temporary:
        folder = Path(temporary)
        data, labels = _stage_competition(folder / "competition", train, test, rows)
        if test_rows is not None:
            _repeat_rows(folder / "competition" / "test.csv", test_rows)
            _write_sample(folder / "competition")
        if fault == "no-labels":
            _write_columns(
                _csv_rows(folder / "competition" / "train.csv"),
                _TEST_COLUMNS,
                folder / "unlabelled.csv",
            )
            os.replace(folder / "unlabelled.csv", folder / "competition" / "train.csv")
        name = ", ".join(map(str, artifacts)) if artifacts else preset
        report = Report(
            preset=name,
            overrides=tuple(overrides),
            data=data,
            mode=mode,
            layout=layout,
            out=out,
            fault=fault,
        )
        report.train_rows = _count(folder / "competition" / "train.csv")
        report.test_rows = _count(folder / "competition" / "test.csv")
        echo(
            f"[dry run] {data}: {report.train_rows:,} training rows, {report.test_rows:,} test "
            f"rows; sandbox: {mode}"
        )
        dataset = stage_dataset(folder / "dataset", project, run, artifacts)
        echo(
            "[dry run] staged the dataset: "
            f"{', '.join(sorted(path.name for path in dataset.iterdir()))}"
        )
        dataset_id = fill_owner(read_metadata(project / DATASET_METADATA), _OWNER)["id"]
        sources = {
            ("competition", COMPETITION): folder / "competition",
            ("dataset", dataset_id): dataset,
        }
        extra = {}
        if backbone is not None:
            # A copy, so that a kernel that is not isolated cannot write the user's own.
            extra["model", f"{_OWNER}/{run.backbone}/transformers/default/1"] = Path(
                shutil.copytree(backbone, folder / "backbone")
            )
        stage = _Stage(
            folder,
            dataset,
            sources,
            report,
            echo,
            bool(artifacts),
            memory and round(memory * 2**30),
        )
        if artifacts:
            facts = [Artifact.load(path).facts for path in artifacts]
        else:
            trained = stage.run("train", project / "kernel" / "train" / KERNEL_METADATA, extra)
            _judge_training(trained, report)
            sources["kernel", stage.ids["train"]] = trained
            facts = [
                read_json(path)
                for path in [trained / "artifact" / "artifact.json"]
                if path.is_file()
            ]
        if fault == "no-labels":
            _judge_refusal(folder / "train.log", report)
        elif facts:
            for name in ("infer", "rerun") if fault else ("infer",):
                working = stage.run(name, project / KERNEL_METADATA, extra)
                _judge_inference(name, working, folder / "competition" / "test.csv", report)
            submission = working / "submission.csv"
            if submission.is_file():
                shutil.copy(submission, folder)
            if submission.is_file() and fault is None:
                learned = any(fact["family"] != "prior" for fact in facts)
                must = learned and train is None and test is None and not artifacts
                _judge_log_loss(submission, labels, facts[0]["prior"], learned, must, report)
        write_json(folder / "report.json", report.to_dict())
        _deliver(folder, out)
    return report


@dataclass
class _Stage:
    """Runs kernels one after the other, each in a new box with what its metadata names.

    A run is `train`, `infer` (the inference kernel's commit run) or `rerun` (its hidden one).
    """

    folder: Path
    dataset: Path
    sources: dict[tuple[str, str], Path]
    report: Report
    echo: Callable[[str], None]
    artifacts: bool = False
    memory: int | None = None
    ids: dict[str, str] = field(default_factory=dict)

    def run(self, name: str, metadata_path: Path, extra: dict[tuple[str, str], Path]) -> Path:
        """KernelRun one kernel; give its `/kaggle/working`."""
        metadata = fill_owner(read_metadata(metadata_path), _OWNER)
        self.ids[name] = metadata["id"]
        if metadata.get("enable_internet") is not False:
            self.report.reasons.append(
                f"{metadata_path}: enable_internet is not false; the competition refuses such a "
                "kernel"
            )
        environment = sandbox.make_environment(
            self.folder / f"{name}-environment",
            without=[*wheel_names(self.dataset), "torchao"],
            block_sockets=self.report.mode == "none",
        )
        sandbox.add_distribution(environment, "torchao", TORCHAO)
        box = sandbox.make_box(self.report.mode, self.folder / name, environment)
        self._mount(box.root / "input", metadata, metadata_path, extra)
        code = kernel_code(metadata_path.parent / metadata["code_file"])
        (box.root / "src" / "script.py").write_text(code, encoding="utf-8")
        script = str(box.kaggle / "src" / "script.py")
        command = [box.python, script]
        if metadata["kernel_type"] == "notebook":
            command = [
                box.python,
                "-c",
                f"exec(compile(open({script!r}).read(), 'notebook', 'exec'))",
            ]  # has no __file__
        probe = sandbox.probe(box)
        self.report.probes[name] = probe
        memory = FAULT_MEMORY if name != "train" and self.report.fault == "oom" else self.memory
        self.report.reasons += [f"{_TITLES[name]}: {fault}" for fault in probe.faults]
        if name != "train":
            _break(box.root / "input", self.report.fault)
        before = _listing(box.root / "input")
        started = time.perf_counter()
        with open(self.folder / f"{name}.log", "w", encoding="utf-8") as log:

            def echo(line: str) -> None:
                log.write(f"{line}\n")
                self.echo(f"[{name}] {line}")

            self.report.exit_codes[name] = sandbox.run(
                box, command, echo, memory=memory, variables=RERUN if name == "rerun" else None
            )
        self.report.seconds[name] = time.perf_counter() - started
        working = box.root / "working"
        self.report.disk_bytes[name] = sum(size for _, size, _ in _listing(working))
        if (working / "status.json").is_file():
            self.report.peak_memory_bytes[name] = read_json(working / "status.json").get(
                "peak_memory_bytes", 0
            )
        if _listing(box.root / "input") != before:
            self.report.reasons.append(
                f"{_TITLES[name]}: changed its input folder, which is read-only on Kaggle"
            )
        return working

    def _mount(
        self, target: Path, metadata: dict, metadata_path: Path, extra: dict[tuple[str, str], Path]
    ) -> None:
        """Lay out `/kaggle/input` as the metadata says."""
        named = {
            (kind, reference): self.sources.get((kind, reference))
            for kind in ("competition", "dataset", "kernel", "model")
            for reference in metadata.get(f"{kind}_sources", [])
        }
        for (kind, reference), source in (named | extra).items():
            if source is None and (kind, self.artifacts) == ("kernel", True):
                continue  # the artifacts stand for the training kernel's output
            if source is None:
                self.report.warnings.append(
                    f"{metadata_path}: the {kind} {reference} is not here, so it was not mounted"
                )
                continue
            mounted = target / mount_path(kind, reference, self.report.layout)
            mounted.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(source, mounted, copy_function=os.link)
        for kind, reference in extra.keys() - named.keys():
            self.report.warnings.append(
                f"{metadata_path}: mounted the {kind} {reference}; before a push, name your own in "
                f"its {kind}_sources"
            )


def _run_of(preset: str, overrides: Sequence[str], config: Config) -> tuple[KernelRun, Path | None]:
    """The run for run.toml, and the folder of its backbone where it has one."""
    backbone = getattr(config.model, "backbone", "scratch")
    if backbone in (
        "",
        "scratch",
    ):  # none, as in a blend without a sentence encoder, or made from nothing
        return KernelRun(preset, tuple(overrides)), None
    folder = Path(backbone)
    if not any((folder / name).is_file() for name in ("config.json", "modules.json")):
        raise InputError(
            "option model.backbone: the kernels have no network, so it has to be a folder with a "
            f"config.json, got {backbone!r} "
            f"(--set model.backbone=FOLDER)"
        )
    rest = tuple(
        override for override in overrides if override.partition("=")[0].strip() != "model.backbone"
    )
    return KernelRun(preset, rest, backbone=folder.resolve().name), folder


def _stage_competition(
    folder: Path, train: str | Path | None, test: str | Path | None, rows: int
) -> tuple[str, pd.DataFrame | None]:
    """Write the competition's three files; give what they are, and the test's labels (id and
    labels) where they are known."""
    folder.mkdir()
    labels = None
    data = "the synthetic arena"
    if train is None or test is None:
        hidden = folder.with_name("arena")
        if train is None:
            write_arena(hidden, rows, seed=0)
            shutil.copy(hidden / "train.csv", folder)
            if test is None:
                shutil.copy(hidden / "test.csv", folder)
                labels = pd.read_csv(hidden / "test_labels.csv", dtype={ID: str})
        else:
            labels = _hold_out(Path(train), folder)
            data = f"{train}, a part of it held out as the test"
    if train is not None and test is not None:
        read_pairs(train, labels=True)  # what the kernel would refuse is refused here, in one line
        shutil.copy(train, folder / "train.csv")
        data = f"{train} and {test}"
    if test is not None:
        pairs = read_pairs(test)
        if LABEL_COLUMNS[0] in pairs:
            labels = pairs[[ID, *LABEL_COLUMNS]]
        _write_columns(_csv_rows(Path(test)), _TEST_COLUMNS, folder / "test.csv")
        if train is None:
            data = f"the synthetic arena's training rows and {test}"
    _write_sample(folder)
    return data, labels


def _write_sample(folder: Path) -> None:
    """Write the sample submission of a folder's test.csv."""
    sample = [
        [ID, *LABEL_COLUMNS],
        *([row[0], *[1 / 3] * 3] for row in list(_csv_rows(folder / "test.csv"))[1:]),
    ]
    _write_columns(iter(sample), sample[0], folder / "sample_submission.csv")


def _repeat_rows(test_csv: Path, wanted: int) -> None:
    """Cut or repeat a test.csv's rows so that it has `wanted`; a repeated row gets an id of its
    own."""
    header, *rows = _csv_rows(test_csv)
    taken = {row[0] for row in rows}
    fresh = (text for text in map(str, itertools.count(1)) if text not in taken)
    copies = ([next(fresh), *row[1:]] for row in itertools.cycle(rows))
    repeated = [*rows[:wanted], *itertools.islice(copies, max(0, wanted - len(rows)))]
    partial = test_csv.with_name("repeated.csv")
    _write_columns(iter([header, *repeated]), header, partial)
    os.replace(partial, test_csv)


def _break(inputs: Path, fault: str | None) -> None:
    """Do to a kernel's mounted inputs what the fault says. They are links to what was staged: a
    file is replaced, not changed."""
    if fault == "missing-dataset":
        for marker in find(MARKER, inputs):
            shutil.rmtree(marker.parent)
    if fault == "corrupt-wheel":
        for wheel in inputs.rglob("humanpref-*.whl"):
            content = bytearray(wheel.read_bytes())
            content[len(content) // 2] ^= 1
            wheel.unlink()
            wheel.write_bytes(content)
    if fault == "corrupt-weights":
        for artifact in find_artifacts(inputs):
            for weights in artifact.rglob("*.safetensors"):
                content = weights.read_bytes()
                weights.unlink()
                weights.write_bytes(content[: len(content) // 2])


def _hold_out(train: Path, folder: Path) -> pd.DataFrame:
    """Split a labelled CSV by prompt into train.csv and a test.csv of at most `HELD_OUT_ROWS` rows;
    give the latter's labels."""
    pairs = read_pairs(train, labels=True)
    # Of weight 0 is a row that nothing is judged by.
    held = (grouped_folds(pairs, k=5, seed=42) == 0) & positive_weight_mask(pairs, train)
    test = np.flatnonzero(held)[:HELD_OUT_ROWS]
    header, *rows = _csv_rows(train)
    _write_columns(
        iter([header, *(row for row, out in zip(rows, held, strict=True) if not out)]),
        header,
        folder / "train.csv",
    )
    _write_columns(iter([header, *(rows[i] for i in test)]), _TEST_COLUMNS, folder / "test.csv")
    return pairs.iloc[test][[ID, *LABEL_COLUMNS]].reset_index(drop=True)


def _csv_rows(path: Path) -> Iterator[list[str]]:
    """The rows of a CSV that `read_pairs` has accepted, header first, each cell as it stands."""
    csv.field_size_limit(2**31 - 1)
    with path.open(encoding="utf-8-sig", errors="surrogatepass", newline="") as file:
        yield from (row for row in csv.reader(file) if row)


def _write_columns(rows: Iterator[list[Any]], columns: list[str], path: Path) -> None:
    header = next(rows)
    places = [header.index(column) for column in columns]
    with path.open("w", encoding="utf-8", errors="surrogatepass", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([row[place] for place in places] for row in rows)


def _count(path: Path) -> int:
    return sum(1 for _ in _csv_rows(path)) - 1


def _listing(folder: Path) -> list[tuple[str, int, int]]:
    """Every file under `folder` with its size and time of change."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]


def _judge_refusal(log: Path, report: Report) -> None:
    """A training kernel that cannot train has to fail, and its last line has to say why."""
    last = log.read_text(encoding="utf-8").rstrip().rpartition("\n")[2]
    if report.exit_codes["train"] == 0:
        report.reasons.append("the training kernel ended well, in spite of the fault")
    elif not last.startswith("The training kernel failed: "):
        report.reasons.append(
            f"the training kernel failed without saying why; its last line: {last[:200]}"
        )


def _judge_training(working: Path, report: Report) -> None:
    if report.fault == "no-labels":
        return
    if report.exit_codes["train"] != 0:
        report.reasons.append(
            f"the training kernel ended with exit code {report.exit_codes['train']}"
        )
        return
    metrics = working / "artifact" / "metrics.json"
    if metrics.is_file():
        report.seconds_per_step = read_json(metrics).get("seconds_per_step")
    else:
        report.reasons.append("the training kernel left no artifact/metrics.json")


def _judge_inference(name: str, working: Path, test_csv: Path, report: Report) -> None:
    """The exit code, what status.json says, and the submission, of the commit run (`infer`) or the
    hidden one (`rerun`)."""
    reasons = []
    expected = int(name == "infer" and report.fault is not None)
    if report.exit_codes[name] != expected:
        reasons.append(f"expected exit code {expected}, got {report.exit_codes[name]}")
    reasons += [
        f"submission: {fault}" for fault in check_submission(working / "submission.csv", test_csv)
    ]
    status = read_json(working / "status.json") if (working / "status.json").is_file() else None
    if status is None:
        reasons.append("no status.json")
    elif report.fault is None:
        reasons += [f"degraded: {reason}" for reason in status["degraded"]]
    elif not status["degraded"]:
        reasons.append("the fault is not in status.json")
    report.reasons += [f"{_TITLES[name]}: {reason}" for reason in reasons]
    if status is None:
        return
    report.predicted, report.degraded[name] = status["predicted"], status["degraded"]
    if report.fault is not None:
        return
    seconds = status["seconds"]
    if seconds.get("predict") and status["predicted"]:
        report.rows_per_second = status["predicted"] / seconds["predict"]
        fixed = sum(seconds.get(phase, 0.0) for phase in ("install", "load"))
        growing = sum(seconds.get(phase, 0.0) for phase in ("fallback", "read", "predict"))
        report.projected_seconds = fixed + HIDDEN_ROWS * growing / status["predicted"]
        if report.projected_seconds > HIDDEN_HOURS * 3600:
            report.warnings.append(
                f"{HIDDEN_ROWS:,} rows would take more than the {HIDDEN_HOURS} hours allowed, on "
                "this machine"
            )


def _judge_log_loss(
    submission: Path,
    labels: pd.DataFrame | None,
    prior: list[float],
    learned: bool,
    must: bool,
    report: Report,
) -> None:
    """Compare with the prior's log loss what has learned anything; `must`: whether it has to be
    better."""
    if labels is None or any(": submission: " in reason for reason in report.reasons):
        return
    labels = labels[: report.test_rows]
    probabilities = (
        pd.read_csv(submission, dtype={ID: str})
        .set_index(ID)[list(LABEL_COLUMNS)]
        .loc[labels[ID]]
        .to_numpy()
    )
    truth = labels_of(labels)
    report.log_loss = log_loss(truth, probabilities)
    report.prior_log_loss = log_loss(truth, np.tile(prior, (len(truth), 1)))
    if report.log_loss >= report.prior_log_loss and learned:
        text = (
            f"the log loss {report.log_loss:.4f} is not under the prior's "
            f"{report.prior_log_loss:.4f}"
        )
        # On rows of the user's own that may be the truth of it; what the synthetic arena teaches
        # must be learned.
        (report.reasons if must else report.warnings).append(text)


def _claim(out: Path) -> Path:
    """Check, before anything runs, that the results may go to `out`."""
    if out.is_dir():
        report = out / "report.json"
        ours = (
            report.is_file()
            and isinstance(read_json(report), dict)
            and read_json(report).get("kind") == _KIND
        )
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
    return out


def _deliver(folder: Path, out: Path) -> None:
    """Replace an earlier dry run's results by this one's; the report comes last, since it makes the
    folder ours."""
    out.mkdir(parents=True, exist_ok=True)
    for name in _RESULTS:
        (out / name).unlink(missing_ok=True)
    for name in sorted(_RESULTS, key=lambda name: name == "report.json"):
        if (folder / name).is_file():
            shutil.copy(folder / name, out)


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 100 * 60 else f"{seconds / 3600:.1f} hours"
