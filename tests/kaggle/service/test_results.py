"""What a run left is of the bundle that was pushed, and whole."""

import importlib.util

import pytest

from ..loopback import KEY
from ..sampled import sampled
from .bundles import INFER, PUSH, TRAIN, left_whole

pytestmark = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("kaggle", "kagglesdk", "six")),
    reason="needs the Kaggle client: pip install 'humanpref[kaggle]'",
)


@pytest.mark.slow
def test_the_log_of_a_run_that_failed(run, service):
    service.next_run = ["RUNNING", "ERROR"]
    service.failure = "Your notebook tried to allocate more memory than is available."
    service.log = "".join(f"line {n}\n" for n in range(50)) + f"RuntimeError: {KEY}\n"
    assert run(*PUSH, "--dataset", "--train").code == 0
    failed = run("wait")
    assert failed.code == 2
    lines = failed.err.splitlines()
    assert lines[-1].endswith(f"{TRAIN} version 1: the run ended with ERROR: {service.failure}")
    shown = [line for line in lines if line.startswith("  ")]
    assert shown == [*(f"  line {n}" for n in range(31, 50)), "  RuntimeError: ***"]
    whole = run("output", "--train", "--log")
    assert whole.out.splitlines() == [*(f"line {n}" for n in range(50)), "RuntimeError: ***"]
    assert run(*PUSH, "--infer").code == 2
    # A run that failed may be tried again as it is.
    service.next_run = ["COMPLETE"]
    assert run(*PUSH).code == 0
    assert [len(service.kernels[TRAIN]), len(service.kernels[INFER])] == [2, 1]


@pytest.mark.parametrize(
    ("left", "words"),
    sampled(
        [
            (None, "it left no status.json"),
            (lambda code: b"{}", "its status.json does not say whether it is complete"),
            (lambda code: b"[]", "its status.json does not say whether it is complete"),
            (lambda code: b"\xff", "its status.json does not say whether it is complete"),
            (
                lambda code: left_whole(code, manifest=""),
                "it ran on a dataset (none) other than the one pushed (manifest ",
            ),
            (
                lambda code: left_whole(code, manifest="0" * 64),
                "it ran on a dataset (manifest 00000000) other than the one",
            ),
            (
                lambda code: left_whole(code, degraded=["3 of 8 rows have the prior", "no GPU"]),
                "have the prior; no GPU",
            ),
        ],
        every=12,
    ),
)
def test_a_result_that_is_not_whole(run, service, folder, left, words):
    service.outputs["status.json"] = left
    if left is None:
        del service.outputs["status.json"]
    assert run(*PUSH).code == 0
    for command in (("wait",), ("submit", "--message", "m")):
        failed = run(*command)
        assert failed.code == 2
        (line,) = (line for line in failed.err.splitlines() if "is incomplete" in line)
        assert line.startswith("humanpref: ")
        assert "version 1 is incomplete (--anyway accepts it as it is): " in line
        assert words in line
    assert not service.submissions
    assert words.rpartition("; ")[2] in run("output").err
    assert run("wait", "--anyway").code == 0
    submitted = run("submit", "--message", "m", "--anyway")
    assert submitted.code == 0, submitted.err
    assert words in submitted.err
    assert len(service.submissions) == 1
