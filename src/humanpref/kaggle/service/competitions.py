"""Calls about a competition: its files and its submissions."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from humanpref.kaggle.service.client import Client, UncertainError, request_for


@dataclass(frozen=True)
class Submission:
    """One submission; `status` is PENDING, COMPLETE or ERROR."""

    ref: int
    description: str
    status: str
    public_score: str
    error: str


def download_files(client: Client, competition: str, path: Path) -> None:
    """Download the zip file with all of the competition's files."""
    method = client.competitions.download_data_files
    request = request_for(method, competition_name=competition)
    client.download(competition, path, lambda: method(request))


def submit_kernel(
    client: Client, competition: str, kernel: str, version: int, file: str, description: str
) -> int:
    """Submit a kernel's version without retrying, and return the submission's ID."""
    owner, slug = kernel.split("/")
    what = f"{kernel} version {version}"
    answer = client.call(
        what,
        client.competitions.create_code_submission,
        competition_name=competition,
        kernel_owner=owner,
        kernel_slug=slug,
        kernel_version=version,
        file_name=file,
        submission_description=description,
    )
    if not answer.ref:
        raise UncertainError(
            f"{what}: expected the submission's ID from Kaggle, got "
            f"{client.clean(answer.message) or 'nothing'}"
        )
    return answer.ref


def get_submission(client: Client, ref: int) -> Submission:
    """Return the submission with this ID."""
    method = client.competitions.get_submission
    return _submission(client, client.read(f"submission {ref}", method, ref=ref))


def list_submissions(client: Client, competition: str) -> Iterator[Submission]:
    """Yield all submissions of the user's team, newest first."""
    method = client.competitions.list_submissions
    for page in client.pages(competition, method, competition_name=competition):
        for answer in page.submissions or ():
            yield _submission(client, answer)


def submissions_left(client: Client, competition: str) -> int | None:
    """Return how many more submissions Kaggle accepts today; None if Kaggle does not say."""
    method = client.competitions.get_submission_limits
    answer = client.ask(competition, method, competition_name=competition)
    return answer and answer.num_allowed_now


def _submission(client: Client, answer: Any) -> Submission:
    texts = (answer.description, answer.public_score, answer.error_description)
    description, score, error = (client.clean(text or "") for text in texts)
    return Submission(answer.ref, description, answer.status.name, score, error)
