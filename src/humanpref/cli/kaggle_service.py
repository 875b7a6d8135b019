"""The `humanpref kaggle` commands that talk to Kaggle."""

import argparse
from pathlib import Path
from typing import Any

from humanpref.cli.shared import add_command, add_path
from humanpref.kaggle.competitions import DEFAULT
from humanpref.schema import InputError


def add(group: Any) -> None:
    """Add the commands that talk to Kaggle to the group."""
    competition = argparse.ArgumentParser(add_help=False)
    text = f"default: that of the pushed bundle, otherwise {DEFAULT}"
    competition.add_argument("--competition", metavar="SLUG", help=text)
    user = argparse.ArgumentParser(add_help=False)
    text = "your Kaggle user name (default: that of the credentials)"
    user.add_argument("--user", metavar="NAME", help=text)
    experiment = argparse.ArgumentParser(add_help=False, parents=[user])
    text = "a name for the experiment, to keep its slugs and records apart from those of others"
    experiment.add_argument("--name", default="", metavar="NAME", help=text)
    anyway = argparse.ArgumentParser(add_help=False)
    anyway.add_argument(
        "--anyway", action="store_true", help="accept a result even if it is incomplete"
    )

    text = "fetch the competition's files"
    command = add_command(group, "data", data, text, parents=[competition, experiment])
    text = "a new folder for the files (default data)"
    add_path(command, "--out", default=Path("data"), metavar="DIR", help=text)

    text = "push a bundle, or only the chosen parts; parts that Kaggle already has are not sent"
    command = add_command(group, "push", push, text, parents=[experiment])
    add_path(command, "--bundle", default=Path("bundle"), metavar="DIR", help="default bundle")
    parts = {
        "--dataset": "the wheel dataset, and packed weights",
        "--train": "the training kernel (the push starts its run)",
        "--infer": "the inference kernel, once the training kernel that it mounts has run",
    }
    for name, text in parts.items():
        command.add_argument(name, action="store_true", help=text)
    text = (
        "push even if the estimate says that the training cannot succeed; if the training ran out "
        "of time, predict with the models that it finished"
    )
    command.add_argument("--anyway", action="store_true", help=text)

    text = "wait until all pushed datasets are ready and all pushed kernels have run"
    add_command(group, "wait", wait, text, parents=[anyway, experiment])

    text = "fetch the output of the inference kernel's run (with --train, the training kernel's)"
    command = add_command(group, "output", output, text, parents=[experiment])
    text = "fetch the training kernel's output"
    command.add_argument("--train", action="store_true", help=text)
    text = "only print the complete log of the run, even if the run failed"
    command.add_argument("--log", action="store_true", help=text)
    text = "a new folder for the output (default output, or output-NAME)"
    add_path(command, "--out", metavar="DIR", help=text)

    text = "submit the pushed version of the inference kernel once, and wait for its score"
    command = add_command(group, "submit", submit, text, parents=[competition, anyway, experiment])
    text = "the description shown in the list of submissions"
    command.add_argument("--message", required=True, metavar="TEXT", help=text)

    text = "run the project's GPU checks on Kaggle's GPUs, and print a table of the results"
    command = add_command(group, "accept", accept, text, parents=[user])
    command.set_defaults(name="")
    text = "a new folder for the table and the log (default acceptance)"
    add_path(command, "--out", default=Path("acceptance"), metavar="DIR", help=text)

    text = "show the state of everything pushed from here, and the submissions and GPU hours left"
    add_command(group, "status", status, text, parents=[competition, experiment])

    text = "list the submissions of all experiments: held-out log loss, public score, degradation"
    command = add_command(group, "scores", scores, text, parents=[competition, user])
    command.set_defaults(name="")
    text = "plot public score against held-out log loss in this file (.png, .svg or .pdf)"
    add_path(command, "--figure", metavar="FILE", help=text)


