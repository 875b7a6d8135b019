"""One run: labelled rows in, an artifact out."""

import contextlib
import dataclasses
import fcntl
import hashlib
import logging
import shutil
import time
from collections.abc import Iterator, Sequence
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
from humanpref.schema import LABEL_COLUMNS, WEIGHT, InputError

logger = logging.getLogger(__name__)

RUN_FILE = "run.json"
MEMBER_FILE = "member.json"
CHECKPOINT = ".checkpoint"


def train(
    config: Config,
    train_csv: str | Path,
    out: str | Path,
    folds: int | None = None,
    extra: Sequence[Extra] = (),
    exclude_prompts: Sequence[str | Path] = (),
    teacher: Teacher | None = None,
) -> Artifact | None:
    """Train on a labelled CSV and write an artifact.

    Without `folds` a grouped share of the rows (`training.validation_fraction`) is held out and
    reported on, and one model is trained on the rest. With `folds` K models are trained, each
    without its fold; its predictions for that fold are the out-of-fold predictions. An interrupted
    run goes on, model by model, when it is started again with the same arguments.

    Parameters
    ----------
    config : Config
        What to train.
    train_csv : path
        Rows with labels, and weights if there are any.
    out : path
        The artifact's folder; it must not exist. It appears when the run has succeeded; until then
        the models that are done wait in `OUT.partial`.
    folds : int, optional
        K, at least 2.
    extra, exclude_prompts
        More rows, never held out, and prompts that must not be learned:
        `humanpref.data.read_training_rows`.
    teacher : Teacher, optional
        Whose probabilities are learned in place of the labels, or mixed with them:
        `humanpref.runs.distillation.taught`. What is held out is judged by its labels.

    Returns
    -------
    Artifact, or None in a process that `accelerate launch` started beside the main one: that one
    alone writes.

    Raises
    ------
    InputError
        For rows or a folder that cannot be used, one in which another process trains, for example.
    """
    out = Path(out)
    check_new(out)
    rows = read_training_rows(train_csv, extra, exclude_prompts)
    rows = rows if teacher is None else taught(rows, teacher)
    run = run_of(config, rows.pairs, folds)
    if len(rows.extra):
        run["extra_sha256"] = digest_of(rows.extra)
    if teacher is not None:
        run["targets_sha256"] = hashlib.sha256(rows.targets.tobytes()).hexdigest()
    rows = rows.only(positive_weight_mask(rows.pairs, train_csv))
    pairs = rows.pairs
    if folds is None:
        held = {"model": held_out(pairs, config.training.validation_fraction, config.seed)}
    else:
        assigned = grouped_folds(pairs, folds, config.seed)
        held = {f"fold-{fold}": assigned == fold for fold in range(folds)}
    _warn_of_absent_classes(rows, train_csv)
    members = _members(held, config)
    main = is_main_process()
    work = partial_of(out)
    with _open_partial(work, run) if main else contextlib.nullcontext():
        try:
            for number, (member, (name, seeded)) in enumerate(members.items(), start=1):
                if (work / member).is_dir():
                    logger.info("%s: done before", work / member)
                    continue
                if len(members) > 1:
                    logger.info("model %d of %d", number, len(members))
                _fit_member(seeded, rows, held[name], work / member, main)
        finally:
            # A run that failed before its first model was done leaves nothing behind.
            begun = (
                work / name for member in members for name in (member, f"{member}{CHECKPOINT}")
            )
            if main and not any(path.exists() for path in begun):
                shutil.rmtree(work)
        if not main:
            return None
        _finish(config, rows, held, run, work)
        try:
            work.rename(out)
        except OSError as error:
            raise InputError(
                f"{out}: cannot take its place; the finished run is {work} ({error.strerror})"
            ) from None
    return Artifact.load(out)


def notices(metrics: dict[str, Any]) -> list[str]:
    """What makes a finished run less than its options ask for, one line each: trainings that were
    stopped, and members that a blend lacks."""
    lines = []
    for name, member in metrics["members"].items():
        if stopped := member.get("training", {}).get("stopped"):
            lines.append(f"{name}: training stopped {stopped}")
        lines += [
            f"{name}: blended without {left_out}, which needs a model folder "
            "(model.backbone=FOLDER)"
            for left_out in member.get("blend", {}).get("left_out", [])
        ]
    return lines


def run_of(config: Config, pairs: pd.DataFrame, folds: int | None) -> dict[str, Any]:
    """What makes two runs on a training file alone the same; it stands in `RUN_FILE`."""
    return {"config": config.to_dict(), "data_sha256": digest_of(pairs), "folds": folds}


def partial_of(out: Path) -> Path:
    """Where an artifact grows until it is whole."""
    return out.with_name(out.name + ".partial")


def _members(held: dict[str, np.ndarray], config: Config) -> dict[str, tuple[str, Config]]:
    """The models to train: by folder, the split that each leaves out and its configuration, which
    differs in the seed only."""
    if config.training.seeds == 1:
        return {name: (name, config) for name in held}
    return {
        f"{name}-seed-{config.seed + i}": (name, dataclasses.replace(config, seed=config.seed + i))
        for name in held
        for i in range(config.training.seeds)
    }


def selection_path(artifact: Artifact) -> pd.DataFrame:
    """The steps by which each model of the artifact chose its columns
    (`humanpref.models.selection`); `model` names it.

    Raises
    ------
    InputError
        If its models selected nothing.
    """
    files = {
        member: artifact.folder / member / SELECTION_FILE for member in artifact.facts["members"]
    }
    tables = [
        pd.read_csv(file, keep_default_na=False).assign(model=member)
        for member, file in files.items()
        if file.is_file()
    ]
    if not tables:
        raise InputError(
            f"{artifact.folder}: its models selected no columns (option model.selection of family "
            "boosted)"
        )
    return pd.concat(tables, ignore_index=True)


