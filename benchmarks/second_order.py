"""Which rows should get the second order of A and B, if there is time for only some of them?

    python benchmarks/second_order.py [--rows 5000] [--train 3000] [--share 0.5] [--seed 42]

Trains the preset `tiny` with joint inputs on synthetic rows of which a third of those that B won
name A as the winner, so that the model prefers the first position. Each policy then ranks the test
rows by their first order's probabilities and costs, and the rows it ranks first get the mean of
both orders, until a share of the time (in tokens) for all second orders is used. Compared are the
mean squared distance to the probabilities with both orders everywhere, and the log loss with its
paired difference to random choice (95 % bootstrap interval over prompts).
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from humanpref.arena import write_arena
from humanpref.config import load_config
from humanpref.data import labels_of, prompt_keys, read_pairs, swap_pairs
from humanpref.evaluation.metrics import bootstrap_interval
from humanpref.logloss import row_log_losses
from humanpref.models import build_model
from humanpref.runs.schedule import most_sensitive_first
from humanpref.schema import SWAPPED_CLASSES

RANDOM_DRAWS = 20
PRESET = ("model.inputs=joint", "training.epochs=2", "training.swap_augmentation=false")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=5_000)
    parser.add_argument("--train", type=int, default=3_000)
    parser.add_argument("--share", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=42)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)

    with tempfile.TemporaryDirectory() as folder:
        write_arena(Path(folder), options.rows + options.train, options.seed)
        rows = read_pairs(Path(folder, "train.csv"))
    train = rows.iloc[: options.train].reset_index(drop=True)
    test = rows.iloc[options.train :][: options.rows].reset_index(drop=True)
    labels = labels_of(train)
    flipped = (labels[:, 1] == 1) & (rng.random(len(labels)) < 1 / 3)
    labels[flipped] = labels[flipped][:, SWAPPED_CLASSES]

    model = build_model(load_config("tiny", None, PRESET)).fit(train, labels)
    model = model.set_params(inference=replace(model.inference, swap_average=False))
    first = model.predict_proba(test)
    second = model.predict_proba(swap_pairs(test))[:, SWAPPED_CLASSES]
    both, costs = (first + second) / 2, model.costs(test)
    print(
        f"{len(test)} rows; mean P(A) {first[:, 0].mean():.4f}, exchanged {second[:, 0].mean():.4f}"
    )

    def mixed(order: np.ndarray) -> np.ndarray:
        """Return the probabilities if the second order follows `order` until time is used up."""
        read = order[np.cumsum(costs[order]) <= options.share * costs.sum()]
        probabilities = first.copy()
        probabilities[read] = both[read]
        return probabilities

    draws = [mixed(rng.permutation(len(test))) for _ in range(RANDOM_DRAWS)]
    policies = {
        "random (mean of draws)": draws,
        "costliest first": [mixed(np.argsort(-costs, kind="stable"))],
        "cheapest first": [mixed(np.argsort(costs, kind="stable"))],
        "smallest sum of squares first": [mixed(np.argsort(np.square(first).sum(axis=1)))],
        "most sensitive first": [mixed(most_sensitive_first(first, costs))],
        "no second order": [first],
        "every second order": [both],
    }
    truth, keys = labels_of(test), prompt_keys(test)
    losses = {
        name: np.mean([row_log_losses(truth, made) for made in all_made], axis=0)
        for name, all_made in policies.items()
    }
    print("| policy | mean squared distance | log loss | to random |\n|---|---|---|---|")
    for name, all_made in policies.items():
        distance = np.mean([np.square(made - both).sum(axis=1).mean() for made in all_made])
        low, high = bootstrap_interval(losses[name] - losses["random (mean of draws)"], keys)
        difference = (losses[name] - losses["random (mean of draws)"]).mean()
        print(
            f"| {name} | {distance:.2e} | {losses[name].mean():.4f} "
            f"| {difference:+.4f} ({low:+.4f} to {high:+.4f}) |"
        )


if __name__ == "__main__":
    main()
