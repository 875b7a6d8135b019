"""`humanpref evaluate`: evaluate artifacts side by side on labeled rows."""

import argparse
from typing import Any

from humanpref.cli.shared import add_command, add_format, add_path, metrics_line
from humanpref.schema import InputError


def add(commands: Any) -> None:
    """Add the command to the parser."""
    command = add_command(
        commands, "evaluate", run, "evaluate one or more artifacts side by side on labeled rows"
    )
    add_path(command, "artifact", nargs="+", metavar="ARTIFACT")
    add_path(command, "--data", required=True, metavar="ROWS", help="rows with labels")
    add_format(command)
    add_path(command, "--json", metavar="FILE", help="also write the metrics to this file")
    text = "a new folder for a page with its figures and tables"
    add_path(command, "--html", metavar="DIR", help=text)
    text = "measure fluency by this model's perplexity instead of a proxy"
    add_path(command, "--language-model", metavar="FOLDER", help=text)
    text = "measure relevance by this model's embeddings instead of a proxy"
    add_path(command, "--sentence-encoder", metavar="FOLDER", help=text)


def run(options: argparse.Namespace) -> int:
    from humanpref.files import check_new, check_writable, write_json
    from humanpref.reports.evaluate import evaluate, write_evaluation
    from humanpref.reports.page import PAGE_FILE

    file, page = options.json, options.html
    if file is not None:
        check_writable(file, inputs=[options.data, *options.artifact])
    if page is not None:
        check_new(page, inputs=options.artifact)
        if file is not None and page.resolve().is_relative_to(file.resolve()):
            raise InputError(f"--html {page}: is the same path as --json, or inside it")
    metrics, tables = evaluate(
        options.artifact,
        options.data,
        options.language_model,
        options.sentence_encoder,
        options.format,
    )
    by_name = metrics["artifacts"]
    if file is not None:
        # For a single artifact, write its metrics directly, without the enclosing object.
        write_json(file, metrics if len(by_name) > 1 else next(iter(by_name.values())))
    for name, each in by_name.items():
        print(metrics_line(name if len(by_name) > 1 else str(options.data), each))
    for each in metrics["differences"]:
        interval = f"[{each['low']:+.4f}, {each['high']:+.4f}]"
        print(f"{each['artifact']} against {each['to']}: {each['log_loss']:+.4f} {interval}")
    if page is not None:
        write_evaluation(page, f"Judged on {options.data.name}", metrics, tables)
        print(f"page: {page / PAGE_FILE}")
    return 0
