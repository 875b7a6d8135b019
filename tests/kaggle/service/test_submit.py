"""Submitting: once, and again only what failed."""

import importlib.util

import pytest

from ..loopback import Reply
from .bundles import INFER, PUSH, SUBMIT

pytestmark = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("kaggle", "kagglesdk", "six")),
    reason="needs the Kaggle client: pip install 'humanpref[kaggle]'",
)


@pytest.mark.slow
def test_a_submission_that_fails_can_be_sent_again(run, service):
    service.score = ["PENDING", "ERROR"]
    assert run(*PUSH).code == 0
    failed = run("submit", "--message", "m")
    assert failed.code == 2
    assert failed.err.splitlines()[-1] == "humanpref: submission 1001: failed: Notebook Timeout"
    service.score = ["COMPLETE"]
    assert run("submit", "--message", "m").out == "submission 1002: public score 1.01234\n"
    assert run("submit", "--message", "m").out == "submission 1002: public score 1.01234\n"


def test_a_kernel_is_submitted_to_the_competition_that_it_was_bundled_for(run, service):
    assert run(*PUSH).code == 0
    failed = run("submit", "--message", "m", "--competition", "lmsys-chatbot-arena")
    assert failed.code == 2
    assert failed.err.splitlines()[-1].endswith(
        "--competition lmsys-chatbot-arena: the kernel was pushed for llm-classification-finetuning"
    )
    assert not service.received(SUBMIT)


def test_submissions_of_others_are_no_obstacle(run, service):
    assert run(*PUSH).code == 0
    service.submissions += [
        {
            "ref": n,
            "description": f"[{INFER} v2 00000000] by hand",
            "fileName": "x",
            "states": ["ERROR"],
        }
        for n in range(5)
    ]
    assert run("submit", "--message", "m").out == "submission 1006: public score 1.01234\n"


def test_no_submission_left(run, service):
    assert run(*PUSH).code == 0
    service.submissions_left = 0
    failed = run("submit", "--message", "m")
    assert failed.code == 2
    assert "no submissions are left today" in failed.err
    assert not service.received(SUBMIT)


@pytest.mark.slow
def test_the_daily_allowance_in_a_nested_body(run, service):
    assert run(*PUSH).code == 0
    said = {
        "error": {
            "code": 400,
            "message": "Your team has used its daily allowance",
            "status": "INVALID_ARGUMENT",
        }
    }
    service.queue(SUBMIT, Reply(said, status=400))
    failed = run("submit", "--message", "m")
    assert failed.code == 2
    assert failed.err.splitlines()[-1].endswith(
        f"{INFER} version 1: Your team has used its daily allowance (HTTP 400)"
    )
    assert not service.submissions
    # It was said, so nothing has to be looked for the next time.
    assert run("submit", "--message", "m").code == 0