def _warn_of_absent_classes(rows: TrainingRows, source: str | Path) -> None:
    own, more, _ = rows.kept(np.zeros(len(rows.pairs), dtype=bool))
    _, targets = rows.gathered(own, more)
    for name in np.array(LABEL_COLUMNS)[targets.sum(axis=0) == 0]:
        logger.warning(
            "%s: no row to learn from has anything in column %r; are the labels right?",
            source,
            str(name),
        )


@contextlib.contextmanager
def _open_partial(work: Path, run: dict[str, Any]) -> Iterator[None]:
    """The folder in which a run grows, a new one or that of the same run, interrupted; for one
    process at a time."""
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
            f"{work}: an unfinished run with other settings or rows; remove it, or name another "
            "--out"
        )
    with open(work / RUN_FILE) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{work}: another process is training here; name another --out"
            ) from None
        except OSError:
            logger.info(
                "%s: no lock can be had here; no second process may train in this folder", work
            )
        if before:
            logger.info("%s: going on with an interrupted run", work)
            for unfinished in work.glob(".*"):  # what a killed run was writing
                remove(unfinished)
        yield


def _fit_member(
    config: Config, rows: TrainingRows, held: np.ndarray, folder: Path, main: bool
) -> None:
    """Fit a model without the held-out rows, and write it, its predictions for them and a record of
    the fit into `folder`."""
    own, more, shared = rows.kept(held)
    if shared:
        text = "%s: %d of %d extra rows share a prompt with a held-out row and are left out"
        logger.info(text, folder.name, shared, len(rows.extra))
    kept, targets = rows.gathered(own, more)
    weights = weights_of(kept)
    out = rows.pairs[held].reset_index(drop=True)
    started = time.perf_counter()
    checkpoint = folder.with_name(folder.name + CHECKPOINT)
    model = build_model(config).fit(
        kept, targets, weights, (out, labels_of(out)) if len(out) else None, checkpoint
    )
    seconds = time.perf_counter() - started
    probabilities = model.predict_proba(out) if len(out) else None
    if not main:
        return
    with folder_whole(folder) as unfinished:
        model.save(unfinished)
        if probabilities is not None:
            write_oof(unfinished / OOF_FILE, out, probabilities)
        # Of the training file alone: the score to beat must not depend on what is added to it.
        ours = rows.pairs[own]
        prior = np.average(labels_of(ours), axis=0, weights=weights_of(ours))
        member = {
            "training_rows": len(kept),
            "prior": prior.tolist(),
            "seconds": seconds,
            **model.report_,
        }
        if len(rows.extra):
            member |= {"extra_rows": int(more.sum()), "extra_rows_sharing_a_prompt": shared}
        write_json(unfinished / MEMBER_FILE, member)
    remove(checkpoint)


def _finish(
    config: Config, rows: TrainingRows, held: dict[str, np.ndarray], run: dict[str, Any], work: Path
) -> None:
    """Gather the members' held-out predictions and metrics, and write what makes the folder an
    artifact."""
    pairs = rows.pairs
    names = {member: name for member, (name, _) in _members(held, config).items()}
    members = {member: read_json(work / member / MEMBER_FILE) for member in names}
    seconds = sum(member["seconds"] for member in members.values())
    metrics: dict[str, Any] = {"seconds": seconds, "data": rows.facts, "members": members}
    steps = [
        member["training"]["seconds_per_step"]
        for member in members.values()
        if "training" in member
    ]
    if steps:
        metrics["seconds_per_step"] = float(np.mean(steps))
    predicted = np.any(list(held.values()), axis=0)
    if predicted.any():
        probabilities, prior = np.zeros((len(pairs), 3)), np.empty((len(pairs), 3))
        fold = np.empty(len(pairs), dtype=np.int64)
        folds = list(held)
        for member, name in names.items():
            mask = held[name]
            of_member = read_oof(work / member / OOF_FILE)[list(LABEL_COLUMNS)].to_numpy()
            probabilities[mask] += of_member / config.training.seeds
            prior[mask], fold[mask] = members[member]["prior"], folds.index(name)
        judged = pairs[predicted]
        write_oof(work / OOF_FILE, judged, probabilities[predicted], fold[predicted])
        scores = summarise(
            labels_of(judged), probabilities[predicted], prior[predicted], prompt_keys(judged)
        )
        kind = "validation" if len(held) == 1 else "out of fold"
        if any("kept_epoch" in member.get("training", {}) for member in members.values()):
            kind += " (flattering: the epoch was chosen on these rows)"
        metrics = {"held_out": kind, **scores, **metrics}
    # A frozen backbone is the same in every fold's model.
    share_equal_files([work / member for member in members])
    write_json(work / METRICS_FILE, metrics)
    learned = pairs[~np.all(list(held.values()), axis=0)]
    prior_of_all = np.average(labels_of(learned), axis=0, weights=weights_of(learned))
    backbone = next(iter(members.values())).get("backbone")
    seen = pairs
    if len(rows.extra):  # which always have weights
        ours = pairs if WEIGHT in pairs else pairs.assign(**{WEIGHT: 1.0})
        seen = pd.concat([ours, rows.extra], ignore_index=True)
    write_rows(work / ROWS_FILE, seen)
    learned_rows = len(learned) + int(
        np.any([rows.kept(mask)[1] for mask in held.values()], axis=0).sum()
    )
    write_json(
        work / FACTS_FILE,
        facts_of(config, list(members), prior_of_all, learned_rows, run["data_sha256"], backbone),
    )
