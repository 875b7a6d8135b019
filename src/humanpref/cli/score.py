"""`humanpref score`: add probabilities or rewards to a file of JSON lines or a folder of shards."""

import argparse
from typing import Any

from humanpref.cli.shared import add_command, add_format, add_option, add_path
from humanpref.schema import InputError

LOCAL, RAY = "local", "ray"


def add(commands: Any) -> None:
    """Add the command to the parser."""
    command = add_command(
        commands,
        "score",
        run,
        "add probabilities and a margin to JSON lines or shards of pairs, or a reward to single "
        "responses",
    )
    text = "judge by this artifact (default: the small judge that comes with the package)"
    add_path(command, "artifact", "ARTIFACT", text, nargs="?")
    text = (
        "JSON lines with prompt, response_a and response_b, or with prompt and response; in each "
        "line, either all values are strings, or all are lists of turns; or a folder of shards "
        "with pairs in any format"
    )
    add_path(command, "--in", "JSONL|FOLDER", text, dest="source", required=True)
    text = (
        "the same lines with their scores; for a folder, one with a shard for each shard: Parquet "
        "for Parquet, otherwise JSON lines; the same command skips finished shards"
    )
    add_path(command, "--out", "JSONL|FOLDER", text, required=True)
    add_format(command, "the format of a folder's shards (default: detected in each)")
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
        print(f"{out}: {total.shards} shards{finished}, {total.rows} rows")
        return 0
    if options.engine == RAY or options.workers is not None or options.format is not None:
        raise InputError(f"{source}: --engine ray, --workers and --format need a folder of shards")
    check_writable(out, inputs=filter(None, [source, model]))
    count = score(Artifact.load(model) if model else None, source, out)
    if is_main_process():
        print(f"{out}: {count} lines")
    return 0
