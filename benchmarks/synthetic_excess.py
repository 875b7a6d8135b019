"""The excess log loss of models on the synthetic arena, whose true probabilities are known.

    python benchmarks/synthetic_excess.py --rows 20000 [--seed 42] [--presets sparse tiny]
        [--set tiny:training.epochs=2 …]

Each model is trained on every training row. On the test rows it is scored against the *true
probabilities*, not against one draw from them: the expected log loss -sum p log q, whose smallest
value, at q = p, is the generator's own -sum p log p. The excess is the difference, the
Kullback-Leibler divergence of model from truth, in nats, with a 95 % bootstrap interval over
prompts. The last columns give the excess on the rows with the shortest and the longest thirds of A
and B together.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from length_only import LengthOnly

from humanpref.arena import write_arena
from humanpref.config import load_config
from humanpref.data import labels_of, prompt_keys, read_pairs
from humanpref.evaluation.metrics import bootstrap_interval
from humanpref.logloss import row_log_losses
from humanpref.models import build_model
from humanpref.schema import ID, LABEL_COLUMNS


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--presets", nargs="*", default=["sparse", "tiny"])
    parser.add_argument("--set", action="append", default=[], metavar="PRESET:KEY=VALUE")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        truth = write_arena(Path(folder), options.rows, options.seed).truth
        train, test = (
            read_pairs(Path(folder, "train.csv")),
            read_pairs(Path(folder, "test_labels.csv")),
        )
    true = (
        truth.assign(**{ID: truth[ID].astype(str)})
        .set_index(ID)
        .loc[test[ID], list(LABEL_COLUMNS)]
        .to_numpy()
    )
    labels, keys = labels_of(train), prompt_keys(test)
    lengths = np.array(
        [
            sum(map(len, a)) + sum(map(len, b))
            for a, b in zip(test["response_a"], test["response_b"], strict=True)
        ]
    )
    short, long = lengths <= np.quantile(lengths, 1 / 3), lengths >= np.quantile(lengths, 2 / 3)
    best = row_log_losses(true, true)

    models = {"prior": build_model(load_config("prior")), "length only": LengthOnly()}
    for preset in options.presets:
        overrides = [
            text.partition(":")[2] for text in options.set if text.partition(":")[0] == preset
        ]
        models[preset] = build_model(load_config(preset, overrides=overrides))
    print(
        f"{len(train)} training and {len(test)} test rows, seed {options.seed}; "
        f"the generator's own log loss {best.mean():.4f}"
    )
    columns = [
        "model",
        "log loss",
        "excess",
        "95 % interval",
        "short rows",
        "long rows",
        "fit, s",
        "predict, s",
    ]
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for name, model in models.items():
        started = time.perf_counter()
        model.fit(train, labels)
        fitted = time.perf_counter()
        losses = row_log_losses(true, model.predict_proba(test))
        predicted = time.perf_counter()
        excess = losses - best
        low, high = bootstrap_interval(excess, keys)
        print(
            f"| {name} | {losses.mean():.4f} | {excess.mean():.4f} "
            f"| {low:.4f} to {high:.4f} | {excess[short].mean():.4f} "
            f"| {excess[long].mean():.4f} | {fitted - started:.0f} | {predicted - fitted:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
