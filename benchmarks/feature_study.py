"""Feature models beside the prior and a length-only regression: cross-validated several times, and
on another distribution.

    python benchmarks/feature_study.py --train CSV --out DIR [--models P …] [--set P:KEY=VALUE …]
    [--repeats 5] [--folds 5]
                                       [--transfer CSV] [--against DIR]

Repeat r trains every model on the grouped folds of seed r. A row's out-of-fold losses are averaged
over the repeats, and then bootstrapped over prompts: the table gives the log loss, its 95 %
interval, the paired difference to the length-only model with its interval, and each repeat's own
log loss. Whatever a model chooses (penalties, trees, weights of a blend) it chooses on inner folds
of the rows that it is given. `--transfer CSV` also trains each model on all rows and scores it
there, beside the class rates of the training rows. A model is a preset, or `NAME=PRESET` to run one
under another name with settings of its own.

`--against DIR` adds the paired differences to the models of the same names in another study's
folder, for example that of an earlier commit.

Artifacts stay in DIR: interrupted, it goes on. All runs share one process, so that a frozen encoder
embeds a text once.
"""

import argparse
import logging
import time
from pathlib import Path

import numpy as np
import pandas as pd
from length_only import LengthOnly

from humanpref.config import load_config
from humanpref.data import grouped_folds, labels_of, positive_weight_mask, prompt_keys, read_pairs
from humanpref.evaluation.metrics import bootstrap_interval
from humanpref.logloss import row_log_losses
from humanpref.reports.table_text import markdown
from humanpref.runs.artifact import Artifact
from humanpref.runs.artifact_tables import FOLD, OOF_FILE, read_oof
from humanpref.runs.train import train
from humanpref.schema import ID, LABEL_COLUMNS, InputError
from humanpref.studies.compare import write_table

WITHOUT_PROGRAM = ("prior", "length only")


def out_of_fold_baselines(pairs: pd.DataFrame, folds: np.ndarray) -> dict[str, np.ndarray]:
    """Probabilities (n, 3) of the class rates and of the length-only model, each row's from the
    other folds."""
    labels = labels_of(pairs)
    told = {name: np.empty_like(labels) for name in WITHOUT_PROGRAM}
    for held in (folds == fold for fold in np.unique(folds)):
        kept, out = pairs[~held].reset_index(drop=True), pairs[held].reset_index(drop=True)
        told["prior"][held] = labels[~held].mean(axis=0)
        told["length only"][held] = LengthOnly().fit(kept, labels[~held]).predict_proba(out)
    return told


def artifact_of(
    preset: str, overrides: list[str], csv: Path, folder: Path, folds: int | None
) -> tuple[Artifact, float]:
    """The artifact in that folder, trained now if it is not there, and the seconds that this
    took."""
    started = time.perf_counter()
    if not folder.is_dir():
        train(load_config(preset, overrides=overrides), csv, folder, folds)
    return Artifact.load(folder), time.perf_counter() - started


def summary(losses: dict[str, np.ndarray], keys: np.ndarray) -> pd.DataFrame:
    """One line per model from its rows' losses (repeats, n), against the length-only model."""
    reference = losses["length only"].mean(axis=0)
    records = []
    for name, own in losses.items():
        mean = own.mean(axis=0)
        low, high = bootstrap_interval(mean, keys)
        difference_low, difference_high = bootstrap_interval(mean - reference, keys)
        records.append(
            {
                "name": name,
                "log_loss": mean.mean(),
                "log_loss_low": low,
                "log_loss_high": high,
                "difference": (mean - reference).mean(),
                "difference_low": difference_low,
                "difference_high": difference_high,
                "each": " ".join(f"{loss:.4f}" for loss in own.mean(axis=1)),
            }
        )
    return pd.DataFrame(records)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--models", nargs="*", default=["sparse", "boosted", "embedding", "cpu-best"]
    )
    parser.add_argument("--set", action="append", default=[], metavar="MODEL:KEY=VALUE")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--transfer", type=Path)
    parser.add_argument("--against", type=Path)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    presets = {text.partition("=")[0]: text.partition("=")[2] or text for text in options.models}
    settings: dict[str, list[str]] = {name: [] for name in presets}
    for text in options.set:
        name, _, setting = text.partition(":")
        if name not in settings:
            raise InputError(
                f"--set {text}: expected one of {', '.join(settings)} before the colon"
            )
        settings[name].append(setting)
    options.out.mkdir(parents=True, exist_ok=True)

    pairs = read_pairs(options.train, labels=True)
    pairs = pairs[positive_weight_mask(pairs, options.train)].reset_index(drop=True)
    labels, keys = labels_of(pairs), prompt_keys(pairs)
    losses: dict[str, list[np.ndarray]] = {name: [] for name in (*WITHOUT_PROGRAM, *presets)}
    for seed in range(1, options.repeats + 1):
        folds = None if presets else grouped_folds(pairs, options.folds, seed)
        for name, preset in presets.items():
            overrides = [*settings[name], f"seed={seed}"]
            folder = options.out / f"{name}-{seed}"
            artifact, seconds = artifact_of(preset, overrides, options.train, folder, options.folds)
            oof = artifact.oof.set_index(ID).loc[pairs[ID]]
            folds = oof[FOLD].to_numpy()  # as the training made them
            losses[name].append(row_log_losses(labels, oof[list(LABEL_COLUMNS)].to_numpy()))
            print(f"{folder.name}: {losses[name][-1].mean():.4f}, {seconds:.0f} s", flush=True)
        for name, told in out_of_fold_baselines(pairs, folds).items():
            losses[name].append(row_log_losses(labels, told))
    table = summary({name: np.stack(own) for name, own in losses.items()}, keys)
    write_table(table, options.out / "repeated")
    print(
        f"{len(pairs)} rows, {options.folds} folds, {options.repeats} repeats\n{markdown(table)}",
        end="",
    )

    for name in presets if options.against else ():
        earlier = [
            read_oof(options.against / f"{name}-{seed}" / OOF_FILE).set_index(ID).loc[pairs[ID]]
            for seed in range(1, options.repeats + 1)
        ]
        before = [row_log_losses(labels, oof[list(LABEL_COLUMNS)].to_numpy()) for oof in earlier]
        difference = np.mean(losses[name], axis=0) - np.mean(before, axis=0)
        low, high = bootstrap_interval(difference, keys)
        print(
            f"{name}: {np.mean(losses[name]):.4f}, in {options.against} {np.mean(before):.4f}, "
            f"paired difference {difference.mean():+.4f} [{low:+.4f}, {high:+.4f}]"
        )

    if options.transfer:
        other = read_pairs(options.transfer, labels=True)
        answers, groups = labels_of(other), prompt_keys(other)
        told = {"prior": np.tile(labels.mean(axis=0), (len(other), 1))}
        told["length only"] = LengthOnly().fit(pairs, labels).predict_proba(other)
        for name, preset in presets.items():
            overrides = [*settings[name], "training.validation_fraction=0"]
            artifact, _ = artifact_of(
                preset, overrides, options.train, options.out / f"{name}-all", None
            )
            told[name] = artifact.predict_proba(other)
        table = summary(
            {name: row_log_losses(answers, own)[None] for name, own in told.items()}, groups
        )
        write_table(table.drop(columns="each"), options.out / "transfer")
        print(
            f"{options.transfer.name}: {len(other)} rows\n{markdown(table.drop(columns='each'))}",
            end="",
        )


if __name__ == "__main__":
    main()
