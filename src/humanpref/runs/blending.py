"""Blend artifacts that were trained on the same rows into one artifact, using their out-of-fold
predictions."""

import dataclasses
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from humanpref.config import Config, from_dict
from humanpref.config.cpu import BlendOptions
from humanpref.data import grouped_folds, labels_of, weights_of
from humanpref.evaluation.metrics import mean_and_interval, summarise
from humanpref.files import check_new, folder_whole, write_csv, write_json
from humanpref.logloss import log_loss, row_log_losses
from humanpref.models.blend import describe_member, write_blend
from humanpref.models.blend_correction import HeldOutRows, describe_correction
from humanpref.models.blend_weights import equal_blend, fit_blend
from humanpref.runs.artifact import METRICS_FILE, Artifact, check_same_classes
from humanpref.runs.artifact_facts import facts_of
from humanpref.runs.artifact_files import seal
from humanpref.runs.artifact_tables import (
    ANSWER_KEY,
    CASE,
    OOF_FILE,
    PROMPT_KEY,
    ROWS_FILE,
    write_oof,
)
from humanpref.schema import ID, LABEL_COLUMNS, InputError, counted

logger = logging.getLogger(__name__)

CROSS_FITS = 5
"""Number of grouped folds used to cross-fit the blend's reported metrics."""
MODEL = "model"


def blend(folders: Sequence[Path], out: str | Path, mean: str = "arithmetic") -> Artifact:
    """Fit weights and a correction on out-of-fold predictions, and write the blend with copies of
    its members as an artifact.

    The blend's own oof.csv and metrics are cross-fitted: for each grouped fold, everything
    (members, weights, temperature, corrections for empty or identical answers) is fitted and chosen
    on the other folds. The blend is compared with a single member in two ways:

    - on each fold, with the member that is best on the other folds. If members are nearly equal,
      that member is often not the best on this fold, which slightly favors the blend;
    - with the member that is best on all rows, which favors that member.

    Both comparisons still have one leak: the models that predicted the other folds were trained on
    this one. To avoid it, train a preset of family `blend` with folds.

    Parameters
    ----------
    folders : sequence of Path
        At least two artifacts trained on the same rows. Their folds may differ; only rows that all
        of them held out are used.
    out : path
        The new artifact's folder, which must not exist yet.
    mean : str
        `arithmetic` or `geometric`.

    Raises
    ------
    InputError
        If the artifacts cannot be blended, or if the folder already exists.
    """
    out, started = Path(out), time.perf_counter()
    check_new(out)
    artifacts = [Artifact.load(folder) for folder in folders]
    _check_rows(artifacts)
    rows, predictions, most = _held_out(artifacts)
    labels, ties = labels_of(rows), artifacts[0].classes == 3
    keys = rows[PROMPT_KEY].to_numpy(object)
    config = _config(artifacts[0].classes, mean)
    options: BlendOptions = config.model
    splits = min(CROSS_FITS, len(set(keys)))
    if splits < 2:
        raise InputError(
            "blend: expected held-out rows with at least two different prompts, got one prompt; "
            "the weights are fitted on some prompts and evaluated on others"
        )
    # The prompts' keys replace the prompts, since they give the same groups and need no texts.
    folds = grouped_folds(rows.assign(prompt=[(key,) for key in keys]), splits, config.seed)
    held_out = HeldOutRows(labels, weights_of(rows), rows[CASE].to_numpy(object))
    cross_fitted, priors, rivals = np.empty(labels.shape), [], []
    for fold in range(splits):
        judged = folds == fold
        known, told = held_out.part(~judged), predictions[:, ~judged]
        nested, _, _ = fit_blend(told, known, options, ties)
        cross_fitted[judged] = nested(predictions[:, judged], held_out.cases[judged])
        priors.append(np.average(known.labels, axis=0, weights=known.weights))
        rivals.append(np.argmin([log_loss(known.labels, each, known.weights) for each in told]))
    final, dropped, cases = fit_blend(predictions, held_out, options, ties)
    losses = [row_log_losses(labels, each) for each in predictions]
    members = [
        {
            "member": artifact.folder.resolve().name,
            "preset": artifact.facts["preset"] or artifact.facts["family"],
            "backbone": artifact.facts["backbone"],
            "weight": float(final.weights[number]),
            **mean_and_interval("log_loss", losses[number], keys),
            **({"dropped": dropped[number]} if number in dropped else {}),
        }
        for number, artifact in enumerate(artifacts)
    ]
    names = [member["member"] for member in members]
    best = int(np.argmin([member["log_loss"] for member in members]))
    rival_losses = np.array(losses)[np.array(rivals)[folds], np.arange(len(rows))]
    to_rival, to_best = (
        mean_and_interval("difference", row_log_losses(labels, cross_fitted) - other, keys)
        for other in (rival_losses, losses[best])
    )
    kept = [number for number in range(len(artifacts)) if number not in dropped]
    learned = max(artifact.facts["training_rows"] for artifact in artifacts)
    prior, data_sha256 = artifacts[0].prior, artifacts[0].facts["data_sha256"]
    metrics = {
        "held_out": "out of fold, the blend cross-fitted",
        **summarise(labels, cross_fitted, np.array(priors)[folds], keys),
        "blend": {
            **final.facts(),
            "corrections": cases,
            "members": members,
            "rows_left_out": most - len(rows),
            "log_loss_on_the_rows_of_the_fit": log_loss(labels, final(predictions, held_out.cases)),
            "nested": {"best_members": [names[number] for number in rivals], **to_rival},
            "best": {"member": names[best], **to_best},
        },
        "seconds": time.perf_counter() - started,
        "members": {MODEL: {"training_rows": learned, "prior": list(prior)}},
    }
    facts = facts_of(config, [MODEL], prior, learned, data_sha256, None)
    runs = [versions for number in kept for versions in artifacts[number].versions]
    facts["member_versions"] = [run for number, run in enumerate(runs) if run not in runs[:number]]
    trained = pd.concat([artifact.rows for artifact in artifacts])
    trained = trained.drop_duplicates([ID, PROMPT_KEY, ANSWER_KEY])
    with folder_whole(out) as folder:
        blend_of_kept = dataclasses.replace(final, weights=final.weights[kept])
        writers = [_writer(artifacts[number]) for number in kept]
        write_blend(folder / MODEL, config, blend_of_kept, writers)
        write_oof(folder / OOF_FILE, rows, cross_fitted, folds)
        write_csv(folder / ROWS_FILE, trained)
        write_json(folder / METRICS_FILE, metrics)
        seal(folder, facts)
    return Artifact.load(out)


