"""A decoder with LoRA as a classifier, without and with a system prompt, and by Direct Preference
Optimization, beside the prior.

    python benchmarks/decoder_study.py --train CSV --backbone FOLDER --out DIR [--rows 600]
    [--tokens 256] [--variants a,b]
                                       [--set KEY=VALUE …]

Every variant learns from the same two thirds of the first `--rows` rows and is judged on the other
third, whole prompts apart. A classifier reads prompt, A and B in `--tokens` tokens; a
preference-optimised model reads half as many for the prompt with each answer. The learning rate is
the one that LoRA usually takes at this size; nothing is tuned. The tables, with paired differences
to the prior and to the classifier without a system prompt, stand in `DIR/decoders-against-….md` and
`.csv`; started again, it goes on.
"""

import argparse
import logging
from pathlib import Path

import numpy as np
from encoder_study import paired, subset

from humanpref.config.neural import SYSTEM_PROMPT
from humanpref.data import read_pairs
from humanpref.reports.table_text import markdown
from humanpref.studies.compare import Variant, compare, write_table

COMMON = ("training.validation_fraction=0.3333",)
TRAINED = (
    "training.learning_rate=2e-4",
    "training.batch_size=8",
    "training.warmup=0.1",
    "training.max_grad_norm=1.0",
)


def variants(backbone: Path, tokens: int, more: list[str]) -> list[Variant]:
    lora = (
        "llama-3.2-1b-lora",
        (f"model.backbone={backbone}", f"model.max_length={tokens}", *COMMON, *TRAINED, *more),
    )
    dpo = (
        "llama-3.2-1b-dpo",
        (f"model.backbone={backbone}", f"model.max_length={tokens // 2}", *COMMON, *TRAINED, *more),
    )
    return [
        Variant("prior", "prior", COMMON),
        Variant("lora", lora[0], (*lora[1], "model.system_prompt=")),
        Variant("lora-system-prompt", lora[0], (*lora[1], f"model.system_prompt={SYSTEM_PROMPT}")),
        Variant("dpo", *dpo),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--backbone", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--variants", help="only these, and the prior")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    pairs = read_pairs(options.train, labels=True)
    first = np.arange(len(pairs)) < options.rows
    csv = subset(options.train, first, options.out / "rows.csv")
    runs = variants(options.backbone, options.tokens, options.set)
    if options.variants:
        runs = [run for run in runs if run.name in ("prior", *options.variants.split(","))]
    out = options.out / "variants"
    table = compare(runs, csv, out, None)
    references = [name for name in ("prior", "lora") if name in set(table["name"])]
    for reference in references:
        against = paired(table, out, pairs[first], reference)
        write_table(against, options.out / f"decoders-against-{reference}")
        print(f"against {reference}\n{markdown(against)}", end="")


if __name__ == "__main__":
    main()
