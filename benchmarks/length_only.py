"""Out-of-fold log loss of artifacts beside the prior and a length-only logistic regression, on the
same grouped folds.

    python benchmarks/length_only.py --train CSV --folds 5 [--seed 42] [ARTIFACT …]

An ARTIFACT is one that `humanpref train --folds K` made from the same CSV with the same seed: its
`oof.csv` is read, and its folds must be those used here. Each row of the table has a 95 % bootstrap
interval over prompts, and the paired difference to the length-only model with its own interval
(negative: better than length alone).
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from humanpref.data import (
    grouped_folds,
    labels_of,
    positive_weight_mask,
    prompt_keys,
    read_pairs,
    swap_pairs,
)
from humanpref.evaluation.metrics import bootstrap_interval
from humanpref.logloss import row_log_losses
from humanpref.runs.artifact_tables import OOF_FILE, read_oof
from humanpref.schema import LABEL_COLUMNS, SWAPPED_CLASSES, InputError


def length_features(pairs: pd.DataFrame) -> np.ndarray:
    """(n, 8): log characters and log words of prompt, A and B, and the two absolute differences of
    A and B."""
    columns = []
    for count in (len, lambda text: len(text.split())):
        prompt, a, b = (
            np.log1p([count("\n".join(turns)) for turns in pairs[c]])
            for c in ("prompt", "response_a", "response_b")
        )
        columns += [prompt, a, b, np.abs(a - b)]
    return np.stack(columns, axis=1)


class LengthOnly:
    """Multinomial logistic regression on lengths, fitted on both orders of A and B and averaged
    over both."""

    def fit(self, pairs: pd.DataFrame, labels: np.ndarray) -> "LengthOnly":
        both = np.vstack([length_features(pairs), length_features(swap_pairs(pairs))])
        classes = np.concatenate([labels, labels[:, SWAPPED_CLASSES]]).argmax(axis=1)
        self.model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1_000)).fit(
            both, classes
        )
        return self

    def predict_proba(self, pairs: pd.DataFrame) -> np.ndarray:
        swapped = self.model.predict_proba(length_features(swap_pairs(pairs)))
        return (self.model.predict_proba(length_features(pairs)) + swapped[:, SWAPPED_CLASSES]) / 2


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("artifacts", nargs="*", type=Path)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=42)
    options = parser.parse_args()

    pairs = read_pairs(options.train, labels=True)
    pairs = pairs[positive_weight_mask(pairs, options.train)].reset_index(drop=True)
    labels, keys = labels_of(pairs), prompt_keys(pairs)
    folds = grouped_folds(pairs, options.folds, options.seed)
    predictions = {"prior": np.empty_like(labels), "length only": np.empty_like(labels)}
    for fold in range(options.folds):
        kept, out = (
            pairs[folds != fold].reset_index(drop=True),
            pairs[folds == fold].reset_index(drop=True),
        )
        predictions["prior"][folds == fold] = labels_of(kept).mean(axis=0)
        predictions["length only"][folds == fold] = (
            LengthOnly().fit(kept, labels_of(kept)).predict_proba(out)
        )
    for artifact in options.artifacts:
        oof = read_oof(artifact / OOF_FILE)
        if oof["id"].tolist() != pairs["id"].tolist() or (oof["fold"] != folds).any():
            raise InputError(
                f"{artifact}: its rows or folds are not those of {options.train} with seed "
                f"{options.seed}"
            )
        predictions[artifact.name] = oof[list(LABEL_COLUMNS)].to_numpy()

    reference = row_log_losses(labels, predictions["length only"])
    print(f"{len(pairs)} rows, {options.folds} folds, seed {options.seed}")
    print(
        "| model | log loss | 95 % interval | against length only | 95 % interval "
        "|\n|---|---|---|---|---|"
    )
    for name, probabilities in predictions.items():
        losses = row_log_losses(labels, probabilities)
        low, high = bootstrap_interval(losses, keys)
        paired = bootstrap_interval(losses - reference, keys)
        difference = (losses - reference).mean()
        interval, against = f"{low:.4f} to {high:.4f}", f"{paired[0]:+.4f} to {paired[1]:+.4f}"
        print(f"| {name} | {losses.mean():.4f} | {interval} | {difference:+.4f} | {against} |")


if __name__ == "__main__":
    main()
