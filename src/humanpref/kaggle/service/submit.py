"""Submit a kernel's version to the competition, wait for its score, and report the state of
everything sent so far."""

import logging
from collections.abc import Iterator
from typing import Any

from humanpref.kaggle.service.client import Client, RefusedError, ServiceError, SignInError
from humanpref.kaggle.service.competitions import (
    Submission,
    get_submission,
    list_submissions,
    submissions_left,
    submit_kernel,
)
from humanpref.kaggle.service.datasets import dataset_status
from humanpref.kaggle.service.kernels import gpu_hours, run_status
from humanpref.kaggle.service.records import SUBMISSION, Records, describe
from humanpref.kaggle.service.results import check_whole, wait_for_run
from humanpref.kaggle.service.scores import note
from humanpref.kaggle.service.waiting import poll, send_once
from humanpref.schema import InputError

logger = logging.getLogger(__name__)

SUBMISSION_FILE = "submission.csv"
SCORE_SECONDS = 24 * 3_600
"""Maximum number of seconds to wait for the hidden rerun, which takes up to 9 hours and may first
be queued."""


def submit(
    client: Client, records: Records, competition: str, message: str, anyway: bool = False
) -> Submission:
    """Submit the recorded version of the inference kernel, and wait for its score.

    Each version is submitted only once. A submission's description starts with a tag made of the
    kernel, its version and a digest of the pushed code and inputs; before anything is sent, the
    team's submissions are searched for that tag. After an interruption, the same command resumes
    waiting. A result that is incomplete, or that does not belong to the bundle pushed last, is
    submitted only with `anyway`.

    Raises
    ------
    InputError
        If there is no finished push, if its run or the hidden rerun failed, if its result is
        incomplete, if it was pushed for another competition, or if Kaggle accepts no more
        submissions today.
    """
    if not message.strip():
        raise InputError("--message: expected text for the list of submissions, got none")
    with records.locked():
        kernel = records.require("infer", "push --infer")
        if source := records.outdated("infer"):
            raise InputError(
                f"{describe(kernel)}: was pushed before the last push of {source}; run humanpref "
                "kaggle push"
            )
        if (pushed := kernel.get("competition", competition)) != competition:
            raise InputError(f"--competition {competition}: the kernel was pushed for {pushed}")
        wait_for_run(client, records, "infer")
        left = check_whole(client, kernel, anyway)
        ref, version = kernel["ref"], kernel["version"]
        # The tag comes first, so that it survives if the description is truncated. It includes the
        # digest, because a kernel that is deleted and recreated restarts its versions at 1.
        tag = f"[{ref} v{version} {kernel['digest'][:8]}]"
        description = client.clean(f"{tag} {message}")
        entry = {"ref": ref, "competition": competition, "tag": tag, "description": description}
        retried = records.has(SUBMISSION, "failed", tag=tag)

        def find() -> int | None:
            for submission in list_submissions(client, competition):
                # After a failure, the same version may be submitted again.
                failed_before = retried and submission.status == "ERROR"
                if submission.description.startswith(tag) and not failed_before:
                    return submission.ref
            return None

        def send() -> int:
            with records.sending(SUBMISSION, **entry):
                return submit_kernel(
                    client, competition, ref, version, SUBMISSION_FILE, description
                )

        number = find()
        if number is None:
            if submissions_left(client, competition) == 0:
                raise InputError(
                    f"{competition}: no submissions are left today; the count resets at 00:00 UTC"
                )
            number = send_once(send, lambda: records.has(SUBMISSION, "sending", tag=tag), find)
        else:
            logger.info("%s version %d was already submitted as %d", ref, version, number)
        records.write(SUBMISSION, "done", **entry, number=number)
        note(records, number, client.clean(message), left)
    return wait_for_score(client, records, number)


def wait_for_score(client: Client, records: Records, number: int) -> Submission:
    """Wait until a submission is scored, record the score, and return the submission."""

    def check() -> tuple[Submission | None, str]:
        submission = get_submission(client, number)
        if submission.status == "ERROR":
            records.update(SUBMISSION, state="failed")
            raise ServiceError(
                f"submission {number}: failed: {submission.error or 'Kaggle gives no reason'}"
            )
        return (submission if submission.status == "COMPLETE" else None), submission.status

    submission = poll(check, f"submission {number}", SCORE_SECONDS)
    records.update(SUBMISSION, score=submission.public_score)
    return submission


def status(client: Client, records: Records, competition: str) -> Iterator[str]:
    """Yield a line with the state of each push and of the submission, a line with the number of
    submissions left today, and a line with the GPU hours used this week."""
    for name, entry in records.entries.items():
        try:
            yield entry_status(client, name, entry)
        except SignInError:
            raise
        except RefusedError as error:
            yield str(error)
    if not records.entries:
        yield f"{records.path}: nothing has been pushed from here"
    left, hours = submissions_left(client, competition), gpu_hours(client)
    yield f"submissions left today: {'unknown' if left is None else left}"
    used = "{:.1f} of {:.1f} hours used".format(*hours) if hours else "unknown"
    yield f"GPU this week: {used}"


def entry_status(client: Client, name: str, entry: dict[str, Any]) -> str:
    """Return a line about the state of an entry in the records."""
    if "number" in entry:
        submission = get_submission(client, entry["number"])
        result = f"{submission.status} {submission.public_score or submission.error}".rstrip()
        return f"submission {submission.ref}: {result}, {entry['tag']}"
    if entry["state"] != "done":
        kind = SUBMISSION if name == SUBMISSION else "push"
        return f"{describe(entry)}: the last {kind} is not done; its state is {entry['state']}"
    if "marker" in entry:
        state = dataset_status(client, entry["ref"]) or "missing"
    else:
        state = " ".join(run_status(client, entry["ref"])).rstrip()
    return f"{describe(entry)}: {state}"
