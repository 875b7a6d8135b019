"""One run: labelled rows in, an artifact out; artifacts and rows in, probabilities out."""

import logging
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from humanpref.artifact import FACTS_FILE, METRICS_FILE, OOF_FILE, Artifact, facts_of
from humanpref.config import Config
from humanpref.data import digest_of, grouped_folds, held_out, labels_of, prompt_keys, read_pairs, weights_of
from humanpref.evaluation.metrics import summarise
from humanpref.files import folder_whole, read_json, write_json, write_whole
from humanpref.models import build_model
from humanpref.models.selection import SELECTION_FILE
from humanpref.schema import ID, LABEL_COLUMNS, InputError

logger = logging.getLogger(__name__)

RUN_FILE = "run.json"
MEMBER_FILE = "member.json"
CHECKPOINT = ".checkpoint"


def train(config: Config, train_csv: str | Path, out: str | Path, folds: int | None = None) -> Artifact | None:
    """Train on a labelled CSV and write an artifact.

    Without `folds` a grouped share of the rows (`training.validation_fraction`) is held out and reported on, and one model is
    trained on the rest. With `folds` K models are trained, each without its fold; what each says of its fold are the
    out-of-fold predictions. An interrupted run goes on, model by model, when it is started again with the same arguments.

    Parameters
    ----------
    config : Config
        What to train.
    train_csv : path
        Rows with labels, and weights if there are any.
    out : path
        The artifact's folder; it must not exist. It appears when the run has succeeded; until then the models that are done
        wait in `OUT.partial`.
    folds : int, optional
        K, at least 2.

    Returns
    -------
    Artifact, or None in a process that `accelerate launch` started beside the main one: that one alone writes.

    Raises
    ------
    InputError
        For rows or a folder that cannot be used.
    """
    out = Path(out)
    if os.path.lexists(out):
        raise InputError(f"{out}: already exists; name a new folder, or remove it first")
    pairs = read_pairs(train_csv, labels=True)
    run = {"config": config.to_dict(), "data_sha256": digest_of(pairs), "folds": folds}
    if folds is None:
        held = {"model": held_out(pairs, config.training.validation_fraction, config.seed)}
    else:
        assigned = grouped_folds(pairs, folds, config.seed)
        held = {f"fold-{fold}": assigned == fold for fold in range(folds)}
    _check_weights(pairs, held, train_csv)
    main = os.environ.get("RANK", "0") == "0"
    work = _open_partial(out, run) if main else out.with_name(out.name + ".partial")
    try:
        for number, (member, mask) in enumerate(held.items(), start=1):
            if (work / member).is_dir():
                logger.info("%s: done before", work / member)
                continue
            if len(held) > 1:
                logger.info("model %d of %d", number, len(held))
            _fit_member(config, pairs, mask, work / member, main)
    finally:
        # A run that failed before its first model was done leaves nothing behind.
        if main and not any((work / name).exists() for member in held for name in (member, f"{member}{CHECKPOINT}")):
            shutil.rmtree(work)
    if not main:
        return None
    _finish(config, pairs, held, run, work)
    work.rename(out)
    return Artifact.load(out)


def predict(artifacts: list[Artifact], pairs: pd.DataFrame) -> np.ndarray:
    """Mean of the artifacts' probabilities, (n, 3) float64, in the order of the rows; one artifact in memory at a time."""
    total = np.zeros((len(pairs), 3))
    for artifact in artifacts:
        total += Artifact(artifact.folder, artifact.facts).predict_proba(pairs)
    return total / len(artifacts)


def evaluate(artifact: Artifact, data_csv: str | Path) -> dict[str, Any]:
    """The artifact's figures on a labelled CSV; see `humanpref.evaluation.metrics.summarise`."""
    pairs = read_pairs(data_csv, labels=True)
    if digest_of(pairs) == artifact.facts.get("data_sha256"):
        logger.warning(
            "%s holds the rows that this artifact was trained on: these figures flatter it (its held-out ones are in %s)",
            data_csv,
            artifact.folder / METRICS_FILE,
        )
    return summarise(labels_of(pairs), artifact.predict_proba(pairs), np.array(artifact.prior), prompt_keys(pairs))


def selection_path(artifact: Artifact) -> pd.DataFrame:
    """The steps by which each model of the artifact chose its columns (`humanpref.models.selection`); `model` names it.

    Raises
    ------
    InputError
        If its models selected nothing.
    """
    files = {member: artifact.folder / member / SELECTION_FILE for member in artifact.facts["members"]}
    tables = [
        pd.read_csv(file, keep_default_na=False).assign(model=member)
        for member, file in files.items()
        if file.is_file()
    ]
    if not tables:
        raise InputError(
            f"{artifact.folder}: its models selected no columns (option model.selection of family boosted)"
        )
    return pd.concat(tables, ignore_index=True)


def _check_weights(pairs: pd.DataFrame, held: dict[str, np.ndarray], source: str | Path) -> None:
    weights = weights_of(pairs)
    for name, mask in held.items():
        if weights is not None and weights[~mask].sum() == 0:
            raise InputError(f"{source}: column 'weight': every row that {name} would be trained on has weight 0")


