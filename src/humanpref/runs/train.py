"""A training run: labeled rows in, an artifact out."""

import contextlib
import dataclasses
import hashlib
import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from humanpref.config import Config
from humanpref.data import (
    Extra,
    TrainingRows,
    digest_of,
    grouped_folds,
    held_out,
    labels_of,
    positive_weight_mask,
    read_training_rows,
    weights_of,
)
from humanpref.data.tables import source_name
from humanpref.files import (
    check_new,
    folder_whole,
    is_main_process,
    locked,
    read_json,
    remove,
    write_json,
)
from humanpref.models import build_model
from humanpref.models.bases import public_config
from humanpref.runs.artifact import Artifact
from humanpref.runs.artifact_files import CHECKPOINT, FACTS_FILE, RUN_FILE, partial_of
from humanpref.runs.artifact_tables import OOF_FILE, write_oof
from humanpref.runs.distillation import Teacher, taught
from humanpref.runs.results import MEMBER_FILE, FoldModel, class_rates, write_results
from humanpref.runs.stages import Earlier, Stage
from humanpref.schema import LABEL_COLUMNS, InputError
from humanpref.text.token_memo import TokenMemos

logger = logging.getLogger(__name__)


def train(
    config: Config,
    train_csv: Any,
    out: str | Path,
    folds: int | None = None,
    extra: Sequence[Extra] = (),
    exclude_prompts: Sequence[Any] = (),
    teachers: Sequence[Teacher] = (),
    earlier: Earlier | None = None,
    format: str | None = None,
) -> Artifact | None:
    """Train on labeled rows and write an artifact.

    By default, a grouped share of the rows (`training.validation_fraction`) is held out for the
    reported metrics, and one model is trained on the rest. With `folds`, K models are trained, each
    without its own fold. Their predictions for these folds are the out-of-fold predictions. An
    interrupted run resumes with the next unfinished model when it is started again with the same
    arguments.

    Parameters
    ----------
    config : Config
        What to train.
    train_csv : path or object
        Rows with labels, and weights if there are any: a file, a frame or any other source that
        `humanpref.data.read_pairs` reads.
    out : path
        The artifact's folder, which must not exist. It is created once the run has succeeded; until
        then, finished models are kept in `OUT.partial`.
    folds : int, optional
        K, at least 2.
    extra, exclude_prompts
        Additional rows, which are never held out, and prompts to exclude from training; see
        `humanpref.data.read_training_rows`.
    teachers : sequence of Teacher
        Sources of probabilities that replace the labels as targets, or are mixed with them
        (`humanpref.runs.distillation.taught`). Held-out rows are still judged by their labels.
    earlier : Earlier, optional
        Run from whose weights the models start (`humanpref.runs.stages`); the optimizer and the
        learning-rate schedule are new. By default, they start from the options' backbone.
    format : str, optional
        The format of `train_csv`, one of `humanpref.schema.FORMATS`. By default, it is detected.

    Returns
    -------
    Artifact or None
        None in all processes that `accelerate launch` started except the main one, since only that
        process writes.

    Raises
    ------
    InputError
        If the rows or the folder cannot be used, for example because another process is training in
        that folder; or if the earlier run's options do not fit `config`, or one of its models has
        learned a prompt that the model continuing from it would hold out.

    Examples
    --------
    >>> import pandas as pd
    >>> from humanpref.config import load_config
    >>> train(load_config("prior"), pd.read_csv("train.csv"), "prior").folder.name
    'prior'
    """
    check_new(out)
    more = extra, exclude_prompts, teachers, earlier, format
    run = Run.plan(config, train_csv, out, folds, *more)
    main = is_main_process()
    with run.opened() if main else contextlib.nullcontext():
        for model in run.unfinished():
            run.train_model(model)
        return run.finish() if main else None