def service(options: argparse.Namespace) -> Any:
    """Return the signed-in client and the records of the experiment. If the command line names no
    user, set `options.user` to the signed-in user."""
    from humanpref.kaggle.bundle.metadata import check_owner
    from humanpref.kaggle.service.client import Client
    from humanpref.kaggle.service.records import find_records

    client = Client()
    options.user = options.user or client.user.lower()
    if not options.user:
        raise InputError(
            "--user: expected your Kaggle user name; the credentials do not include it"
        )
    check_owner(options.user)
    return client, find_records(options.user, options.name)


def competition_of(records: Any, named: str | None) -> str:
    """Return the slug of the competition: `named` if it is given, otherwise the one for which the
    inference kernel in the records was pushed, otherwise the default."""
    return named or records["infer"].get("competition", DEFAULT)


def data(options: argparse.Namespace) -> int:
    from humanpref.kaggle.service.fetch import fetch_data

    client, records = service(options)
    names = fetch_data(client, competition_of(records, options.competition), options.out)
    print(f"{options.out}: {', '.join(names)}")
    return 0


def push(options: argparse.Namespace) -> int:
    from humanpref.kaggle.service.push import PARTS, push

    client, records = service(options)
    parts = [name for name in PARTS if getattr(options, name)]
    push(client, records, options.bundle, options.user, parts, options.anyway)
    for entry in map(records.__getitem__, records.latest()):
        print(f"{entry['ref']}: version {entry.get('version') or '-'}, {entry['state']}")
    return 0


def wait(options: argparse.Namespace) -> int:
    from humanpref.kaggle.service.push import wait

    for line in wait(*service(options), options.anyway):
        print(line)
    return 0


def output(options: argparse.Namespace) -> int:
    from humanpref.kaggle.service.fetch import fetch_log, fetch_output

    kernel = "train" if options.train else "infer"
    if options.log:
        print(fetch_log(*service(options), kernel).rstrip("\n"))
        return 0
    out = options.out or Path(f"output-{options.name}" if options.name else "output")
    names = fetch_output(*service(options), kernel, out)
    print(f"{out}: {', '.join(names)}")
    return 0


def submit(options: argparse.Namespace) -> int:
    from humanpref.kaggle.service.submit import submit

    client, records = service(options)
    competition = competition_of(records, options.competition)
    submission = submit(client, records, competition, options.message, options.anyway)
    print(f"submission {submission.ref}: public score {submission.public_score or 'unknown'}")
    return 0


def accept(options: argparse.Namespace) -> int:
    from humanpref.kaggle.bundle.checkout import find_project
    from humanpref.kaggle.service.accept import accept

    client, records = service(options)
    table = accept(client, records, find_project(), options.user, options.out)
    print(table, end="")
    return 0 if table.splitlines()[-1].startswith("PASS") else 1


def status(options: argparse.Namespace) -> int:
    from humanpref.kaggle.service.submit import status

    client, records = service(options)
    for line in status(client, records, competition_of(records, options.competition)):
        print(line)
    return 0


def scores(options: argparse.Namespace) -> int:
    from humanpref.kaggle.service.records import find_root
    from humanpref.kaggle.service.scores import scores
    from humanpref.reports.charts import FIGURE_SUFFIXES, scatter
    from humanpref.reports.table_text import markdown

    figure = options.figure
    if figure and figure.suffix not in FIGURE_SUFFIXES:
        raise InputError(
            f"--figure {figure}: expected a name that ends in {', '.join(FIGURE_SUFFIXES)}"
        )
    client, records = service(options)
    competition = competition_of(records, options.competition)
    table = scores(client, find_root(options.user), competition)
    if table.empty:
        raise InputError(f"{competition}: no submissions yet; run humanpref kaggle submit")
    print(markdown(table))
    if figure:
        both = table.dropna(subset=["log loss", "public score"])
        if both.empty:
            raise InputError(
                f"--figure {figure}: no submission has both a log loss and a public score yet"
            )
        scatter(figure, both[["log loss", "public score", "experiment"]], "experiment")
    return 0
