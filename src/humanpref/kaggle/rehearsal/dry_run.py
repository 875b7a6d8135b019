"""The dry run: both kernels as Kaggle would run them, on this machine, without a network.

It stages what would be uploaded, reads what to mount from the metadata that would be pushed, runs
the training kernel and then the inference kernel on its output, each in a box and an environment of
its own, and judges the submission. It rehearses the commit run, the one that is pushed; with a
fault the hidden rerun, too.
"""

import dataclasses
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from humanpref.config import load_config
from humanpref.files import read_json, write_json
from humanpref.kaggle.bundle.checkout import find_project
from humanpref.kaggle.bundle.metadata import (
    DATASET_METADATA,
    KERNEL_METADATA,
    fill_owner,
    read_metadata,
)
from humanpref.kaggle.bundle.stage import artifact_names, stage_dataset
from humanpref.kaggle.contract import COMPETITION, KernelRun
from humanpref.kaggle.rehearsal import sandbox
from humanpref.kaggle.rehearsal.competition import read_competition
from humanpref.kaggle.rehearsal.faults import FAULTS
from humanpref.kaggle.rehearsal.judge import (
    judge_inference,
    judge_log_loss,
    judge_refusal,
    judge_training,
)
from humanpref.kaggle.rehearsal.kernels import OWNER, Kernels
from humanpref.kaggle.rehearsal.report import Report, claim, deliver
from humanpref.runs.artifact import Artifact
from humanpref.schema import LABEL_COLUMNS, InputError