@dataclass(frozen=True, eq=False)
class Run:
    """A training run: the rows, and the models to train on them.

    One process opens the run, trains its models (or has other processes train some of them), and
    finishes the run:

        run = Run.plan(config, train_csv, out, folds)
        with run.opened():
            for model in run.unfinished():
                run.train_model(model)
            artifact = run.finish()

    Attributes
    ----------
    config : Config
        What to train.
    source : str
        The training file, or "these rows" for an object.
    out : Path
        The artifact's folder. Until the run is finished, its models are in `partial_of(out)`.
    rows : TrainingRows
        The rows with a weight above 0.
    models : list of FoldModel
        One for each fold and seed.
    identity : dict
        The values that identify the run, saved in `RUN_FILE`.
    stage : Stage, optional
        The earlier run from whose weights the models start.
    format : str, optional
        The format of the training file, if it is not detected.
    """

    config: Config
    source: str
    out: Path
    rows: TrainingRows
    models: list[FoldModel]
    identity: dict[str, Any]
    stage: Stage | None = None
    format: str | None = None

    @classmethod
    def plan(
        cls,
        config: Config,
        train_csv: Any,
        out: str | Path,
        folds: int | None = None,
        extra: Sequence[Extra] = (),
        exclude_prompts: Sequence[Any] = (),
        teachers: Sequence[Teacher] = (),
        earlier: Earlier | None = None,
        format: str | None = None,
    ) -> "Run":
        """Read the rows and choose the models; nothing is written. The parameters are those of
        `train`.

        Raises
        ------
        InputError
            If the rows or the earlier run cannot be used.
        """
        stage = None if earlier is None else Stage.open(earlier, config)
        classes = config.training.classes
        rows = read_training_rows(train_csv, extra, exclude_prompts, format, classes)
        if not rows.ties:
            two_classes = dataclasses.replace(config.training, classes=2)
            config = dataclasses.replace(config, training=two_classes)
        rows = rows if stage is None else stage.allowed(rows)
        rows = taught(rows, teachers) if teachers else rows
        identity = {
            "config": public_config(config.to_dict()),
            # Unlike `config`, the digest covers complete paths.
            "config_sha256": hashlib.sha256(repr(config).encode()).hexdigest(),
            "data_sha256": digest_of(rows.pairs),
            "folds": folds,
        }
        if len(rows.extra):
            identity["extra_sha256"] = digest_of(rows.extra)
        if teachers:
            identity["targets_sha256"] = hashlib.sha256(rows.targets.tobytes()).hexdigest()
        rows = rows.only(positive_weight_mask(rows.pairs, source_name(train_csv)))
        models = _fold_models(rows.pairs, config, folds)
        if stage is not None:
            identity["start_sha256"] = stage.weights_sha256
            models = stage.started(models, rows.pairs)
        source = source_name(train_csv)
        return cls(config, source, Path(out), rows, models, identity, stage, format)

    @property
    def work(self) -> Path:
        """The folder in which the run is built."""
        return partial_of(self.out)

    @cached_property
    def token_memos(self) -> TokenMemos:
        """Token ids of the rows' texts, shared by all models and processes of the run."""
        return TokenMemos(self.out.with_name(f".{self.out.name}.tokens"))

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Reserve the run's folder for this process while the block runs. The folder is new, or was
        left by the same run when it was interrupted.

        Raises
        ------
        InputError
            If the folder cannot be used, for example because another process is training in it.
        """
        check_new(self.out)
        self._warn_of_absent_classes()
        with _open_partial(self.work, self.identity):
            try:
                yield
            finally:
                self.token_memos.remove()
                # A run that failed before finishing its first model leaves nothing behind.
                if self.work.is_dir() and [path.name for path in self.work.iterdir()] == [RUN_FILE]:
                    shutil.rmtree(self.work)

    def unfinished(self) -> list[FoldModel]:
        """Return the models that are still to be trained."""
        left = [model for model in self.models if not (self.work / model.name).is_dir()]
        for model in self.models:
            if model not in left:
                logger.info("%s: already done, skipped", self.work / model.name)
        return left

    def train_model(self, model: FoldModel) -> None:
        """Train a model without its held-out rows, and write the model, its predictions for those
        rows, and a record of the fit to its folder.

        Of the processes that `accelerate launch` started, all train but only the main one writes.
        """
        if len(self.models) > 1:
            number = [other.name for other in self.models].index(model.name) + 1
            logger.info("model %d of %d", number, len(self.models))
        rows, folder = self.rows, self.work / model.name
        learned, extra, shared = rows.kept(model.held)
        if shared:
            text = "%s: %d of %d extra rows share a prompt with a held-out row and are left out"
            logger.info(text, model.name, shared, len(rows.extra))
        kept, targets = rows.gathered(learned, extra)
        held = rows.pairs[model.held].reset_index(drop=True)
        validation = (held, labels_of(held)) if len(held) else None
        started = time.perf_counter()
        checkpoint = folder.with_name(folder.name + CHECKPOINT)
        unfitted = build_model(model.config)
        unfitted.share_token_ids(self.token_memos)
        unfitted.start = model.start
        fitted = unfitted.fit(kept, targets, weights_of(kept), validation, checkpoint)
        seconds = time.perf_counter() - started
        probabilities = fitted.held_out_
        if probabilities is None and len(held):
            probabilities = fitted.predict_proba(held)
        if not is_main_process():
            return
        record = {
            "training_rows": len(kept),
            # The prior sets the log loss to beat, which must not depend on extra rows.
            "prior": class_rates(rows.pairs[learned]).tolist(),
            "seconds": seconds,
            **fitted.report_,
        }
        if len(rows.extra):
            record |= {"extra_rows": int(extra.sum()), "extra_rows_sharing_a_prompt": shared}
        with folder_whole(folder) as unfinished:
            fitted.save(unfinished)
            if probabilities is not None:
                write_oof(unfinished / OOF_FILE, held, probabilities, model.fold)
            write_json(unfinished / MEMBER_FILE, record)
        remove(checkpoint)

    def gather(self) -> Artifact | None:
        """Make the run's folder an artifact of the models that are trained so far, and return it,
        or None if no model is trained yet. The run can still be resumed."""
        trained = [model for model in self.models if (self.work / model.name).is_dir()]
        if not trained:
            return None
        chain, earlier = ((), None) if self.stage is None else (self.stage.chain, self.stage.rows)
        data_sha256, planned = self.identity["data_sha256"], len(self.models)
        write_results(trained, self.rows, data_sha256, self.work, chain, earlier, planned)
        return Artifact.load(self.work)

    def finish(self) -> Artifact:
        """Gather the models' held-out predictions and records into an artifact, and return it.
        Raises InputError if its folder cannot be created; the finished run is kept."""
        self.gather()
        try:
            self.work.rename(self.out)
        except OSError as error:
            raise InputError(
                f"{self.out}: cannot be created; the finished run is in {self.work} "
                f"({error.strerror})"
            ) from None
        return Artifact.load(self.out)

    def _warn_of_absent_classes(self) -> None:
        learned, extra, _ = self.rows.kept(np.zeros(len(self.rows.pairs), dtype=bool))
        _, targets = self.rows.gathered(learned, extra)
        for name, total in zip(LABEL_COLUMNS, targets.sum(axis=0), strict=True):
            of_ties = name == LABEL_COLUMNS[2]
            if total == 0 and (self.rows.ties or not of_ties):
                text = (
                    "%s: no training row has a value above 0 in column %r; are the labels correct?"
                )
                hint = " (without ties, set training.classes=2)" if of_ties else ""
                logger.warning(text + hint, self.source, name)


def _fold_models(pairs: pd.DataFrame, config: Config, folds: int | None) -> list[FoldModel]:
    """Return the models to train: one for each fold and seed."""
    if folds is None:
        held = {"model": held_out(pairs, config.training.validation_fraction, config.seed)}
    else:
        assigned = grouped_folds(pairs, folds, config.seed)
        held = {f"fold-{fold}": assigned == fold for fold in range(folds)}
    seeds = range(config.seed, config.seed + config.training.seeds)
    return [
        FoldModel(
            f"{name}-seed-{seed}" if len(seeds) > 1 else name,
            fold,
            rows,
            dataclasses.replace(config, seed=seed),
        )
        for fold, (name, rows) in enumerate(held.items())
        for seed in seeds
    ]


@contextlib.contextmanager
def _open_partial(work: Path, run: dict[str, Any]) -> Iterator[None]:
    """Open the folder in which a run is built, for one process at a time. The folder is new, or was
    left by the same run when it was interrupted."""
    before = work.exists()
    if not before:
        try:
            with folder_whole(work) as folder:
                write_json(folder / RUN_FILE, run)
        except InputError:
            # If another process created it first, the lock decides which of the two trains.
            before = work.exists()
            if not before:
                raise
    if before and not (work / RUN_FILE).is_file():
        raise InputError(
            f"{work}: already exists and is not an unfinished run of humanpref; move it away"
        )
    if before and read_json(work / RUN_FILE) != run:
        raise InputError(
            f"{work}: an unfinished run with other settings or rows; remove it, or choose a "
            "different --out"
        )
    with contextlib.ExitStack() as held:
        try:
            alone = held.enter_context(locked(work / RUN_FILE))
        except BlockingIOError:
            raise InputError(
                f"{work}: another process is training here; choose a different --out"
            ) from None
        if not alone:
            logger.info("%s: cannot be locked; do not start a second process in this folder", work)
        if before:
            logger.info("%s: resuming an interrupted run", work)
            # This file lists only the models that were trained before the interruption.
            (work / FACTS_FILE).unlink(missing_ok=True)
            for unfinished in work.glob(".*"):  # files that a killed run was writing
                remove(unfinished)
        yield
