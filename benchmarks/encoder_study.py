"""Which inputs, heads and losses make the better encoder: screened on one half of the rows, judged
on the other.

    python benchmarks/encoder_study.py screen --train CSV --backbone FOLDER --out DIR
    python benchmarks/encoder_study.py judge  --train CSV --backbone FOLDER --out DIR
    python benchmarks/encoder_study.py curve  --train CSV --backbone FOLDER --out DIR

`screen` trains the variants of SCREENING, each one step away from `base`, on one grouped split of
the first half of the rows. `judge` cross-validates the report's recipe and the finalists on the
other half, which took no part in choosing them, and says how many rows it would take to tell them
apart. `curve` trains the winner and the report's recipe on growing numbers of rows and scores them
on the same held-out fifth. Every stage writes `DIR/STAGE.md` and `DIR/STAGE.csv`, and goes on where
it was interrupted. `--variants a,b` runs only those (a share for each of several processes); the
table needs all that are named.
"""

import argparse
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from humanpref.data import grouped_folds, labels_of, prompt_keys, read_pairs
from humanpref.evaluation.metrics import bootstrap_interval
from humanpref.logloss import row_log_losses
from humanpref.reports.table_text import markdown
from humanpref.runs.artifact import Artifact
from humanpref.runs.artifact_tables import OOF_FILE, read_oof
from humanpref.schema import ID, LABEL_COLUMNS
from humanpref.studies.compare import Variant, compare, write_table

SPLIT_SEED = 7
PRESET = "deberta-v3-small"
SHORT = ("model.max_length=128",)
SCREENING_ROWS = ("training.validation_fraction=0.3333",)
# A head that starts at chance is still mostly chance after a few dozen steps, and one at 1e-3 runs
# away.
BASE = (
    "model.zero_start=true",
    "training.head_learning_rate=2e-4",
    "training.warmup=0.1",
    "training.max_grad_norm=1.0",
)
SCREENING: dict[str, tuple[str, ...]] = {
    "report": (),
    "base": BASE,
    "offset": (*BASE, "model.offset=structure"),
    "davidson": (*BASE, "model.head=davidson"),
    "joint": (*BASE, "model.inputs=joint"),
    "interaction": (*BASE, "model.head=interaction"),
    "dpo-like": (*BASE, "training.loss=dpo-like"),
    "attention": (*BASE, "model.head=attention"),
    "smoothing": (*BASE, "training.label_smoothing=0.1"),
    "rao-kupper": (*BASE, "model.head=rao-kupper"),
    "swap": (*BASE, "training.swap_augmentation=true", "inference.swap_average=true"),
    "lr-5e-5": (*BASE, "training.learning_rate=5e-5"),
}
FINALISTS: dict[str, tuple[str, ...]] = {
    "joint-offset": (*BASE, "model.inputs=joint", "model.offset=structure", "model.max_length=256"),
    "dual-offset": (*BASE, "model.offset=structure", "model.max_length=256"),
}
STRUCTURE = Variant("structure", "sparse", ("model.max_terms=0",))
"""What the offset says by itself: the encoder's share is the difference to it."""
ALL_ROWS = "training.validation_fraction=0"
CURVE_SEED = 42
"""Of the held-out fifth: the one that `humanpref train` holds out by default."""


def halves(pairs: pd.DataFrame) -> np.ndarray:
    """(n,) bool: the rows to screen on; the others are for judging. No prompt is on both sides."""
    return grouped_folds(pairs, 2, SPLIT_SEED) == 0


