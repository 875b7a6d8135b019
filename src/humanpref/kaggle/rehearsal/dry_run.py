"""The dry run: run both kernels as Kaggle would, on this machine and without a network.

It stages the dataset, mounts the sources listed in the committed metadata, runs the training kernel
and then the inference kernel on its output, each in its own sandbox, and checks the submission. It
rehearses the commit run, which Kaggle starts after a push. With a fault other than
`killed-training`, it also rehearses the hidden rerun, which Kaggle starts after a submission.
"""

import dataclasses
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from humanpref.config import Config
from humanpref.config.gpu import uses_gpu
from humanpref.config.neural import LoopOptions
from humanpref.files import temporary_folder, write_json
from humanpref.kaggle.bundle.checkout import find_project
from humanpref.kaggle.bundle.metadata import (
    DATASET_METADATA,
    KERNEL_METADATA,
    fill_owner,
    read_metadata,
)
from humanpref.kaggle.bundle.stage import stage_dataset
from humanpref.kaggle.competitions import DEFAULT
from humanpref.kaggle.contract import KernelRun
from humanpref.kaggle.rehearsal import sandbox
from humanpref.kaggle.rehearsal.competition import read_competition
from humanpref.kaggle.rehearsal.faults import FAULTS
from humanpref.kaggle.rehearsal.judge import judge_inference, judge_training
from humanpref.kaggle.rehearsal.kernels import OWNER, Kernels
from humanpref.kaggle.rehearsal.report import Report, claim, deliver, held
from humanpref.runs.artifact import Artifact
from humanpref.schema import InputError


@dataclass(frozen=True)
class DryRun:
    """The options of a dry run.

    Attributes
    ----------
    train, test : Path, optional
        Rows that `humanpref.data.read_pairs` reads. If both are missing, the synthetic arena is
        used. If only `test` is missing, part of `train`, grouped by prompt, is held out as the
        test. If only `train` is missing, the synthetic arena's training rows are used. Labels of
        test rows are used only for the score in the report.
    preset : str
        The preset to train.
    overrides : tuple of str
        As for `humanpref train`. The folder `model.backbone` is mounted as Kaggle would mount a
        model.
    out : Path
        Folder for submission.csv, report.json and the kernels' logs. It must not exist, be empty,
        or belong to an earlier dry run.
    layout : str
        The layout of `/kaggle/input`: `new` or `legacy`.
    test_rows : int, optional
        Cut the test rows, or repeat them under new ids, to this number.
    artifacts : tuple of Path
        Rehearse only the inference kernel, with these artifacts. An artifact without its base
        model needs `model.backbone` among the overrides.
    fault : str, optional
        The key in `FAULTS` of a fault to inject. The verdict is then whether the kernel handles it,
        in the commit run and in the hidden rerun.
    memory : float, optional
        Memory limit in GiB for each process of a kernel; a process that exceeds it is killed.
        Kaggle's machines have about 30 GiB.
    gpus : int
        Simulate this many GPUs: both kernels then run as many processes as on a machine that has
        them, on the CPU, with row counts that they cannot share equally. 0 for none.
    folds : int, optional
        As for `humanpref train`.
    competition : str
        The slug of the competition whose files, kernels and submission are rehearsed. Rows are
        rewritten in its schema.
    format : str, optional
        The format of `train` and `test`. By default, it is detected.
    project : Path, optional
        The checkout; by default, see `find_project`.
    """

    train: Path | None = None
    test: Path | None = None
    preset: str = "tiny"
    overrides: tuple[str, ...] = ()
    out: Path = Path("dry-run")
    layout: str = "new"
    test_rows: int | None = None
    artifacts: tuple[Path, ...] = ()
    fault: str | None = None
    memory: float | None = None
    gpus: int = 0
    folds: int | None = None
    competition: str = DEFAULT
    format: str | None = None
    project: Path | None = None

    def check(self) -> None:
        """Raise InputError for options that cannot be used."""
        if self.fault not in (None, *FAULTS):
            raise InputError(f"--fault {self.fault!r}: expected one of {', '.join(FAULTS)}")
        if self.fault in ("no-labels", "killed-training") and self.artifacts:
            raise InputError(
                f"--fault {self.fault} tests the training kernel, which does not run with "
                "--artifact"
            )
        if self.fault == "killed-inference" and not self.gpus:
            raise InputError("--fault killed-inference: needs --gpus, such as --gpus 2")
        if self.gpus < 0:
            raise InputError(f"--gpus {self.gpus}: expected at least 0")
        if self.memory is not None and not self.memory > 0:
            raise InputError(f"--memory {self.memory}: expected more than 0 GiB")
        if self.test_rows is not None and self.test_rows < 1:
            raise InputError(f"--rows {self.test_rows}: expected at least 1")
        claim(self.out)

    def kernel_run(self) -> tuple[KernelRun, Path | None]:
        """Return the run for run.toml, and the folder of its backbone if it needs one.

        Raises
        ------
        InputError
            If the preset or an override is unknown, or the backbone is not a folder.
        """
        seconds = 0 if self.fault == "slow" else None
        run = KernelRun(
            self.preset,
            self.overrides,
            folds=self.folds,
            inference_seconds=seconds,
            competition=self.competition,
        )
        if run.pretrained is None:
            return run, None
        folder = Path(run.pretrained)
        if not folder.is_dir():
            raise InputError(
                f"option model.backbone: expected a folder, got {run.pretrained!r}; the kernels "
                "have no network, so name a folder here (--set model.backbone=FOLDER)"
            )
        kept = [text for text in self.overrides if text.split("=")[0].strip() != "model.backbone"]
        return dataclasses.replace(run, overrides=kept, backbone=folder.resolve().name), folder


