"""The calls on a competition: its files, and the submissions to it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from humanpref.kaggle.service.client import Client, UncertainError, request


@dataclass(frozen=True)
class Submission:
    """One submission: `status` is PENDING, COMPLETE or ERROR."""

    ref: int
    description: str
    status: str
    public_score: str
    error: str


def download_files(client: Client, competition: str, path: Path) -> None:
    """Fetch the zip with all of the competition's files."""
    from kagglesdk.competitions.types.competition_api_service import ApiDownloadDataFilesRequest

    asked = request(ApiDownloadDataFilesRequest, competition_name=competition)
    method = client.competitions.download_data_files
    client.download(competition, path, lambda: method(asked))


def submit_kernel(
    client: Client, competition: str, kernel: str, version: int, file: str, description: str
) -> tuple[int, str]:
    """Submit a kernel's version; give the submission's number, 0 where there is none, and Kaggle's
    words. Sent once."""
    from kagglesdk.competitions.types.competition_api_service import ApiCreateCodeSubmissionRequest

    owner, slug = kernel.split("/")
    asked = request(
        ApiCreateCodeSubmissionRequest,
        competition_name=competition,
        kernel_owner=owner,
        kernel_slug=slug,
        kernel_version=version,
        file_name=file,
        submission_description=description,
    )
    what = f"{kernel} version {version}"
    method = client.competitions.create_code_submission
    answer = client.call(what, method, asked)
    if not (answer.ref or answer.message):
        raise UncertainError(f"{what}: Kaggle's answer does not say whether it was submitted")
    return answer.ref, client.clean(answer.message)


def get_submission(client: Client, ref: int) -> Submission:
    """One submission by its number."""
    from kagglesdk.competitions.types.competition_api_service import ApiGetSubmissionRequest

    method = client.competitions.get_submission
    asked = request(ApiGetSubmissionRequest, ref=ref)
    return _submission(client, client.read(f"submission {ref}", method, asked))


def list_submissions(client: Client, competition: str) -> Iterator[Submission]:
    """All submissions of the user's team, the newest first."""
    from kagglesdk.competitions.types.competition_api_service import ApiListSubmissionsRequest

    asked = request(ApiListSubmissionsRequest, competition_name=competition)
    method = client.competitions.list_submissions
    for answer in client.pages(competition, method, asked):
        for found in answer.submissions or ():
            yield _submission(client, found)


def submissions_left(client: Client, competition: str) -> int | None:
    """How many submissions Kaggle would still take today; None where it does not tell."""
    from kagglesdk.competitions.types.competition_api_service import ApiGetSubmissionLimitsRequest

    asked = request(ApiGetSubmissionLimitsRequest, competition_name=competition)
    method = client.competitions.get_submission_limits
    answer = client.told(competition, method, asked)
    return answer and answer.num_allowed_now


def _submission(client: Client, answer: Any) -> Submission:
    texts = (answer.description, answer.public_score, answer.error_description)
    description, score, error = (client.clean(text or "") for text in texts)
    return Submission(answer.ref, description, answer.status.name, score, error)
