"""Are three LoRA fold models, merged into one, as good as the mean of the three?

    python benchmarks/merge_folds.py --train CSV --backbone FOLDER --out DIR [--rows 300]
    [--unseen 200] [--tokens 192] [--folds 3] [--set KEY=VALUE …]

The first `--rows` rows of the file train the fold models; the next `--unseen` rows whose prompt is
not among them are read by all. On these, four ways to use the fold models are compared:

- `mean`: the mean of their probabilities, at K times the cost;
- `merged`: `humanpref merge`, which averages the weight updates exactly, at rank K r;
- `merged-into-base`: the same in a float32 copy of the base (`--into-base`);
- `tensor-wise`: the mean of the matrices A and of the matrices B, whose product is not the mean of
  the updates BA; it exists only here.

For each: the log loss, its paired difference to `mean` (95 % bootstrap interval over prompts), and
the largest and mean absolute difference of a probability to `mean`. Two more rows are the first
fold model and the prior. The fold models are those of the preset `llama-3.2-1b-lora` with its own
options, except for the backbone and the tokens. Every step's result is kept in `DIR`, and the same
command resumes with the first one that is missing.
"""

import argparse
import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from encoder_study import subset
from safetensors.numpy import load_file, save_file

from humanpref.config import load_config
from humanpref.data import labels_of, prompt_keys, read_pairs
from humanpref.evaluation.metrics import bootstrap_interval
from humanpref.files import folder_whole, read_json, write_json
from humanpref.logloss import row_log_losses
from humanpref.models.neural import STATE_FILE
from humanpref.reports.table_text import markdown
from humanpref.runs.artifact import Artifact
from humanpref.runs.artifact_files import seal
from humanpref.runs.merging import merge
from humanpref.runs.train import train
from humanpref.studies.compare import write_table

PRESET = "llama-3.2-1b-lora"


def tensor_wise_mean(artifact: Artifact, out: Path) -> None:
    """Write an artifact whose only model has the mean of each of the fold models' weights."""
    names = artifact.facts["members"]
    states = [load_file(artifact.folder / name / STATE_FILE) for name in names]
    mean = {name: np.mean([state[name] for state in states], axis=0) for name in states[0]}
    with folder_whole(out) as unfinished:
        shutil.copytree(artifact.folder / names[0], unfinished / "model")
        save_file(mean, unfinished / "model" / STATE_FILE)
        seal(unfinished, artifact.facts | {"members": ["model"]})


def first_model(artifact: Artifact, out: Path) -> None:
    """Write an artifact with only the first of the fold models."""
    with folder_whole(out) as unfinished:
        first = artifact.facts["members"][0]
        shutil.copytree(artifact.folder / first, unfinished / "model")
        seal(unfinished, artifact.facts | {"members": ["model"]})


def predicted(artifact: Artifact, pairs: pd.DataFrame, path: Path) -> tuple[np.ndarray, float]:
    """Return the artifact's probabilities and the seconds they took, read from `path` if an earlier
    run has written them."""
    if not path.is_file():
        started = time.monotonic()
        probabilities = artifact.predict_proba(pairs)
        seconds = round(time.monotonic() - started, 1)
        write_json(path, {"seconds": seconds, "probabilities": probabilities.tolist()})
    content = read_json(path)
    return np.array(content["probabilities"]), content["seconds"]


def compared(
    labels: np.ndarray, keys: np.ndarray, found: dict[str, tuple[np.ndarray, float]]
) -> pd.DataFrame:
    """Compare each way's probabilities with those of `mean`."""
    base = found["mean"][0]
    reference, records = row_log_losses(labels, base), []
    for name, (probabilities, seconds) in found.items():
        losses, distance = row_log_losses(labels, probabilities), np.abs(probabilities - base)
        low, high = bootstrap_interval(losses - reference, keys)
        records.append(
            {
                "name": name,
                "rows": len(labels),
                "log_loss": losses.mean(),
                # As text, since the table rounds numbers to four decimals.
                "difference": f"{(losses - reference).mean():.2g}",
                "difference_low": f"{low:.2g}",
                "difference_high": f"{high:.2g}",
                "largest_distance": f"{distance.max():.2g}",
                "mean_distance": f"{distance.mean():.2g}",
                "seconds": seconds,
            }
        )
    return pd.DataFrame(records)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--backbone", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--unseen", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=192)
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    claim = {name: str(value) for name, value in vars(options).items() if name != "out"}
    options.out.mkdir(parents=True, exist_ok=True)
    if not (options.out / "arguments.json").is_file():
        write_json(options.out / "arguments.json", claim)
    if read_json(options.out / "arguments.json") != claim:
        parser.error(f"{options.out} has results of other arguments; name another --out")

    pairs, out = read_pairs(options.train, labels=True), options.out
    keys, learned = prompt_keys(pairs), np.arange(len(pairs)) < options.rows
    csv = subset(options.train, learned, out / "rows.csv")
    unseen = np.flatnonzero(~np.isin(keys, keys[learned]))[: options.unseen]
    test, keys = pairs.iloc[unseen].reset_index(drop=True), keys[unseen]
    changes = [f"model.backbone={options.backbone}", f"model.max_length={options.tokens}"]
    config = load_config(PRESET, None, [*changes, *options.set])

    makers: dict[str, Callable[[Path], object]] = {
        "mean": lambda folder: train(config, csv, folder, options.folds),
        "merged": lambda folder: merge(out / "mean", folder),
        "merged-into-base": lambda folder: merge(out / "mean", folder, into_base=True),
        "tensor-wise": lambda folder: tensor_wise_mean(Artifact.load(out / "mean"), folder),
        "first fold model": lambda folder: first_model(Artifact.load(out / "mean"), folder),
        "prior": lambda folder: train(load_config("prior"), csv, folder),
    }
    found = {}
    for name, make in makers.items():
        folder = out / name.replace(" ", "-")
        if not folder.is_dir():
            make(folder)
        found[name] = predicted(Artifact.load(folder), test, Path(f"{folder}.json"))
    table = compared(labels_of(test), keys, found)
    write_table(table, out / "merge-folds")
    print(markdown(table), end="")


if __name__ == "__main__":
    main()
