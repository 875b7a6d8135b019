"""The results of a training run: the files that turn its models into an artifact, and the facts to
report about a finished artifact."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from humanpref.config import Config
from humanpref.data import TrainingRows, labels_of, prompt_keys, weights_of
from humanpref.evaluation.metrics import summarise
from humanpref.files import read_json, share_equal_files, write_json
from humanpref.models.selection import SELECTION_FILE
from humanpref.runs.artifact import CHAIN, METRICS_FILE, TRAINED, Artifact
from humanpref.runs.artifact_facts import facts_of
from humanpref.runs.artifact_files import seal
from humanpref.runs.artifact_tables import OOF_FILE, ROWS_FILE, read_oof, write_oof, write_rows
from humanpref.schema import LABEL_COLUMNS, InputError

MEMBER_FILE = "member.json"
"""The record of one model's fit, in its folder."""


class FoldModel(NamedTuple):
    """A model to train.

    Attributes
    ----------
    name : str
        The name of the model's folder.
    fold : int
        The index of its fold.
    held : ndarray
        A mask (n,) of the rows that are held out.
    config : Config
        The configuration. A run's models differ only in the seed.
    start : Path, optional
        The folder of an earlier run's model from whose weights this one starts
        (`humanpref.runs.stages`).
    """

    name: str
    fold: int
    held: np.ndarray
    config: Config
    start: Path | None = None


def write_results(
    models: list[FoldModel],
    rows: TrainingRows,
    data_sha256: str,
    work: Path,
    chain: Sequence[dict[str, Any]] = (),
    earlier: pd.DataFrame | None = None,
    planned: int | None = None,
) -> None:
    """Gather the models' held-out predictions and records, and write the files that make the folder
    an artifact. `chain` describes the earlier stages (`humanpref.runs.stages`), and `earlier` has
    their rows. `planned` is the number of models that the run was to train; by default, the number
    of `models`."""
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
        seeds = Counter(model.fold for model in models)
        for model in models:
            oof = read_oof(work / model.name / OOF_FILE)[list(LABEL_COLUMNS)].to_numpy()
            probabilities[model.held] += oof / seeds[model.fold]
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
    write_rows(work / ROWS_FILE, rows.gathered(*everything)[0], earlier)
    learned = pairs[~np.all([model.held for model in models], axis=0)]
    learned_extra = np.any([rows.kept(model.held)[1] for model in models], axis=0)
    facts = facts_of(
        config,
        list(records),
        class_rates(learned),
        len(learned) + int(learned_extra.sum()),
        data_sha256,
        records[models[0].name].get("backbone"),
    )
    if earlier is not None:
        facts[CHAIN] = list(chain)
    if planned is not None and planned > len(models):
        facts[TRAINED] = [len(models), planned]
    seal(work, facts)


def class_rates(pairs: pd.DataFrame) -> np.ndarray:
    """Return the weighted mean of the rows' labels, (3,)."""
    return np.average(labels_of(pairs), axis=0, weights=weights_of(pairs))


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


def selection_path(artifact: Artifact) -> pd.DataFrame:
    """Return the steps in which each model of the artifact selected its columns
    (`humanpref.models.selection`); column `model` names the model.

    Raises
    ------
    InputError
        If its models did not select columns.
    """
    tables = [
        pd.read_csv(file, keep_default_na=False).assign(model=member.name)
        for member in artifact.members
        if (file := member / SELECTION_FILE).is_file()
    ]
    if not tables:
        raise InputError(
            f"{artifact.folder}: its models selected no columns; train family boosted with option "
            "model.selection"
        )
    return pd.concat(tables, ignore_index=True)