@dataclass(frozen=True)
class DryRun:
    """What to rehearse.

    Attributes
    ----------
    train, test : Path, optional
        CSVs in the competition's schema. Without both: the synthetic arena. Without `test`: a part
        of `train`, grouped by prompt, that is then not trained on. Without `train`: the synthetic
        arena's training rows. The kernels never see labels of test rows; the report's log loss
        does.
    preset, overrides
        As for `humanpref train`. A `model.backbone` that is a folder is mounted as Kaggle would
        mount a model.
    out : Path
        Where submission.csv, report.json and the kernels' logs go. It must be absent, empty, or an
        earlier dry run's.
    layout : str
        `new` or `legacy`: how Kaggle lays out `/kaggle/input`.
    test_rows : int, optional
        Repeat the test's rows, under ids of their own, until there are so many.
    artifacts : tuple of Path
        Rehearse the inference kernel alone, with these; nothing is trained then. Those that only
        name their base find it by `model.backbone` among the overrides.
    fault : str, optional
        One of `FAULTS`, to plant. The verdict is then whether the kernel ends as it should, in the
        commit run and in the hidden rerun.
    memory : float, optional
        GiB that a process of a kernel may hold; one that holds more is killed. Kaggle's machines
        have about 30.
    project : Path, optional
        The checkout; default: see `find_project`.
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
    project: Path | None = None

    def check(self) -> None:
        """Raise InputError for options that cannot be used."""
        if self.fault not in (None, *FAULTS):
            raise InputError(f"--fault {self.fault!r}: expected one of {', '.join(FAULTS)}")
        if self.fault == "no-labels" and self.artifacts:
            raise InputError(
                "--fault no-labels is for the training kernel, which does not run with --artifact"
            )
        if self.memory is not None and not self.memory > 0:
            raise InputError(f"--memory {self.memory}: expected more than 0 GiB")
        if self.test_rows is not None and self.test_rows < 1:
            raise InputError(f"--rows {self.test_rows}: expected at least 1")
        artifact_names(self.artifacts)
        claim(self.out)

    def kernel_run(self) -> tuple[KernelRun, Path | None]:
        """Give the run for run.toml, and the folder of its backbone where it has one.

        Raises
        ------
        InputError
            If the preset or an override is unknown, or the backbone is not a folder.
        """
        run = KernelRun(self.preset, self.overrides)
        if self.fault == "slow":
            run = dataclasses.replace(run, inference_seconds=0)
        config = load_config(self.preset, None, list(self.overrides))
        backbone = getattr(config.model, "backbone", "")
        if backbone in ("", "scratch"):  # a blend without a sentence encoder, or random weights
            return run, None
        folder = Path(backbone)
        if not any((folder / name).is_file() for name in ("config.json", "modules.json")):
            raise InputError(
                "option model.backbone: the kernels have no network, so it has to be a folder with "
                f"a config.json, got {backbone!r} (--set model.backbone=FOLDER)"
            )
        rest = (text for text in self.overrides if text.split("=")[0].strip() != "model.backbone")
        name = folder.resolve().name
        return dataclasses.replace(run, overrides=tuple(rest), backbone=name), folder


def dry_run(options: DryRun, echo: Callable[[str], None] = print) -> Report:
    """Run both kernels as Kaggle would, and judge what comes out.

    Parameters
    ----------
    options : DryRun
        What to rehearse.
    echo : callable
        Gets the kernels' output, line by line, with the kernel's name before it.

    Raises
    ------
    InputError
        For files, options or a folder that cannot be used; nothing is run then.
    """
    options.check()
    project = options.project or find_project()
    run, backbone = options.kernel_run()
    mode = sandbox.detect()
    competition = read_competition(options.train, options.test)
    if options.test_rows is not None:
        competition.repeat_test(options.test_rows)
    if options.fault == "no-labels":
        competition.train = competition.train.drop(columns=list(LABEL_COLUMNS))
    report = Report(
        preset=", ".join(map(str, options.artifacts)) or options.preset,
        overrides=options.overrides,
        data=competition.source,
        mode=mode,
        layout=options.layout,
        out=options.out,
        fault=options.fault,
        train_rows=len(competition.train),
        test_rows=len(competition.test),
    )
    echo(
        f"[dry run] {report.data}: {report.train_rows:,} training rows, {report.test_rows:,} test "
        f"rows; sandbox: {mode}"
    )
    with tempfile.TemporaryDirectory(prefix="humanpref-dry-run-") as temporary:
        folder = Path(temporary)
        competition.write(folder / "competition")
        dataset = stage_dataset(folder / "dataset", project, run, options.artifacts)
        staged = ", ".join(sorted(path.name for path in dataset.iterdir()))
        echo(f"[dry run] staged the dataset: {staged}")
        dataset_id = fill_owner(read_metadata(project / DATASET_METADATA), OWNER)["id"]
        sources = {
            ("competition", COMPETITION): folder / "competition",
            ("dataset", dataset_id): dataset,
        }
        if backbone is not None:
            # A copy, so that a kernel that is not isolated cannot write the user's own.
            model = ("model", f"{OWNER}/{run.backbone}/transformers/default/1")
            sources[model] = Path(shutil.copytree(backbone, folder / "backbone"))
        memory = options.memory and round(options.memory * 2**30)
        kernels = Kernels(folder, sources, report, echo, memory, trains=not options.artifacts)
        facts = [Artifact.load(path).facts for path in options.artifacts]
        if not options.artifacts:
            trained = kernels.run("train", project / "kernel" / "train" / KERNEL_METADATA)
            if options.fault == "no-labels":
                judge_refusal(folder / "train.log", report)
            else:
                judge_training(trained, report)
                facts = [read_json(path) for path in trained.glob("artifact/artifact.json")]
        for name in ("infer", "rerun") if options.fault else ("infer",):
            if facts:
                working = kernels.run(name, project / KERNEL_METADATA)
                judge_inference(name, working, folder / "competition" / "test.csv", report)
                if (working / "submission.csv").is_file():
                    shutil.copy(working / "submission.csv", folder)
        invalid = any(": submission: " in reason for reason in report.reasons)
        if facts and competition.labels is not None and not (options.fault or invalid):
            submission, prior = folder / "submission.csv", facts[0]["prior"]
            problem = judge_log_loss(submission, competition.labels, prior, report)
            if problem and any(fact["family"] != "prior" for fact in facts):
                # On rows of the user's own that may be the truth; what the synthetic arena teaches
                # must be learned.
                own = options.train or options.test or options.artifacts
                (report.warnings if own else report.reasons).append(problem)
        write_json(folder / "report.json", report.to_dict())
        deliver(folder, options.out)
    return report