def _open_partial(out: Path, run: dict[str, Any]) -> Path:
    """The folder in which a run grows: a new one, or that of the same run, interrupted."""
    work = out.with_name(out.name + ".partial")
    if not work.exists():
        with folder_whole(work) as folder:
            write_json(folder / RUN_FILE, run)
    elif not (work / RUN_FILE).is_file():
        raise InputError(f"{work}: already exists and is not an unfinished run of humanpref; move it away")
    elif read_json(work / RUN_FILE) != run:
        raise InputError(f"{work}: an unfinished run with other settings or rows; remove it, or name another --out")
    else:
        logger.info("%s: going on with an interrupted run", work)
        for unfinished in work.glob(".*"):  # what a killed run was writing
            shutil.rmtree(unfinished)
    return work


def _fit_member(config: Config, pairs: pd.DataFrame, held: np.ndarray, folder: Path, main: bool) -> None:
    """Fit a model without the held-out rows, and write it, what it says of them, and what happened, into `folder`."""
    weights = weights_of(pairs)
    # A weight of 0 is a row that is not there: no vocabulary, no scale may see it.
    learned = ~held if weights is None else ~held & (weights > 0)
    kept, out = pairs[learned].reset_index(drop=True), pairs[held].reset_index(drop=True)
    labels, weights = labels_of(kept), weights_of(kept)
    started = time.perf_counter()
    checkpoint = folder.with_name(folder.name + CHECKPOINT)
    model = build_model(config).fit(kept, labels, weights, (out, labels_of(out)) if len(out) else None, checkpoint)
    seconds = time.perf_counter() - started
    probabilities = model.predict_proba(out) if len(out) else None
    if not main:
        return
    with folder_whole(folder) as unfinished:
        model.save(unfinished)
        if probabilities is not None:
            write_oof(unfinished / OOF_FILE, out, probabilities)
        prior = np.average(labels, axis=0, weights=weights)
        member = {"training_rows": len(kept), "prior": prior.tolist(), "seconds": seconds, **model.report_}
        write_json(unfinished / MEMBER_FILE, member)
    checkpoint.unlink(missing_ok=True)


def _finish(config: Config, pairs: pd.DataFrame, held: dict[str, np.ndarray], run: dict[str, Any], work: Path) -> None:
    """Gather the members' held-out predictions and figures, and write what makes the folder an artifact."""
    members = {name: read_json(work / name / MEMBER_FILE) for name in held}
    seconds = sum(member["seconds"] for member in members.values())
    metrics: dict[str, Any] = {"seconds": seconds, "members": members}
    steps = [member["training"]["seconds_per_step"] for member in members.values() if "training" in member]
    if steps:
        metrics["seconds_per_step"] = float(np.mean(steps))
    predicted = np.any(list(held.values()), axis=0)
    if predicted.any():
        probabilities, prior, fold = (
            np.empty((len(pairs), 3)),
            np.empty((len(pairs), 3)),
            np.empty(len(pairs), dtype=np.int64),
        )
        for number, (name, mask) in enumerate(held.items()):
            probabilities[mask] = read_oof(work / name / OOF_FILE)[list(LABEL_COLUMNS)].to_numpy()
            prior[mask], fold[mask] = members[name]["prior"], number
        rows = pairs[predicted]
        write_oof(work / OOF_FILE, rows, probabilities[predicted], fold[predicted])
        figures = summarise(labels_of(rows), probabilities[predicted], prior[predicted], prompt_keys(rows))
        kind = "validation" if len(held) == 1 else "out of fold"
        if any("kept_epoch" in member.get("training", {}) for member in members.values()):
            kind += " (flattering: the epoch was chosen on these rows)"
        metrics = {"held_out": kind, **figures, **metrics}
    write_json(work / METRICS_FILE, metrics)
    learned = pairs[~np.all(list(held.values()), axis=0)]
    prior_of_all = np.average(labels_of(learned), axis=0, weights=weights_of(learned))
    backbone = next(iter(members.values())).get("backbone")
    write_json(
        work / FACTS_FILE, facts_of(config, list(held), prior_of_all, len(learned), run["data_sha256"], backbone)
    )


def write_oof(path: Path, pairs: pd.DataFrame, probabilities: np.ndarray, fold: np.ndarray | None = None) -> None:
    """Write held-out predictions keyed by id: `id`, `fold` (if given) and the three probabilities."""
    frame = pd.DataFrame(probabilities, columns=list(LABEL_COLUMNS))
    frame.insert(0, ID, pairs[ID].to_numpy())
    if fold is not None:
        frame.insert(1, "fold", fold)
    with write_whole(path) as file:
        frame.to_csv(file, index=False, lineterminator="\n")


def read_oof(path: Path) -> pd.DataFrame:
    """Read what `write_oof` wrote; ids as text."""
    return pd.read_csv(path, dtype={ID: str}, keep_default_na=False)
