"""The calls on a competition: what is asked, and how each answer is read."""

from types import SimpleNamespace

import pytest

from humanpref.kaggle.service.client import RefusedError, UncertainError
from humanpref.kaggle.service.competitions import (
    Submission,
    download_files,
    get_submission,
    list_submissions,
    submissions_left,
    submit_kernel,
)

from ..loopback import KEY
from .played import answering


def shown(ref, status="COMPLETE", description="d", score="1.0", error=None):
    state = SimpleNamespace(name=status)
    return SimpleNamespace(
        ref=ref, status=state, description=description, public_score=score, error_description=error
    )


def test_submit_kernel(client):
    method = answering(
        SimpleNamespace(ref=1001, message="ok"),
        SimpleNamespace(ref=0, message=f"odd {KEY}"),
        SimpleNamespace(ref=0, message=""),
    )
    client.competitions = SimpleNamespace(create_code_submission=method)
    submission = ("a-competition", "me/a-kernel", 3, "submission.csv", "words")
    assert submit_kernel(client, *submission) == 1001
    assert method.asked == [
        {
            "competition_name": "a-competition",
            "kernel_owner": "me",
            "kernel_slug": "a-kernel",
            "kernel_version": 3,
            "file_name": "submission.csv",
            "submission_description": "words",
        }
    ]
    # Without a number it may be there or not.
    with pytest.raises(UncertainError, match=r"me/a-kernel version 3: .* got odd \*\*\*$"):
        submit_kernel(client, *submission)
    with pytest.raises(UncertainError, match=r"got nothing$"):
        submit_kernel(client, *submission)


def test_submissions(client):
    pages = [
        SimpleNamespace(submissions=[shown(3, "PENDING", score=None)], next_page_token="2"),
        SimpleNamespace(submissions=None, next_page_token="3"),
        SimpleNamespace(submissions=[shown(2, "ERROR", error="late")], next_page_token=""),
    ]
    client.competitions = SimpleNamespace(
        list_submissions=answering(*pages), get_submission=answering(shown(3))
    )
    assert list(list_submissions(client, "a-competition")) == [
        Submission(3, "d", "PENDING", "", ""),
        Submission(2, "d", "ERROR", "1.0", "late"),
    ]
    assert get_submission(client, 3) == Submission(3, "d", "COMPLETE", "1.0", "")
    assert client.competitions.get_submission.asked == [{"ref": 3}]


def test_submissions_left(client):
    method = answering(
        SimpleNamespace(num_allowed_now=4), SimpleNamespace(num_allowed_now=0), RefusedError("no")
    )
    client.competitions = SimpleNamespace(get_submission_limits=method)
    assert [submissions_left(client, "a-competition") for _ in range(3)] == [4, 0, None]


def test_download_files(client, tmp_path):
    response = SimpleNamespace(iter_content=lambda size: iter([b"PK", b"..."]))
    client.competitions = SimpleNamespace(download_data_files=answering(response))
    download_files(client, "a-competition", tmp_path / "data.zip")
    assert (tmp_path / "data.zip").read_bytes() == b"PK..."
    assert client.competitions.download_data_files.asked == [{"competition_name": "a-competition"}]
