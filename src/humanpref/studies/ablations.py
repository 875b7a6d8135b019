"""Ablations of the report that this project started from: where the softmax stands (M6), what the
preprocessing does (M2), and what a system prompt does (M7)."""

import dataclasses
import logging
import math
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd

from humanpref.config import load_config
from humanpref.config.cpu import Preprocessing
from humanpref.config.neural import SYSTEM_PROMPT
from humanpref.data import labels_of, prompt_keys, read_pairs
from humanpref.evaluation.metrics import bootstrap_interval
from humanpref.logloss import row_log_losses
from humanpref.models import load_model
from humanpref.reports.charts import interval_figure
from humanpref.runs.artifact import Artifact
from humanpref.runs.artifact_tables import FOLD, OOF_FILE, read_oof
from humanpref.schema import ID, LABEL_COLUMNS, InputError
from humanpref.studies.compare import Contender, compare, write_table

logger = logging.getLogger(__name__)

SOFTMAX_BOUND = math.log(1 + 2 / math.e)
"""The smallest cross-entropy of a softmax's output, 0.5514: scores in [0, 1] lie at most 1 apart,
so that even (1, 0, 0) gives the right class only e / (e + 2)."""


@dataclasses.dataclass(frozen=True)
class Arm:
    """One row of the report's table."""

    before_loss: str
    at_inference: str
    epochs: int
    leaderboard: float
    """What the report's submission scored."""
    theory: str

    @property
    def name(self) -> str:
        return (
            f"{self.before_loss} / {self.at_inference}, {self.epochs} "
            f"epoch{'s' if self.epochs > 1 else ''}"
        )

    @property
    def trained(self) -> str:
        """The training that this arm shares with those that differ at inference only."""
        return f"{self.before_loss}-{self.epochs}"


ARMS = (
    Arm(
        "none",
        "softmax",
        1,
        1.04219,
        "The plain recipe: cross-entropy on logits, softmax at inference.",
    ),
    Arm(
        "none",
        "softmax",
        3,
        1.07467,
        "Two more passes over the same rows: over-fitting, if it is worse.",
    ),
    Arm(
        "softmax",
        "softmax",
        1,
        1.04398,
        "Scores in [0, 1] go through a second softmax: the training loss cannot fall below ln(1 + "
        f"2/e) = {SOFTMAX_BOUND:.4f}, "
        "and no prediction is bolder than e / (e + 2) = 0.576. A strong damper: harmless where "
        "rows can hardly be told apart.",
    ),
    Arm(
        "log-softmax",
        "softmax",
        1,
        1.07435,
        "The log-softmax of a log-softmax is itself: loss, gradient and predictions are those of "
        "the first arm. A difference "
        "to it is noise, or epochs.",
    ),
    Arm(
        "softmax",
        "none",
        1,
        1.35201,
        "Without the second softmax that training reckoned with: the first one's output was driven "
        "towards 0 and 1 to be seen "
        "through the damper, and is over-confident when it is taken as it is.",
    ),
    Arm(
        "softmax", "none", 3, 1.58984, "The same after more training: closer to 0 and 1, and worse."
    ),
)
PREPROCESSINGS = get_args(Preprocessing)
_SCORES = {"none": "logits", "softmax": "softmax", "log-softmax": "log-softmax"}


def ablate_softmax(
    preset: str, overrides: tuple[str, ...], train_csv: Path, out: Path, folds: int | None
) -> pd.DataFrame:
    """Train the report's recipe with a softmax or a log-softmax before the loss, and predict with
    and without one.

    Parameters
    ----------
    preset, overrides
        The recipe; its scores and epochs are the arms' own.
    train_csv : Path
        Labelled rows.
    out : Path
        A folder for the trained models, `softmax.csv`, `softmax.md` and `softmax.png`. A run that
        was interrupted goes on.
    folds : int, optional
        Grouped folds; without, one held-out fifth.

    Returns
    -------
    DataFrame
        One row per arm: `name`, `log_loss` with its interval, the paired `difference` to the first
        arm with its interval, `train_loss` of the last epoch, the report's `leaderboard` score, and
        what `theory` says.
    """
    if load_config(preset, None, overrides).training.seeds > 1:
        raise InputError(
            "option training.seeds: expected 1 in this ablation, which looks into each single model"
        )
    trained = {arm.trained: arm for arm in ARMS}
    contenders = [
        Contender(
            name,
            preset,
            (
                *overrides,
                f"model.scores={_SCORES[arm.before_loss]}",
                f"training.epochs={arm.epochs}",
            ),
        )
        for name, arm in trained.items()
    ]
    compare(contenders, train_csv, out, folds)
    # What was held out is read from what the training wrote: rows of weight 0, for example, are not
    # there at all.
    fold = Artifact.load(out / ARMS[0].trained).oof.set_index(ID)[FOLD]
    pairs = read_pairs(train_csv, labels=True)
    pairs = pairs[pairs[ID].isin(fold.index)].reset_index(drop=True)
    held = fold.loc[pairs[ID]].to_numpy()
    losses = [
        row_log_losses(labels_of(pairs), _held_out_probabilities(arm, out, pairs, held))
        for arm in ARMS
    ]
    records = []
    for arm, figures in zip(ARMS, _figures(losses, prompt_keys(pairs)), strict=True):
        members = Artifact.load(out / arm.trained).metrics["members"].values()
        records.append(
            {
                "name": arm.name,
                **figures,
                "train_loss": float(
                    np.mean([member["training"]["epochs"][-1]["train_loss"] for member in members])
                ),
                "leaderboard": arm.leaderboard,
                "theory": arm.theory,
            }
        )
    table = pd.DataFrame(records)
    write_table(table, out / "softmax")
    prior = Artifact.load(out / ARMS[0].trained).metrics["prior_log_loss"]
    title = (
        f"Softmax before the loss / at inference, {len(pairs):,} held-out rows of {train_csv.name}"
    )
    interval_figure(table, out / "softmax.png", title, prior)
    return table


