"""The `humanpref kaggle` commands that talk to Kaggle."""

import argparse
from pathlib import Path
from typing import Any

from humanpref.cli.shared import add_command, add_path


def add(group: Any) -> None:
    """Add the commands to the group."""
    competition = argparse.ArgumentParser(add_help=False)
    slug = "llm-classification-finetuning"
    text = "default %(default)s"
    competition.add_argument("--competition", default=slug, metavar="SLUG", help=text)
    anyway = argparse.ArgumentParser(add_help=False)
    text = "take a result that is not whole, too"
    anyway.add_argument("--anyway", action="store_true", help=text)

    text = "fetch the competition's files"
    command = add_command(group, "data", data, text, parents=[competition])
    text = "a new folder for them (default data)"
    add_path(command, "--out", default=Path("data"), metavar="DIR", help=text)

    text = "push a bundle: what is named, or all; only what is not there yet is sent"
    command = add_command(group, "push", push, text)
    command.add_argument("--user", required=True, metavar="NAME", help="your Kaggle user name")
    add_path(command, "--bundle", default=Path("bundle"), metavar="DIR", help="default bundle")
    text = "the wheel dataset, and packed weights"
    command.add_argument("--dataset", action="store_true", help=text)
    text = "the training kernel, which starts its run"
    command.add_argument("--train", action="store_true", help=text)
    text = "the inference kernel, once the training kernel that it mounts has run"
    command.add_argument("--infer", action="store_true", help=text)

    text = "wait until what was pushed from here is ready and has run"
    add_command(group, "wait", wait, text, parents=[anyway])

    text = "fetch what the pushed kernel's run left: the inference kernel's, or --train"
    command = add_command(group, "output", output, text)
    command.add_argument("--train", action="store_true", help="of the training kernel")
    text = "a new folder for it (default output)"
    add_path(command, "--out", default=Path("output"), metavar="DIR", help=text)

    text = "submit the pushed version of the inference kernel, once, and wait for its score"
    command = add_command(group, "submit", submit, text, parents=[competition, anyway])
    text = "for the list of submissions"
    command.add_argument("--message", required=True, metavar="TEXT", help=text)

    text = "where everything pushed from here stands; submissions and GPU hours left"
    add_command(group, "status", status, text, parents=[competition])


def data(options: argparse.Namespace) -> int:
    from humanpref.kaggle.service.client import Client
    from humanpref.kaggle.service.fetch import fetch_data

    names = fetch_data(Client(), options.competition, options.out)
    print(f"{options.out}: {', '.join(names)}")
    return 0


def push(options: argparse.Namespace) -> int:
    from humanpref.kaggle.bundle.assemble import KERNELS
    from humanpref.kaggle.service.client import Client
    from humanpref.kaggle.service.push import push
    from humanpref.kaggle.service.records import Records

    kernels = [name for name in KERNELS if getattr(options, name)]
    everything = not (options.dataset or kernels)
    records = Records(Path.cwd())
    push(
        Client(),
        records,
        options.bundle,
        options.user,
        datasets=options.dataset or everything,
        kernels=None if everything else kernels,
    )
    for entry in map(records.__getitem__, records.latest()):
        print(f"{entry['ref']}: version {entry.get('version', '-')}, {entry['state']}")
    return 0


def wait(options: argparse.Namespace) -> int:
    from humanpref.kaggle.service.client import Client
    from humanpref.kaggle.service.push import wait
    from humanpref.kaggle.service.records import Records

    for line in wait(Client(), Records(Path.cwd()), options.anyway):
        print(line)
    return 0


def output(options: argparse.Namespace) -> int:
    from humanpref.kaggle.service.client import Client
    from humanpref.kaggle.service.fetch import fetch_output
    from humanpref.kaggle.service.records import Records

    kernel = "train" if options.train else "infer"
    names = fetch_output(Client(), Records(Path.cwd()), kernel, options.out)
    print(f"{options.out}: {', '.join(names)}")
    return 0


def submit(options: argparse.Namespace) -> int:
    from humanpref.kaggle.service.client import Client
    from humanpref.kaggle.service.records import Records
    from humanpref.kaggle.service.submit import submit

    records = Records(Path.cwd())
    submission = submit(Client(), records, options.competition, options.message, options.anyway)
    print(f"submission {submission.ref}: public score {submission.public_score or 'not told'}")
    return 0


def status(options: argparse.Namespace) -> int:
    from humanpref.kaggle.service.client import Client
    from humanpref.kaggle.service.records import Records
    from humanpref.kaggle.service.submit import status

    for line in status(Client(), Records(Path.cwd()), options.competition):
        print(line)
    return 0