def dry_run(options: DryRun, echo: Callable[[str], None] = print) -> Report:
    """Run both kernels as Kaggle would, and judge the results.

    Parameters
    ----------
    options : DryRun
        The options of the dry run.
    echo : callable
        Called with each line of the kernels' output, prefixed with the kernel's name.

    Raises
    ------
    InputError
        If a file, an option or a folder cannot be used; in that case nothing is run.
    """
    options.check()
    project = options.project or find_project()
    run, backbone = options.kernel_run()
    mode = sandbox.detect()
    rules = run.rules
    competition = read_competition(options.train, options.test, options.format, rules)
    if options.test_rows is not None:
        competition.repeat_test(options.test_rows)
    launches, uses_gpus = _uses(options.artifacts, run.config)
    if options.gpus and launches:
        competition.make_uneven(run.config)
    if options.fault == "no-labels":
        competition.drop_labels()
    report = Report(
        preset=", ".join(map(str, options.artifacts)) or options.preset,
        overrides=options.overrides,
        data=competition.source,
        mode=mode,
        layout=options.layout,
        out=options.out,
        fault=options.fault,
        gpus=options.gpus,
        competition=options.competition,
        train_rows=len(competition.train),
        test_rows=len(competition.test),
    )
    echo(f"[dry run] {report.rows}; sandbox: {mode}")
    scratch = Path(tempfile.gettempdir(), "humanpref-dry-run")
    with held(options.out), temporary_folder(scratch) as folder:
        competition.write(folder / "competition")
        dataset = stage_dataset(folder / "dataset", project, run, options.artifacts)
        dataset_id = fill_owner(read_metadata(project / DATASET_METADATA), OWNER)["id"]
        sources = {
            ("competition", rules.slug): folder / "competition",
            ("dataset", dataset_id): dataset,
        }
        if backbone is not None:
            # A copy, so that a kernel without isolation cannot change the user's files.
            model = ("model", f"{OWNER}/{run.backbone}/transformers/default/1")
            sources[model] = Path(shutil.copytree(backbone, folder / "backbone"))
        memory = options.memory and round(options.memory * 2**30)
        kernels = Kernels(folder, sources, report, echo, memory, trains=not options.artifacts)
        killed = options.fault == "killed-training"
        names = ["infer", "rerun"] if options.fault and not killed else ["infer"]
        if not options.artifacts:
            for name in ("train", "resumed") if killed else ("train",):
                trained = kernels.run(name, project / "kernel" / "train" / KERNEL_METADATA)
                judge_training(trained, folder / f"{name}.log", report, name, launches)
            if not (trained / "artifact").is_dir():
                names = []  # nothing to predict with
        for name in names:
            working = kernels.run(name, project / KERNEL_METADATA)
            test_csv = folder / "competition" / rules.test
            judge_inference(name, working, test_csv, competition.labels, report, uses_gpus)
            if (working / "submission.csv").is_file():
                shutil.copy(working / "submission.csv", folder)
        if fault := report.worse_than_prior():
            # The synthetic arena is learnable; the user's own rows or artifacts may not be.
            own = options.train or options.test or options.artifacts
            (report.warnings if own else report.reasons).append(fault)
        write_json(folder / "report.json", report.to_dict())
        deliver(folder, options.out)
    return report


def _uses(artifacts: Sequence[Path], config: Config) -> tuple[bool, bool]:
    """Return whether training uses every GPU, and whether inference does."""
    if artifacts:
        ensembles = [Artifact.load(folder).ensemble for folder in artifacts]
        return False, any(leaf.uses_gpu for own in ensembles for leaf in own.leaves())
    return isinstance(config.training, LoopOptions), uses_gpu(config)