def subset(train: Path, rows: np.ndarray, path: Path) -> Path:
    """The CSV's lines of those rows, in a file of its own."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        pd.read_csv(train, dtype=str, keep_default_na=False)[rows].to_csv(path, index=False)
    return path


def losses_of(folder: Path, pairs: pd.DataFrame) -> pd.Series:
    """Held-out log loss of each row by its id."""
    oof = read_oof(folder / OOF_FILE).set_index(ID)
    kept = pairs[pairs[ID].isin(oof.index)]
    return pd.Series(
        row_log_losses(labels_of(kept), oof.loc[kept[ID], list(LABEL_COLUMNS)].to_numpy()),
        index=kept[ID],
    )


def paired(table: pd.DataFrame, out: Path, pairs: pd.DataFrame, reference: str) -> pd.DataFrame:
    """The table with the paired difference of each row's log loss to the reference, and the rows
    that would show it."""
    keys = pd.Series(prompt_keys(pairs), index=pairs[ID])
    base = losses_of(out / reference, pairs)
    columns: dict[str, list[float]] = {
        "difference": [],
        "difference_low": [],
        "difference_high": [],
        "rows_needed": [],
    }
    for name in table["name"]:
        difference = (losses_of(out / name, pairs) - base).to_numpy()
        low, high = bootstrap_interval(difference, keys[base.index].to_numpy())
        mean = float(difference.mean())
        # Held-out rows at which a 95 % interval of this width, shrinking with the root of the rows,
        # ends at zero.
        needed = len(difference) * ((high - low) / 2 / abs(mean)) ** 2 if mean else float("nan")
        for column, value in zip(columns, (mean, low, high, needed), strict=True):
            columns[column].append(value)
    return table.assign(**columns)[
        [
            "name",
            "rows",
            "log_loss",
            "log_loss_low",
            "log_loss_high",
            "accuracy",
            *columns,
            "seconds",
        ]
    ]


def variants(
    changes: dict[str, tuple[str, ...]], backbone: Path, names: str | None, *common: str
) -> list[Variant]:
    chosen = names.split(",") if names else list(changes)
    return [
        Variant(name, PRESET, (f"model.backbone={backbone}", *common, *changes[name]))
        for name in chosen
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=("screen", "judge", "curve"))
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--backbone", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--variants")
    parser.add_argument("--folds", type=int, default=3, help="of `judge` (default 3)")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    pairs = read_pairs(options.train, labels=True)
    screening = halves(pairs)
    if options.stage == "screen":
        rows = subset(options.train, screening, options.out / "screening.csv")
        out = options.out / "screen"
        runs = variants(SCREENING, options.backbone, options.variants, *SHORT, *SCREENING_ROWS)
        table = paired(compare(runs, rows, out, None), out, pairs, runs[0].name)
    elif options.stage == "judge":
        rows = subset(options.train, ~screening, options.out / "judging.csv")
        out = options.out / "judge"
        runs = variants({"report": (), **FINALISTS}, options.backbone, options.variants)
        if not options.variants:
            runs.append(STRUCTURE)
        table = paired(compare(runs, rows, out, options.folds), out, pairs, runs[0].name)
    else:
        table = curve(pairs, options)
    write_table(table, options.out / options.stage)
    print(markdown(table), end="")


def curve(pairs: pd.DataFrame, options: argparse.Namespace) -> pd.DataFrame:
    """Each variant trained on a quarter, a half and all of the rows but a fifth, and scored on that
    fifth."""
    fold = grouped_folds(pairs, 5, CURVE_SEED)
    held, learning = fold == 0, np.flatnonzero(fold != 0)
    test, keys = pairs[held].reset_index(drop=True), prompt_keys(pairs[held])
    order = np.random.default_rng(SPLIT_SEED).permutation(learning)
    records = []
    for share in (0.25, 0.5, 1.0):
        rows = np.zeros(len(pairs), dtype=bool)
        rows[order[: round(share * len(order))]] = True
        csv = subset(options.train, rows, options.out / f"curve-{share:g}.csv")
        changes = {"report": (), **dict(list(FINALISTS.items())[:1])}
        runs = variants(changes, options.backbone, options.variants, ALL_ROWS)
        runs.append(replace(STRUCTURE, overrides=(*STRUCTURE.overrides, ALL_ROWS)))
        for run in runs:
            folder = options.out / "curve" / f"{run.name}-{share:g}"
            if not folder.is_dir():
                train(run, csv, folder)
            artifact = Artifact.load(folder)
            losses = row_log_losses(labels_of(test), artifact.predict_proba(test))
            low, high = bootstrap_interval(losses, keys)
            record = {
                "name": run.name,
                "pool": round(share * len(pairs)),
                "training_rows": int(rows.sum()),
            }
            records.append(
                {
                    **record,
                    "log_loss": float(losses.mean()),
                    "log_loss_low": low,
                    "log_loss_high": high,
                }
            )
    return pd.DataFrame(records)


def train(run: Variant, csv: Path, folder: Path) -> None:
    from humanpref.runs.train import train as train_artifact

    folder.parent.mkdir(parents=True, exist_ok=True)
    train_artifact(run.config(), csv, folder)


if __name__ == "__main__":
    main()
