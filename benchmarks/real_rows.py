"""Small pretrained models on real rows: a decoder with a new head, with its own answer tokens, as
an untrained judge, by DPO, and as a frozen embedder, next to the prior, the structural model and a
sentence encoder.

    python benchmarks/real_rows.py --train CSV --out DIR [--decoder NAME=FOLDER …]
    [--encoder NAME=FOLDER …] [--arms NAME …] [--tokens 256] [--precision bf16]

Three of five grouped folds are training rows; the other two are held out, whole prompts apart.
Every arm is trained and predicts by itself, and its probabilities are kept in DIR/ARM.csv: give the
same command again to resume it, or `--arms` to choose some. The tables in DIR (`against-prior`,
`against-structure`) contain the arms that have been run, with paired differences. A decoder reads
prompt, A and B in `--tokens` tokens; DPO and frozen embeddings read half as many for each text.
A frozen decoder's vector of a text is the mean over its tokens.
One epoch of batches of 8 at the learning rate that LoRA usually takes; nothing is tuned.
"""

import argparse
import logging
import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from humanpref.config import load_config
from humanpref.data import (
    grouped_folds,
    labels_of,
    prompt_keys,
    read_labels,
    read_pairs,
    write_pairs,
    write_submission,
)
from humanpref.evaluation.metrics import accuracy, bootstrap_interval
from humanpref.logloss import row_log_losses
from humanpref.reports.table_text import markdown
from humanpref.runs.artifact import Artifact
from humanpref.runs.predict import predict
from humanpref.runs.train import train
from humanpref.schema import LABEL_COLUMNS
from humanpref.studies.compare import write_table

SEED, FOLDS, TRAINED_FOLDS = 42, 5, 3
TRAINED = (
    "training.learning_rate=2e-4",
    "training.batch_size=8",
    "training.warmup=0.1",
    "training.max_grad_norm=1.0",
)
STRUCTURE = ("sparse", ("model.max_terms=0",))


def arms(
    out: Path, decoders: dict[str, str], encoders: dict[str, str], tokens: int, precision: str
) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Yield each arm's name, preset and options."""
    yield "prior", "prior", ()
    yield "structure", *STRUCTURE
    half = "bfloat16" if precision == "bf16" else "float32"
    for name, folder in encoders.items():
        yield f"{name}-frozen", "embedding", (f"model.backbone={folder}",)
    for name, folder in decoders.items():
        base = (
            f"model.backbone={folder}",
            f"model.base_dtype={half}",
            f"training.precision={precision}",
        )
        joint = (*base, f"model.max_length={tokens}", "inference.swap_average=true")
        lora = "llama-3.2-1b-lora"
        yield f"{name}-untrained", lora, (*joint, "model.head=tokens", "training.epochs=0")
        yield f"{name}-tokens", lora, (*joint, *TRAINED, "model.head=tokens")
        yield f"{name}-head", lora, (*joint, *TRAINED)
        branches = (*base, f"model.max_length={tokens // 2}", *TRAINED)
        yield f"{name}-dpo", "llama-3.2-1b-dpo", branches
        yield (
            f"{name}-frozen",
            "embedding",
            (
                f"model.backbone={out / name}-embedder",
                f"model.max_length={tokens // 2}",
                "model.max_windows=1",
                "model.keep_backbone=false",
            ),
        )


def write_embedder(decoder: str, folder: Path) -> None:
    """Write a decoder with mean pooling as sentence-transformers does, unless that is done."""
    if folder.is_dir():
        return
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer

    transformer = Transformer(decoder)
    tokenizer = transformer.tokenizer
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    pooling = Pooling(transformer.get_embedding_dimension(), "mean")
    SentenceTransformer(modules=[transformer, pooling]).save(str(folder))


def cpu_seconds() -> float:
    """Return the processor time of this process, in s."""
    return sum(resource.getrusage(resource.RUSAGE_SELF)[:2])


def run(preset: str, options: tuple[str, ...], csv: Path, stem: Path, held: pd.DataFrame) -> None:
    """Train one arm, unless that is done, and write its probabilities and the processor time of
    this process."""
    before = cpu_seconds()
    config = load_config(preset, None, ("training.validation_fraction=0", f"seed={SEED}", *options))
    folder = stem.with_name(f"{stem.name}-artifact")
    artifact = Artifact.load(folder) if folder.is_dir() else train(config, csv, folder)
    probabilities, _ = predict([artifact], held)
    stem.with_suffix(".seconds").write_text(f"{cpu_seconds() - before:.0f}")
    write_submission(stem.with_suffix(".csv"), held["id"], probabilities)


def summary(out: Path, names: list[str], held: pd.DataFrame, reference: str) -> pd.DataFrame:
    labels, keys = labels_of(held), prompt_keys(held)
    told = {
        name: read_labels(out / f"{name}.csv")[list(LABEL_COLUMNS)].to_numpy() for name in names
    }
    base = row_log_losses(labels, told[reference])
    records = []
    for name, probabilities in told.items():
        losses = row_log_losses(labels, probabilities)
        low, high = bootstrap_interval(losses, keys)
        difference_low, difference_high = bootstrap_interval(losses - base, keys)
        records.append(
            {
                "arm": name,
                "log_loss": losses.mean(),
                "log_loss_low": low,
                "log_loss_high": high,
                "accuracy": accuracy(labels, probabilities),
                "difference": (losses - base).mean(),
                "difference_low": difference_low,
                "difference_high": difference_high,
                "cpu_seconds": int((out / f"{name}.seconds").read_text()),
            }
        )
    return pd.DataFrame(records)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--decoder", nargs="*", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--encoder", nargs="*", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--arms", nargs="*", help="run these; the tables show all that were run")
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--precision", choices=("no", "bf16"), default="no")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    given.out.mkdir(parents=True, exist_ok=True)
    pairs = read_pairs(given.train, labels=True)
    trained = np.isin(grouped_folds(pairs, FOLDS, SEED), range(TRAINED_FOLDS))
    held = pairs[~trained].reset_index(drop=True)
    csv = given.out / "train.csv"
    write_pairs(csv, pairs[trained])
    folders = [dict(text.split("=", 1) for text in own) for own in (given.decoder, given.encoder)]
    known = []
    for name, decoder in folders[0].items():
        if not given.arms or f"{name}-frozen" in given.arms:
            write_embedder(decoder, given.out / f"{name}-embedder")
    for name, preset, options in arms(given.out, *folders, given.tokens, given.precision):
        stem = given.out / name
        if not stem.with_suffix(".csv").is_file() and (not given.arms or name in given.arms):
            print(f"running {name}", flush=True)
            run(preset, options, csv, stem, held)
        known += [name] if stem.with_suffix(".csv").is_file() else []
    for reference in {"prior", "structure"} & set(known):
        table = summary(given.out, known, held, reference)
        write_table(table, given.out / f"against-{reference}")
        print(f"{trained.sum()} rows to train, {len(held)} held out; against {reference}")
        print(markdown(table), end="")


if __name__ == "__main__":
    main()
