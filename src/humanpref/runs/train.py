"""A training run: labeled rows in, an artifact out."""

import contextlib
import dataclasses
import fcntl
import hashlib
import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

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
    prompt_keys,
    read_training_rows,
    weights_of,
)
from humanpref.evaluation.metrics import summarise
from humanpref.files import (
    check_new,
    folder_whole,
    is_main_process,
    read_json,
    remove,
    share_equal_files,
    write_json,
)
from humanpref.models import build_model
from humanpref.models.selection import SELECTION_FILE
from humanpref.runs.artifact import FACTS_FILE, METRICS_FILE, Artifact, facts_of
from humanpref.runs.artifact_tables import OOF_FILE, ROWS_FILE, read_oof, write_oof, write_rows
from humanpref.runs.distillation import Teacher, taught
from humanpref.schema import LABEL_COLUMNS, InputError

logger = logging.getLogger(__name__)

RUN_FILE = "run.json"
MEMBER_FILE = "member.json"
CHECKPOINT = ".checkpoint"


class FoldModel(NamedTuple):
    """A model to train: the name of its folder, the index of its fold, a mask (n,) of the rows that
    it leaves out, and its configuration, which differs from the others only in the seed."""

    name: str
    fold: int
    held: np.ndarray
    config: Config


def train(
    config: Config,
    train_csv: str | Path,
    out: str | Path,
    folds: int | None = None,
    extra: Sequence[Extra] = (),
    exclude_prompts: Sequence[str | Path] = (),
    teacher: Teacher | None = None,
) -> Artifact | None:
    """Train on a labeled CSV and write an artifact.

    By default, a grouped share of the rows (`training.validation_fraction`) is held out for the
    reported metrics, and one model is trained on the rest. With `folds`, K models are trained, each
    without its own fold; its predictions for that fold are the out-of-fold predictions. An
    interrupted run resumes with the next unfinished model when it is started again with the same
    arguments.

    Parameters
    ----------
    config : Config
        What to train.
    train_csv : path
        Rows with labels, and weights if there are any.
    out : path
        The artifact's folder, which must not exist. It is created once the run has succeeded; until
        then, finished models are kept in `OUT.partial`.
    folds : int, optional
        K, at least 2.
    extra, exclude_prompts
        Additional rows, which are never held out, and prompts to exclude from training; see
        `humanpref.data.read_training_rows`.
    teacher : Teacher, optional
        Source of probabilities that replace the labels as targets, or are mixed with them
        (`humanpref.runs.distillation.taught`). Held-out rows are still judged by their labels.

    Returns
    -------
    Artifact or None
        None in all processes that `accelerate launch` started except the main one, since only that
        process writes.

    Raises
    ------
    InputError
        If the rows or the folder cannot be used, for example because another process is training in
        that folder.
    """
    out, main = Path(out), is_main_process()
    check_new(out)
    rows = read_training_rows(train_csv, extra, exclude_prompts)
    rows = rows if teacher is None else taught(rows, teacher)
    run = run_of(config, rows.pairs, folds)
    if len(rows.extra):
        run["extra_sha256"] = digest_of(rows.extra)
    if teacher is not None:
        run["targets_sha256"] = hashlib.sha256(rows.targets.tobytes()).hexdigest()
    rows = rows.only(positive_weight_mask(rows.pairs, train_csv))
    models = _fold_models(rows.pairs, config, folds)
    _warn_of_absent_classes(rows, train_csv)
    work = partial_of(out)
    with _open_partial(work, run) if main else contextlib.nullcontext():
        try:
            for number, model in enumerate(models, start=1):
                if (work / model.name).is_dir():
                    logger.info("%s: already done, skipped", work / model.name)
                    continue
                if len(models) > 1:
                    logger.info("model %d of %d", number, len(models))
                _train_one(model, rows, work / model.name, main)
        finally:
            # A run that failed before finishing its first model leaves nothing behind.
            if main and [path.name for path in work.iterdir()] == [RUN_FILE]:
                shutil.rmtree(work)
        if not main:
            return None
        _write_results(models, rows, run["data_sha256"], work)
        try:
            work.rename(out)
        except OSError as error:
            raise InputError(
                f"{out}: cannot be created; the finished run is in {work} ({error.strerror})"
            ) from None
    return Artifact.load(out)


def notices(metrics: dict[str, Any]) -> list[str]:
    """Return one line for each way in which a finished run falls short of its options: training
    that was stopped early, or a member that is missing from a blend."""
    lines = []
    for name, record in metrics["members"].items():
        if stopped := record.get("training", {}).get("stopped"):
            lines.append(f"{name}: training stopped {stopped}")
        for left_out in record.get("blend", {}).get("left_out", []):
            needs = "which needs a model folder (model.backbone=FOLDER)"
            lines.append(f"{name}: blended without {left_out}, {needs}")
    return lines


def run_of(config: Config, pairs: pd.DataFrame, folds: int | None) -> dict[str, Any]:
    """Return the values that identify a run on only a training file; they are saved in
    `RUN_FILE`."""
    return {"config": config.to_dict(), "data_sha256": digest_of(pairs), "folds": folds}


def partial_of(out: Path) -> Path:
    """Return the folder in which an artifact is built until it is complete."""
    return out.with_name(out.name + ".partial")


def selection_path(artifact: Artifact) -> pd.DataFrame:
    """Return the steps in which each model of the artifact selected its columns
    (`humanpref.models.selection`); column `model` names the model.

    Raises
    ------
    InputError
        If its models did not select columns.
    """
    tables = [
        pd.read_csv(file, keep_default_na=False).assign(model=member)
        for member in artifact.facts["members"]
        if (file := artifact.folder / member / SELECTION_FILE).is_file()
    ]
    if not tables:
        raise InputError(
            f"{artifact.folder}: its models selected no columns (option model.selection of family "
            "boosted)"
        )
    return pd.concat(tables, ignore_index=True)


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


