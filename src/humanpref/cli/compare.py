"""`humanpref compare` and `humanpref ablate`: train several models on the same rows."""

import argparse
from functools import partial
from typing import Any

from humanpref.cli.shared import add_command, add_group, add_option, add_study
from humanpref.schema import InputError

ABLATIONS = {
    "softmax": ("tiny", "a softmax or log-softmax before the loss but not at inference"),
    "preprocessing": (
        "sparse",
        "the report's NLTK preprocessing before TF-IDF, without and with its bug",
    ),
    "system-prompt": (
        "llama-3.2-1b-lora",
        "a decoder with and without instructions before the conversation",
    ),
}
"""The name of each ablation, with its default preset and its help text."""


def add(commands: Any) -> None:
    """Add both commands to the parser."""
    command = add_command(
        commands,
        "compare",
        run,
        "train several presets on the same rows and folds; write one table and one figure",
    )
    add_option(command, "--presets", "A,B,…", "names listed by `humanpref presets`", required=True)
    add_option(
        command,
        "--backbone",
        "PRESET=FOLDER",
        "the folder with a preset's weights",
        action="append",
        default=[],
    )
    add_option(
        command,
        "--peft",
        "A,B,…",
        "train each preset with each of these peft methods: lora,dora,ia3,layernorm,head …",
    )
    add_study(command)
    ablations = add_group(commands, "ablate", "run one of the report's ablations")
    for name, (preset, text) in ABLATIONS.items():
        command = add_command(ablations, name, partial(run_ablation, name), text)
        add_option(command, "--preset", "NAME", f"default {preset}", default=preset)
        add_study(command)


def run(options: argparse.Namespace) -> int:
    from humanpref.reports.table_text import markdown
    from humanpref.studies.compare import compare, variants_of

    backbones = dict(map(key_value, options.backbone))
    methods = options.peft.split(",") if options.peft else [None]
    variants = variants_of(options.presets.split(","), backbones, methods, tuple(options.set))
    arguments = variants, options.train, options.out, options.folds, options.format
    print(markdown(compare(*arguments)), end="")
    return 0


def run_ablation(name: str, options: argparse.Namespace) -> int:
    from humanpref.reports.table_text import markdown
    from humanpref.studies.ablations import ablate

    rows = options.train, options.out, options.folds, options.format
    print(markdown(ablate(name, options.preset, tuple(options.set), *rows)), end="")
    return 0


def key_value(text: str) -> tuple[str, str]:
    """Split `PRESET=FOLDER` into its two parts."""
    key, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"--backbone {text!r}: expected PRESET=FOLDER")
    return key, value
