"""Repeat the experiments of the report that this project started from: a softmax before the loss
(M6), preprocessing of the texts (M2), and a system prompt (M7)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import pandas as pd

from humanpref.config import load_config
from humanpref.config.cpu import Preprocessing
from humanpref.config.neural import SYSTEM_PROMPT
from humanpref.runs.artifact import Artifact
from humanpref.schema import InputError
from humanpref.studies.compare import Variant, compare, write_study

SOFTMAX = pd.read_csv(Path(__file__).with_name("softmax.csv"), keep_default_na=False)
"""The report's runs, each with its scores before the loss, its epochs, its options at inference,
the score of its submission, and the effect that theory predicts. Runs with the same `training`
differ only at inference."""
_SHOWN = (
    *("name", "log_loss", "log_loss_low", "log_loss_high"),
    *("difference", "difference_low", "difference_high", "rows"),
)


def softmax_variants(preset: str, overrides: tuple[str, ...]) -> list[Variant]:
    """Return one variant per run in `SOFTMAX`.

    Raises
    ------
    InputError
        If the preset averages several seeds. The ablation changes options of the trained model,
        which it can do only for a single model.
    """
    if (seeds := load_config(preset, None, overrides).training.seeds) > 1:
        raise InputError(f"option training.seeds: expected 1 in this ablation, got {seeds}")
    return [
        Variant(
            run.name,
            preset,
            (*overrides, f"model.scores={run.scores}", f"training.epochs={run.epochs}"),
            tuple(run.inference.split()),
            run.training,
        )
        for run in SOFTMAX.itertuples()
    ]


def preprocessing_variants(preset: str, overrides: tuple[str, ...]) -> list[Variant]:
    """Return one variant per preprocessing method: none, the one that the report intended, and the
    one that it actually ran (with its bug).

    Raises
    ------
    InputError
        If the preset's family is not `sparse`, the one that counts words.
    """
    family = load_config(preset).family
    if family != "sparse":
        raise InputError(f"--preset {preset}: expected a preset of family sparse, got {family}")
    return [
        Variant(name, preset, (*overrides, f"model.preprocess={name}"))
        for name in get_args(Preprocessing)
    ]


def system_prompt_variants(preset: str, overrides: tuple[str, ...]) -> list[Variant]:
    """Return one variant without a system prompt, and one with the preset's system prompt or, if it
    has none, the report's.

    Raises
    ------
    InputError
        If the preset's family reads no system prompt.
    """
    config = load_config(preset, None, overrides)
    if not hasattr(config.model, "system_prompt"):
        raise InputError(
            f"--preset {preset}: expected a preset of family decoder or dpo, which read a system "
            f"prompt, got {config.family}"
        )
    prompt = config.model.system_prompt or SYSTEM_PROMPT
    return [
        Variant(name, preset, (*overrides, f"model.system_prompt={text}"))
        for name, text in (("without", ""), ("with", prompt))
    ]


def _softmax_columns(variants: list[Variant], out: Path) -> dict[str, Any]:
    losses = _means(variants, out, lambda fold: fold["training"]["epochs"][-1]["train_loss"])
    shown = {column: SOFTMAX[column] for column in ("leaderboard", "theory")}
    return {"train_loss": losses, **shown}


def _preprocessing_columns(variants: list[Variant], out: Path) -> dict[str, Any]:
    return {"terms": _means(variants, out, lambda fold: fold["terms"])}


def _system_prompt_columns(variants: list[Variant], out: Path) -> dict[str, Any]:
    return {"system_prompt": [variant.config().model.system_prompt for variant in variants]}


def _means(
    variants: list[Variant], out: Path, value_of: Callable[[dict[str, Any]], float]
) -> list[float]:
    """Average a value in the metrics of each variant's fold models; return one mean per variant."""
    return [
        float(np.mean([*map(value_of, Artifact.load(out / v.folder).metrics["members"].values())]))
        for v in variants
    ]


class Ablation(NamedTuple):
    """An experiment: the title of its figure, the variants that it trains, and the columns that it
    adds to the table."""

    title: str
    variants: Callable[[str, tuple[str, ...]], list[Variant]]
    columns: Callable[[list[Variant], Path], dict[str, Any]]


ABLATIONS = {
    "softmax": Ablation(
        "Softmax before the loss / at inference", softmax_variants, _softmax_columns
    ),
    "preprocessing": Ablation(
        "The report's preprocessing before TF-IDF", preprocessing_variants, _preprocessing_columns
    ),
    "system-prompt": Ablation(
        "A system prompt before the conversation", system_prompt_variants, _system_prompt_columns
    ),
}


def ablate(
    name: str,
    preset: str,
    overrides: tuple[str, ...],
    train_csv: Path,
    out: Path,
    folds: int | None,
    format: str | None = None,
) -> pd.DataFrame:
    """Train the variants of one experiment on the same rows and folds.

    Parameters
    ----------
    name : str
        One of `ABLATIONS`. `softmax` trains without and with a softmax or log-softmax before the
        loss, and predicts with and without a softmax. `preprocessing` counts the words of the
        unchanged texts, of the texts after the preprocessing that the report intended, and of the
        texts after the one that it actually ran (with its bug). `system-prompt` trains a decoder
        without and with a system prompt.
    preset, overrides
        The model to train. The ablation sets the options that its variants compare.
    train_csv : Path
        Labeled rows.
    out : Path
        A folder as for `compare`; `NAME.csv`, `NAME.md` and `NAME.png` are added to it.
    folds : int, optional
        Number of grouped folds; by default, `training.validation_fraction` of the rows is held out.
    format : str, optional
        The format of the rows. By default, it is detected.

    Returns
    -------
    DataFrame
        One row per variant: `name`, `log_loss` and the paired `difference` to the first variant,
        both with their intervals, and `rows`. `softmax` adds `train_loss` (in the last epoch),
        `leaderboard` (the score of the report's submission) and `theory` (the effect predicted by
        theory); `preprocessing` adds `terms`, the number of different terms that a model uses from
        the answers, averaged over the fold models; `system-prompt` adds the `system_prompt`.

    Raises
    ------
    InputError
        If the preset has no such options, or as for `compare`.
    """
    ablation = ABLATIONS[name]
    variants = ablation.variants(preset, overrides)
    results = compare(variants, train_csv, out, folds, format)
    table = results[[*_SHOWN]].assign(**ablation.columns(variants, out))
    title = f"{ablation.title}, {preset}, {table['rows'][0]:,} held-out rows of {train_csv.name}"
    write_study(table, out / name, title, results["prior_log_loss"][0])
    return table