def _warn_of_absent_classes(rows: TrainingRows, source: str | Path) -> None:
    learned, extra, _ = rows.kept(np.zeros(len(rows.pairs), dtype=bool))
    _, targets = rows.gathered(learned, extra)
    for name in np.array(LABEL_COLUMNS)[targets.sum(axis=0) == 0]:
        logger.warning(
            "%s: no training row has a value above 0 in column %r; are the labels correct?",
            source,
            str(name),
        )


@contextlib.contextmanager
def _open_partial(work: Path, run: dict[str, Any]) -> Iterator[None]:
    """Open the folder in which a run is built, for one process at a time: a new folder, or that of
    the same run if it was interrupted."""
    before = work.exists()
    if not before:
        with folder_whole(work) as folder:
            write_json(folder / RUN_FILE, run)
    elif not (work / RUN_FILE).is_file():
        raise InputError(
            f"{work}: already exists and is not an unfinished run of humanpref; move it away"
        )
    elif read_json(work / RUN_FILE) != run:
        raise InputError(
            f"{work}: an unfinished run with other settings or rows; remove it, or choose a "
            "different --out"
        )
    with open(work / RUN_FILE) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{work}: another process is training here; choose a different --out"
            ) from None
        except OSError:
            logger.info("%s: cannot be locked; do not start a second process in this folder", work)
        if before:
            logger.info("%s: resuming an interrupted run", work)
            for unfinished in work.glob(".*"):  # files that a killed run was writing
                remove(unfinished)
        yield


def _train_one(model: FoldModel, rows: TrainingRows, folder: Path, main: bool) -> None:
    """Train a model without its held-out rows, and write the model, its predictions for those rows,
    and a record of the fit to `folder`."""
    learned, extra, shared = rows.kept(model.held)
    if shared:
        text = "%s: %d of %d extra rows share a prompt with a held-out row and are left out"
        logger.info(text, model.name, shared, len(rows.extra))
    kept, targets = rows.gathered(learned, extra)
    held = rows.pairs[model.held].reset_index(drop=True)
    validation = (held, labels_of(held)) if len(held) else None
    started = time.perf_counter()
    checkpoint = folder.with_name(folder.name + CHECKPOINT)
    fitted = build_model(model.config).fit(kept, targets, weights_of(kept), validation, checkpoint)
    seconds = time.perf_counter() - started
    probabilities = fitted.predict_proba(held) if len(held) else None
    if not main:
        return
    record = {
        "training_rows": len(kept),
        # Only the training file counts: the score to beat must not depend on extra rows.
        "prior": _class_rates(rows.pairs[learned]).tolist(),
        "seconds": seconds,
        **fitted.report_,
    }
    if len(rows.extra):
        record |= {"extra_rows": int(extra.sum()), "extra_rows_sharing_a_prompt": shared}
    with folder_whole(folder) as unfinished:
        fitted.save(unfinished)
        if probabilities is not None:
            write_oof(unfinished / OOF_FILE, held, probabilities)
        write_json(unfinished / MEMBER_FILE, record)
    remove(checkpoint)


def _write_results(
    models: list[FoldModel], rows: TrainingRows, data_sha256: str, work: Path
) -> None:
    """Gather the models' held-out predictions and records, and write the files that make the folder
    an artifact."""
    pairs, config = rows.pairs, models[0].config
    records = {model.name: read_json(work / model.name / MEMBER_FILE) for model in models}
    trainings = [record["training"] for record in records.values() if "training" in record]
    metrics: dict[str, Any] = {
        "seconds": sum(record["seconds"] for record in records.values()),
        "data": rows.facts,
        "members": records,
    }
    if trainings:
        metrics["seconds_per_step"] = float(np.mean([t["seconds_per_step"] for t in trainings]))
    held = np.any([model.held for model in models], axis=0)
    if held.any():
        probabilities, prior = np.zeros((len(pairs), 3)), np.empty((len(pairs), 3))
        fold = np.empty(len(pairs), dtype=np.int64)
        for model in models:
            oof = read_oof(work / model.name / OOF_FILE)[list(LABEL_COLUMNS)].to_numpy()
            probabilities[model.held] += oof / config.training.seeds
            prior[model.held], fold[model.held] = records[model.name]["prior"], model.fold
        judged = pairs[held]
        write_oof(work / OOF_FILE, judged, probabilities[held], fold[held])
        scores = summarise(labels_of(judged), probabilities[held], prior[held], prompt_keys(judged))
        kind = "out of fold" if models[-1].fold else "validation"
        if any("kept_epoch" in training for training in trainings):
            kind += " (flattering: the epoch was chosen on these rows)"
        metrics = {"held_out": kind, **scores, **metrics}
    # A frozen backbone is identical in every fold's model.
    share_equal_files([work / name for name in records])
    write_json(work / METRICS_FILE, metrics)
    everything = (np.ones(len(table), dtype=bool) for table in (pairs, rows.extra))
    write_rows(work / ROWS_FILE, rows.gathered(*everything)[0])
    learned = pairs[~np.all([model.held for model in models], axis=0)]
    learned_extra = np.any([rows.kept(model.held)[1] for model in models], axis=0)
    facts = facts_of(
        config,
        list(records),
        _class_rates(learned),
        len(learned) + int(learned_extra.sum()),
        data_sha256,
        records[models[0].name].get("backbone"),
    )
    write_json(work / FACTS_FILE, facts | {"rows": len(pairs) + len(rows.extra)})


def _class_rates(pairs: pd.DataFrame) -> np.ndarray:
    return np.average(labels_of(pairs), axis=0, weights=weights_of(pairs))
