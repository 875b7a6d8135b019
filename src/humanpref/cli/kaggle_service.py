"""The `humanpref kaggle` commands that talk to Kaggle."""

import argparse
from pathlib import Path
from typing import Any

from humanpref.cli.shared import add_command, add_path
from humanpref.kaggle.competitions import DEFAULT


def add(group: Any) -> None:
    """Add the commands to the group."""
    competition = argparse.ArgumentParser(add_help=False)
    text = f"default: that of the pushed bundle, otherwise {DEFAULT}"
    competition.add_argument("--competition", metavar="SLUG", help=text)
    anyway = argparse.ArgumentParser(add_help=False)
    anyway.add_argument(
        "--anyway", action="store_true", help="accept a result even if it is incomplete"
    )

    text = "fetch the competition's files"
    command = add_command(group, "data", data, text, parents=[competition])
    text = "a new folder for the files (default data)"
    add_path(command, "--out", default=Path("data"), metavar="DIR", help=text)

    text = "push a bundle, or only the chosen parts; parts that Kaggle already has are not sent"
    command = add_command(group, "push", push, text)
    command.add_argument("--user", required=True, metavar="NAME", help="your Kaggle user name")
    add_path(command, "--bundle", default=Path("bundle"), metavar="DIR", help="default bundle")
    parts = {
        "--dataset": "the wheel dataset, and packed weights",
        "--train": "the training kernel (the push starts its run)",
        "--infer": "the inference kernel, once the training kernel that it mounts has run",
    }
    for name, text in parts.items():
        command.add_argument(name, action="store_true", help=text)
    text = "push even if the estimate says that the training cannot succeed"
    command.add_argument("--anyway", action="store_true", help=text)

    text = "wait until all pushed datasets are ready and all pushed kernels have run"
    add_command(group, "wait", wait, text, parents=[anyway])

    text = "fetch the output of the inference kernel's run (with --train, the training kernel's)"
    command = add_command(group, "output", output, text)
    text = "fetch the training kernel's output"
    command.add_argument("--train", action="store_true", help=text)
    text = "a new folder for the output (default output)"
    add_path(command, "--out", default=Path("output"), metavar="DIR", help=text)

    text = "submit the pushed version of the inference kernel once, and wait for its score"
    command = add_command(group, "submit", submit, text, parents=[competition, anyway])
    text = "the description shown in the list of submissions"
    command.add_argument("--message", required=True, metavar="TEXT", help=text)

    text = "check on Kaggle's GPUs what the project says about GPUs, and print the table"
    command = add_command(group, "accept", accept, text)
    command.add_argument("--user", required=True, metavar="NAME", help="your Kaggle user name")
    text = "a new folder for the table and the log (default acceptance)"
    add_path(command, "--out", default=Path("acceptance"), metavar="DIR", help=text)

    text = "show the state of everything pushed from here, and the submissions and GPU hours left"
    add_command(group, "status", status, text, parents=[competition])


def service() -> Any:
    """Return the signed-in client and the records of the current folder."""
    from humanpref.kaggle.service.client import Client
    from humanpref.kaggle.service.records import Records

    return Client(), Records(Path.cwd())


def competition_of(records: Any, named: str | None) -> str:
    """Return the slug that the user named, or that of the inference kernel pushed from here."""
    return named or records["infer"].get("competition", DEFAULT)


def data(options: argparse.Namespace) -> int:
    from humanpref.kaggle.service.fetch import fetch_data

    client, records = service()
    names = fetch_data(client, competition_of(records, options.competition), options.out)
    print(f"{options.out}: {', '.join(names)}")
    return 0


def push(options: argparse.Namespace) -> int:
    from humanpref.kaggle.service.push import PARTS, push

    client, records = service()
    parts = [name for name in PARTS if getattr(options, name)]
    push(client, records, options.bundle, options.user, parts, options.anyway)
    for entry in map(records.__getitem__, records.latest()):
        print(f"{entry['ref']}: version {entry.get('version') or '-'}, {entry['state']}")
    return 0


def wait(options: argparse.Namespace) -> int:
    from humanpref.kaggle.service.push import wait

    for line in wait(*service(), options.anyway):
        print(line)
    return 0


def output(options: argparse.Namespace) -> int:
    from humanpref.kaggle.service.fetch import fetch_output

    kernel = "train" if options.train else "infer"
    names = fetch_output(*service(), kernel, options.out)
    print(f"{options.out}: {', '.join(names)}")
    return 0


def submit(options: argparse.Namespace) -> int:
    from humanpref.kaggle.service.submit import submit

    client, records = service()
    competition = competition_of(records, options.competition)
    submission = submit(client, records, competition, options.message, options.anyway)
    print(f"submission {submission.ref}: public score {submission.public_score or 'unknown'}")
    return 0


def accept(options: argparse.Namespace) -> int:
    from humanpref.kaggle.bundle.checkout import find_project
    from humanpref.kaggle.service.accept import accept

    table = accept(*service(), find_project(), options.user, options.out)
    print(table, end="")
    return 0 if table.splitlines()[-1].startswith("PASS") else 1


def status(options: argparse.Namespace) -> int:
    from humanpref.kaggle.service.submit import status

    client, records = service()
    for line in status(client, records, competition_of(records, options.competition)):
        print(line)
    return 0
