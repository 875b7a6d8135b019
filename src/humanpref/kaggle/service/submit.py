"""Submit a kernel's version to the competition, wait for its score, and say where everything
stands."""

import logging
from collections.abc import Iterator
from typing import Any

from humanpref.kaggle.service.client import (
    BusyError,
    Client,
    RefusedError,
    ServiceError,
    SignInError,
)
from humanpref.kaggle.service.competitions import (
    Submission,
    get_submission,
    list_submissions,
    submissions_left,
    submit_kernel,
)
from humanpref.kaggle.service.datasets import dataset_status
from humanpref.kaggle.service.kernels import gpu_hours, run_status
from humanpref.kaggle.service.records import Records, describe
from humanpref.kaggle.service.results import check_whole, wait_for_run
from humanpref.kaggle.service.waiting import poll, send_once
from humanpref.schema import InputError

logger = logging.getLogger(__name__)

SUBMISSION_FILE = "submission.csv"
SCORE_SECONDS = 24 * 3_600
"""How long the hidden rerun may take: 9 hours, and the queue before it."""


def submit(
    client: Client, records: Records, competition: str, message: str, anyway: bool = False
) -> Submission:
    """Submit the recorded version of the inference kernel, and wait for its score.

    One version is submitted once: each description starts with the kernel, its version and a digest
    of what was pushed, and is looked for among the team's submissions first. Interrupted, the same
    command goes on waiting. A result that is not whole, or that is of another bundle than the one
    pushed last, is not submitted, unless `anyway`.

    Raises
    ------
    InputError
        If there is no finished push, its run or the hidden rerun failed, its result is not to be
        submitted, or Kaggle takes no more submissions today.
    """
    if not message.strip():
        raise InputError("--message: expected some words for the list of submissions, got none")
    with records.locked():
        kernel = records.require("infer", "push --infer")
        if source := records.outdated("infer"):
            raise InputError(
                f"{describe(kernel)}: was pushed before the last push of {source}: humanpref "
                "kaggle push"
            )
        wait_for_run(client, records, "infer")
        check_whole(client, records, "infer", anyway)
        ref, version = kernel["ref"], kernel["version"]
        # First, so that it survives a description that is cut off; with the digest, since a kernel
        # that was deleted and made anew counts its versions from 1.
        tag = f"[{ref} v{version} {kernel['digest'][:8]}]"
        description = client.clean(f"{tag} {message}")

        again = _state(records, tag) == "failed"

        def find() -> int | None:
            # One that is known to have failed may be sent again.
            found = (
                each
                for each in list_submissions(client, competition)
                if each.description.startswith(tag)
            )
            return next(
                (each.ref for each in found if not (again and each.status == "ERROR")), None
            )

        def send() -> int:
            records.sending(
                "submission", ref=ref, competition=competition, tag=tag, description=description
            )
            try:
                number, answer = submit_kernel(
                    client, competition, ref, version, SUBMISSION_FILE, description
                )
            except (BusyError, RefusedError):
                records.became("submission", "refused")
                raise
            number = number or find()
            if number is None:
                raise ServiceError(
                    f"{competition}: Kaggle gave the submission no number: "
                    f"{answer or 'without a reason'}"
                )
            return number

        number = find()
        if number is None:
            if submissions_left(client, competition) == 0:
                raise InputError(
                    f"{competition}: no submission is left today; the count starts anew at 00:00 "
                    "UTC"
                )
            number = send_once(send, lambda: _state(records, tag) == "sending", find)
        else:
            logger.info("submission %d is %s version %d already", number, ref, version)
            if not _state(records, tag):
                records.sending(
                    "submission", ref=ref, competition=competition, tag=tag, description=description
                )
        records.became("submission", "done", number=number)
    return wait_for_score(client, records, number)


def wait_for_score(client: Client, records: Records, number: int) -> Submission:
    """Wait until a submission is scored, and write the score down."""

    def check() -> tuple[Submission | None, str]:
        submission = get_submission(client, number)
        if submission.status == "ERROR":
            records.became("submission", "failed")
            raise ServiceError(
                f"submission {number}: failed: {submission.error or 'Kaggle gives no reason'}"
            )
        return (submission if submission.status == "COMPLETE" else None), submission.status

    submission = poll(check, f"submission {number}", SCORE_SECONDS)
    records.became("submission", "done", score=submission.public_score)
    return submission


def status(client: Client, records: Records, competition: str) -> Iterator[str]:
    """Say line by line what was pushed and submitted from here, where it stands, and what is left
    for today."""
    for name, entry in records.items():
        try:
            yield _standing(client, name, entry)
        except SignInError:
            raise
        except RefusedError as error:
            yield str(error)
    if not records.items():
        yield f"{records.path}: nothing was pushed from here"
    left, hours = submissions_left(client, competition), gpu_hours(client)
    yield f"submissions left today: {'Kaggle does not tell' if left is None else left}"
    yield "GPU this week: " + (
        f"{hours[0]:.1f} of {hours[1]:.1f} hours used" if hours else "Kaggle does not tell"
    )


def _standing(client: Client, name: str, entry: dict[str, Any]) -> str:
    what = describe(entry)
    if name == "submission" and "number" in entry:
        found = get_submission(client, entry["number"])
        return (
            f"submission {found.ref}: {found.status} {found.public_score or found.error}".rstrip()
            + f", {entry['tag']}"
        )
    if entry["state"] != "done":
        return (
            f"{what}: the last {'submission' if name == 'submission' else 'push'} is not done, but "
            f"{entry['state']}"
        )
    # A dataset has a manifest.
    state = (
        dataset_status(client, entry["ref"])
        if "marker" in entry
        else " ".join(run_status(client, entry["ref"]))
    )
    return f"{what}: {state or 'not there'}".rstrip()


def _state(records: Records, tag: str) -> str:
    entry = records["submission"]
    return entry["state"] if entry.get("tag") == tag else ""