def _held_out_probabilities(
    arm: Arm, out: Path, pairs: pd.DataFrame, held: np.ndarray
) -> np.ndarray:
    """(n, 3): what the arm says of each row, from the model that did not see its fold, `held`
    (n,)."""
    probabilities = np.empty((len(pairs), 3))
    for fold, member in enumerate(Artifact.load(out / arm.trained).facts["members"]):
        model = load_model(out / arm.trained / member)
        normalise = {"softmax": "softmax", "none": "clip"}[arm.at_inference]
        model.set_params(inference=dataclasses.replace(model.inference, normalise=normalise))
        probabilities[held == fold] = model.predict_proba(pairs[held == fold])
    return probabilities


def ablate_preprocessing(
    preset: str, overrides: tuple[str, ...], train_csv: Path, out: Path, folds: int | None
) -> pd.DataFrame:
    """Count the words of the texts as they are, after the report's preprocessing, and after the
    report's mistake in it.

    Parameters
    ----------
    preset, overrides
        A recipe of the sparse family; its preprocessing is the arms' own.
    train_csv, out, folds
        As for `ablate_softmax`; the table and the figure are called `preprocessing`.

    Returns
    -------
    DataFrame
        One row per arm: `name`, `log_loss` with its interval, the paired `difference` to no
        preprocessing with its interval, and the mean number of `terms` of the answers that a model
        found often enough to learn from.
    """
    if load_config(preset).family != "sparse":
        raise InputError(
            f"--preset {preset}: expected one of the sparse family, whose words are counted"
        )
    contenders = [
        Contender(arm, preset, (*overrides, f"model.preprocess={arm}")) for arm in PREPROCESSINGS
    ]
    compare(contenders, train_csv, out, folds)
    metrics = [Artifact.load(out / arm).metrics for arm in PREPROCESSINGS]
    terms = [
        float(np.mean([member["terms"] for member in found["members"].values()]))
        for found in metrics
    ]
    table = _differences(contenders, train_csv, out).assign(terms=terms)
    _write(table, out, "preprocessing", "The report's preprocessing before TF-IDF", train_csv)
    return table


def ablate_system_prompt(
    preset: str, overrides: tuple[str, ...], train_csv: Path, out: Path, folds: int | None
) -> pd.DataFrame:
    """Train a decoder without a system prompt, and with one.

    Parameters
    ----------
    preset, overrides
        A recipe of a family that reads a system prompt, decoder or dpo; where it has none, the
        report's idea of one is taken.
    train_csv, out, folds
        As for `ablate_softmax`; the table and the figure are called `system-prompt`.

    Returns
    -------
    DataFrame
        One row per arm, without and with: `name`, `log_loss` with its interval, the paired
        `difference` to the arm without, with its interval, and the `system_prompt`.
    """
    options = load_config(preset, None, overrides).model
    if not hasattr(options, "system_prompt"):
        raise InputError(
            f"--preset {preset}: expected one of family decoder or dpo, which read a system prompt"
        )
    texts = {"without": "", "with": options.system_prompt or SYSTEM_PROMPT}
    contenders = [
        Contender(arm, preset, (*overrides, f"model.system_prompt={text}"))
        for arm, text in texts.items()
    ]
    compare(contenders, train_csv, out, folds)
    table = _differences(contenders, train_csv, out).assign(system_prompt=list(texts.values()))
    _write(
        table, out, "system-prompt", f"A system prompt before the conversation, {preset}", train_csv
    )
    return table


def _differences(contenders: list[Contender], train_csv: Path, out: Path) -> pd.DataFrame:
    """Of each arm that was trained: `name`, and its `_figures` on the rows that all of them were
    held out from."""
    pairs = read_pairs(train_csv, labels=True)
    held = [
        read_oof(out / arm.name / OOF_FILE).set_index(ID)[list(LABEL_COLUMNS)] for arm in contenders
    ]
    rows = pairs[pairs[ID].isin(held[0].index)]
    losses = [row_log_losses(labels_of(rows), oof.loc[rows[ID]].to_numpy()) for oof in held]
    table = pd.DataFrame(_figures(losses, prompt_keys(rows))).assign(rows=len(rows))
    table.insert(0, "name", [arm.name for arm in contenders])
    return table


def _write(table: pd.DataFrame, out: Path, name: str, title: str, train_csv: Path) -> None:
    """The table as CSV and Markdown, and its figure beside the prior's log loss."""
    write_table(table, out / name)
    prior = Artifact.load(out / table["name"][0]).metrics["prior_log_loss"]
    title = f"{title}, {table['rows'][0]:,} held-out rows of {train_csv.name}"
    interval_figure(table, out / f"{name}.png", title, prior)


def _figures(losses: list[np.ndarray], groups: np.ndarray) -> list[dict[str, float]]:
    """Of each arm: its log loss, and the difference to the first arm row by row, with intervals."""
    records = []
    for arm in losses:
        low, high = bootstrap_interval(arm, groups)
        difference_low, difference_high = bootstrap_interval(arm - losses[0], groups)
        records.append(
            {
                "log_loss": float(arm.mean()),
                "log_loss_low": low,
                "log_loss_high": high,
                "difference": float((arm - losses[0]).mean()),
                "difference_low": difference_low,
                "difference_high": difference_high,
            }
        )
    return records
