"""Do two commits predict the same? Train and predict with every family in both, and compare.

    python benchmarks/same_predictions.py BASE --train CSV [--encoder FOLDER] [--rows N]

The commit BASE is checked out into a temporary worktree; the other side is this checkout. Both run
in this environment, through the command line alone. Neural families are small and trained from
scratch; the decoder's base is a Llama with random weights. Prints one line per recipe: the largest
difference of a probability, and, where it is above the tolerance, both log losses on the held-out
rows with the paired interval of their difference.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from humanpref.data import grouped_folds, prompt_keys, read_pairs, write_pairs
from humanpref.evaluation.metrics import bootstrap_interval
from humanpref.logloss import row_log_losses
from humanpref.schema import LABEL_COLUMNS

ROOT = Path(__file__).parents[1]
TOLERANCE = {"embedding": 1e-4}
"""Largest allowed difference of a probability; 1e-6 where none is given."""
SCRATCH = ("model.max_length=64", "training.epochs=1")
DECODER = ("model.max_length=192", "training.epochs=1", "training.learning_rate=1e-3")


def recipes(encoder: Path | None, decoder: Path) -> dict[str, list[str]]:
    """Arguments of `humanpref train` by name, data and output apart."""
    tiny = ["--preset", "tiny", *settings(*SCRATCH)]
    llama = settings(f"model.backbone={decoder}", *DECODER)
    found = {
        "prior": ["--preset", "prior"],
        "sparse": ["--preset", "sparse"],
        "sparse, folds": ["--preset", "sparse", "--folds", "3"],
        "boosted": ["--preset", "boosted", *settings("model.rounds=60")],
        "tiny": tiny,
        "tiny, joint, both orders": [
            *tiny,
            *settings("model.inputs=joint", "inference.swap_average=true"),
        ],
        "tiny, offset": [*tiny, *settings("model.offset=structure")],
        "decoder": ["--preset", "llama-3.2-1b-lora", *llama],
        "dpo": ["--preset", "llama-3.2-1b-dpo", *llama],
        "blend": ["--preset", "cpu-best", *settings('model.members=["prior", "sparse"]')],
    }
    if encoder is not None:
        found["embedding"] = ["--preset", "embedding", *settings(f"model.backbone={encoder}")]
    return found


def settings(*overrides: str) -> list[str]:
    """`--set` before each override: older commits take one at a time."""
    return [part for override in overrides for part in ("--set", override)]


def random_decoder(folder: Path, texts: list[str]) -> Path:
    """A small Llama with random weights and a byte-level tokenizer trained on the texts."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "</s>", "<pad>"]
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(fast), **size, **heads)).save_pretrained(folder)
    return folder


def run(checkout: Path, *arguments: str | Path) -> None:
    """Run one `humanpref` command with a checkout's source."""
    environment = {**os.environ, "PYTHONPATH": str(checkout / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "humanpref.cli", "--quiet", *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{checkout}: {' '.join(command)} ended with {done.returncode}\n{done.stderr}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", help="the commit to compare with")
    parser.add_argument("--train", type=Path, required=True, help="labelled rows")
    parser.add_argument("--encoder", type=Path, help="a sentence encoder's folder")
    parser.add_argument("--rows", type=int, default=400, help="rows to use (default 400)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        base = folder / "base"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(base), options.base], check=True)
        try:
            compare(folder, base, options)
        finally:
            subprocess.run([*git, "remove", "--force", str(base)], check=True)


def compare(folder: Path, base: Path, options: argparse.Namespace) -> None:
    """Run every recipe in both checkouts and print what differs."""
    pairs = read_pairs(options.train, labels=True).head(options.rows)
    held = grouped_folds(pairs, 4, 0) == 0
    train, test = folder / "train.csv", folder / "test.csv"
    write_pairs(train, pairs[~held])
    write_pairs(test, pairs[held].drop(columns=list(LABEL_COLUMNS)))
    texts = [turn for column in ("prompt", "response_a") for row in pairs[column] for turn in row]
    decoder = random_decoder(folder / "decoder", texts)
    labels = pairs.loc[held, list(LABEL_COLUMNS)].to_numpy()
    for name, arguments in recipes(options.encoder, decoder).items():
        probabilities = []
        for side, checkout in (("base", base), ("here", ROOT)):
            artifact, out = folder / f"{name}-{side}", folder / f"{name}-{side}.csv"
            run(checkout, "train", *arguments, "--train", train, "--out", artifact)
            run(checkout, "predict", artifact, "--test", test, "--out", out)
            probabilities.append(pd.read_csv(out)[list(LABEL_COLUMNS)].to_numpy())
        largest = np.abs(probabilities[0] - probabilities[1]).max()
        line = f"{name:26} {largest:.1e}"
        if largest > TOLERANCE.get(name, 1e-6):
            losses = [row_log_losses(labels, own) for own in probabilities]
            low, high = bootstrap_interval(losses[1] - losses[0], prompt_keys(pairs[held]))
            difference = (losses[1] - losses[0]).mean()
            line += f"  log loss {losses[0].mean():.4f} and {losses[1].mean():.4f}, paired "
            line += f"difference {difference:+.4f} [{low:+.4f}, {high:+.4f}]"
        print(line, flush=True)


if __name__ == "__main__":
    main()