def render(metrics: dict[str, Any]) -> str:
    """Return a blend's metrics as lines to print."""
    blended = metrics["blend"]
    nested, best = blended["nested"], blended["best"]
    counts = Counter(nested["best_members"])
    chosen = ", ".join(f"{member} in {folds}" for member, folds in counts.most_common())
    left_out = blended["rows_left_out"]
    lines = [
        *map(describe_member, blended["members"]),
        f"{blended['mean']} mean, temperature {blended['temperature']:.3f}",
        *map(describe_correction, blended["corrections"]),
        *(
            [
                f"degraded: {counted(left_out, 'held-out row')} left out (not held out by every "
                "artifact)"
            ]
            if left_out
            else []
        ),
        f"{metrics['held_out']}: {counted(metrics['rows'], 'row')}, log loss "
        f"{metrics['log_loss']:.4f} [{metrics['log_loss_low']:.4f}, "
        f"{metrics['log_loss_high']:.4f}], the prior's {metrics['prior_log_loss']:.4f}",
        f"nested difference from the best member, chosen on the other folds ({chosen} of "
        f"{counts.total()}): {_difference(nested)} (below 0: the blend is better)",
        f"difference from {best['member']}, the best member on these rows: {_difference(best)}",
        f"on the rows of the fit (flattering): {blended['log_loss_on_the_rows_of_the_fit']:.4f}",
    ]
    return "\n".join(lines) + "\n"


def _difference(found: dict[str, Any]) -> str:
    low, high = found["difference_low"], found["difference_high"]
    return f"{found['difference']:+.4f} [{low:+.4f}, {high:+.4f}]"


def _config(classes: int, mean: str = "arithmetic") -> Config:
    sections = {"model": {"mean": mean}, "training": {"classes": classes}}
    return from_dict({"family": "blend", **sections}, "blend")


def _check_rows(artifacts: list[Artifact]) -> None:
    """Raise InputError unless these are two or more artifacts of the same training rows."""
    if len(artifacts) < 2:
        raise InputError("blend: expected at least two artifacts")
    for number, artifact in enumerate(artifacts):
        if artifact.facts["data_sha256"] != artifacts[0].facts["data_sha256"]:
            raise InputError(
                f"{artifact.folder}: trained on different rows than {artifacts[0].folder}, or on "
                "the same rows in a different order; all artifacts in a blend need the same rows"
            )
        if any(artifact.folder.resolve() == other.folder.resolve() for other in artifacts[:number]):
            raise InputError(f"{artifact.folder}: named twice")
    check_same_classes(artifacts)


def _held_out(artifacts: list[Artifact]) -> tuple[pd.DataFrame, np.ndarray, int]:
    """Return the n rows that every artifact held out, the m artifacts' probabilities for them,
    (m, n, 3), and the largest number of rows that any one artifact held out."""
    tables = [artifact.oof.set_index(ID)[list(LABEL_COLUMNS)] for artifact in artifacts]
    rows = artifacts[0].rows
    common = np.all([rows[ID].isin(table.index) for table in tables], axis=0)
    rows = rows[common].reset_index(drop=True)
    if rows.empty:
        names = ", ".join(str(artifact.folder) for artifact in artifacts)
        raise InputError(f"blend: no row was held out by all of {names}")
    most = max(map(len, tables))
    if len(rows) < most:
        logger.warning(
            "blend: only the %s that every artifact held out can be used; one artifact held out %d",
            counted(len(rows), "row"),
            most,
        )
    return rows, np.stack([table.loc[rows[ID]].to_numpy() for table in tables]), most


def _writer(artifact: Artifact) -> Callable[[Path], Any]:
    """Return a function that writes the artifact's model to a folder. If the artifact has one
    model, the function writes a copy of it; otherwise, it writes a blend that is the plain mean of
    copies of the fold models."""
    copies = [partial(artifact.copy, member=member) for member in artifact.facts["members"]]
    if len(copies) == 1:
        return copies[0]
    plain = equal_blend("arithmetic", len(copies), artifact.classes == 3)
    return lambda folder: write_blend(folder, _config(artifact.classes), plain, copies)
