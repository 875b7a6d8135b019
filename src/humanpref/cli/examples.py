"""The examples at the end of each command's `--help`."""

import argparse
import textwrap

HEADING = "examples:\n"

EXAMPLES = {
    "humanpref": """
        humanpref judge --prompt 'Name a prime.' --a '7' --b '8'
        humanpref train --preset sparse --train train.csv --out my-model
        humanpref predict my-model --test test.csv --out submission.csv
    """,
    "humanpref judge": """
        humanpref judge --prompt 'Name a prime.' --a '7' --b '8'
        humanpref judge --prompt @prompt.txt --a @a.txt --b - --model my-model --json
    """,
    "humanpref sample": """
        humanpref sample --rows 5000 --out arena
    """,
    "humanpref convert": """
        humanpref convert pairs.parquet train.csv
        humanpref convert shards/ train.jsonl --format chosen-rejected --lossy
        humanpref convert odd.csv train.csv --drop-bad-rows bad.csv
    """,
    "humanpref eda": """
        humanpref eda train.csv --out report
        humanpref eda train.csv --test test.csv --tokenizer models/deberta --out report
    """,
    "humanpref train": """
        humanpref train --preset sparse --train train.csv --out my-model
        humanpref train --preset tiny --train train.csv --folds 5 --out my-model \\
            --set training.epochs=3 training.learning_rate=2e-5
        humanpref train --preset boosted --train train.csv --extra more.csv=0.5 --out my-model
    """,
    "humanpref predict": """
        humanpref predict my-model --test test.csv --out submission.csv
        humanpref predict model-1 model-2 --test test.csv --seconds 3600 --out submission.csv
        humanpref predict my-model --test unlabeled.csv --labels --out soft.csv
    """,
    "humanpref score": """
        humanpref score my-model --in pairs.jsonl --out scored.jsonl
        humanpref score my-model --in pairs.csv --format plain --out scored.jsonl
    """,
    "humanpref blend": """
        humanpref blend model-1 model-2 --mean geometric --out my-blend
    """,
    "humanpref merge": """
        humanpref merge my-folds --out my-model
    """,
    "humanpref export": """
        humanpref export my-decoder --out plain-model
    """,
    "humanpref evaluate": """
        humanpref evaluate my-model --data labeled.csv
        humanpref evaluate model-1 model-2 --data labeled.csv --json metrics.json --html page
    """,
    "humanpref compare": """
        humanpref compare --presets prior,sparse,boosted --train train.csv --folds 5 --out study
    """,
    "humanpref ablate": """
        humanpref ablate softmax --train train.csv --out study
    """,
    "humanpref ablate softmax": """
        humanpref ablate softmax --train train.csv --out study
    """,
    "humanpref ablate preprocessing": """
        humanpref ablate preprocessing --train train.csv --folds 5 --out study
    """,
    "humanpref ablate system-prompt": """
        humanpref ablate system-prompt --train train.csv --out study --set model.backbone=FOLDER
    """,
    "humanpref selection": """
        humanpref selection my-boosted-model --figure steps.png
    """,
    "humanpref runs": """
        humanpref runs models --sort written
    """,
    "humanpref presets": """
        humanpref presets
        humanpref presets sparse
    """,
    "humanpref serve": """
        humanpref serve
        humanpref serve my-model --port 9000
    """,
    "humanpref kaggle": """
        humanpref kaggle dry-run --out dry-run
        humanpref kaggle bundle --preset sparse --out bundle
        humanpref kaggle push --user me
    """,
    "humanpref kaggle dry-run": """
        humanpref kaggle dry-run --out dry-run
        humanpref kaggle dry-run --preset sparse --train train.csv --test test.csv --rows 25000
    """,
    "humanpref kaggle estimate": """
        humanpref kaggle estimate --preset deberta-v3-base --folds 5
        humanpref kaggle estimate --artifact my-model --test-rows 50000
    """,
    "humanpref kaggle data": """
        humanpref kaggle data --competition llm-classification-finetuning --out data
    """,
    "humanpref kaggle push": """
        humanpref kaggle push --user me
        humanpref kaggle push --user me --bundle bundle --infer
    """,
    "humanpref kaggle wait": """
        humanpref kaggle wait
    """,
    "humanpref kaggle output": """
        humanpref kaggle output --train --out my-output
    """,
    "humanpref kaggle submit": """
        humanpref kaggle submit --message 'sparse, 5 folds'
    """,
    "humanpref kaggle accept": """
        humanpref kaggle accept --user me
    """,
    "humanpref kaggle scores": """
        humanpref kaggle scores --figure scores.png
    """,
    "humanpref kaggle status": """
        humanpref kaggle status
    """,
    "humanpref kaggle bundle": """
        humanpref kaggle bundle --preset sparse --out bundle
        humanpref kaggle bundle --artifact my-model --infer-hours 8
    """,
    "humanpref kaggle lock": """
        humanpref kaggle lock
    """,
    "humanpref kaggle check": """
        humanpref kaggle check --bundle bundle
    """,
    "humanpref kaggle weights": """
        humanpref kaggle weights models/deberta --bundle bundle
    """,
}
"""The examples of each command, by its full name, as lines for a shell."""


def add_examples(command: argparse.ArgumentParser) -> None:
    """Put a command's examples, if there are any, at the end of its help."""
    command.formatter_class = HelpFormatter
    if command.prog in EXAMPLES:
        command.epilog = HEADING + textwrap.indent(
            textwrap.dedent(EXAMPLES[command.prog]).strip(), "  "
        )


class HelpFormatter(argparse.HelpFormatter):
    """Wraps paragraphs as argparse does, and leaves the examples as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if text.startswith(HEADING) else super()._fill_text(text, width, indent)
