"""`humanpref score`: add probabilities or rewards to a file or a folder of shards."""

import argparse
from typing import Any

from humanpref.cli.shared import add_command, add_format, add_option, add_path
from humanpref.schema import InputError, counted

LOCAL, RAY = "local", "ray"


def add(commands: Any) -> None:
    """Add the command to the parser."""
    command = add_command(
        commands,
        "score",
        run,
        "add probabilities and a margin to pairs in a file or shards, or a reward to single "
        "responses",
    )
    text = "judge by this artifact (default: the small judge that comes with the package)"
    add_path(command, "artifact", "ARTIFACT", text, nargs="?")
    text = (
        "a file or a folder of shards with pairs in any format; or JSON lines with prompt and "
        "response, or with prompt, response_a and response_b"
    )
    add_path(command, "--in", "ROWS", text, dest="source", required=True)
    text = (
        "the same rows with their scores, as Parquet if ROWS is Parquet, otherwise as JSON lines; "
        "for a folder, one shard per input shard; rerunning the command skips finished shards"
    )
    add_path(command, "--out", "FILE|FOLDER", text, required=True)
    add_format(command, "the format of the pairs (default: detected, in each shard separately)")
    text = (
        "how a folder is judged: one shard at a time, or on a Ray cluster, whose address is in "
        "RAY_ADDRESS (default: a local one)"
    )
    command.add_argument("--engine", choices=(LOCAL, RAY), default=LOCAL, help=text)
    text = "copies of the model on a Ray cluster (default: one per GPU or CPU)"
    add_option(command, "--workers", "N", text, type=int)


def run(options: argparse.Namespace) -> int:
    from humanpref.files import check_writable, is_main_process
    from humanpref.interfaces.score import score
    from humanpref.interfaces.shards import judge_shards
    from humanpref.runs.artifact import Artifact

    source, out, model = options.source, options.out, options.artifact
    if source.is_dir():
        how = options.engine, options.workers, options.format
        total = judge_shards(source, out, model, *how)
        finished = f" ({total.skipped} already finished)" if total.skipped else ""
        print(f"{out}: {counted(total.shards, 'shard')}{finished}, {counted(total.rows, 'row')}")
        return 0
    if options.engine == RAY or options.workers is not None:
        raise InputError(f"{source}: --engine ray and --workers need a folder of shards")
    check_writable(out, inputs=filter(None, [source, model]))
    count = score(Artifact.load(model) if model else None, source, out, options.format)
    if is_main_process():
        print(f"{out}: {counted(count, 'row')}")
    return 0
