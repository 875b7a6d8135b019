"""A fault that passes costs nothing, one that stays is one line, and no key gets out: the commands
and the real client against a service that misbehaves."""

import importlib.util

import pytest

from ..loopback import KEY, USER, Reply, garbled, half_an_upload, lost, refusal, slow
from ..sampled import sampled
from .bundles import (
    CREATE,
    DOWNLOAD,
    IMPATIENT,
    LIMITS,
    PAGE,
    PUSH,
    RUN_STATUS,
    SAVE_KERNEL,
    STATUS,
    SUBMIT,
    TRAIN,
    TRICKLE,
    assert_once,
    records,
)

pytestmark = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("kaggle", "kagglesdk", "six")),
    reason="needs the Kaggle client: pip install 'humanpref[kaggle]'",
)


@pytest.mark.parametrize(
    ("call", "faults"),
    sampled(
        [
            (STATUS, [Reply(status=500)]),
            (STATUS, [None, None]),
            (STATUS, [refusal(429, "Too many requests"), refusal(503, "Unavailable")]),
            (STATUS, [TRICKLE]),
            (STATUS, [Reply(PAGE)]),
            (STATUS, [Reply({"status": "A_NEW_STATE"})]),
            ("BlobApiService/StartBlobUpload", [None, refusal(429, "Too many requests")]),
            ("BlobApiService/StartBlobUpload", [refusal(500, "Internal error")]),
            ("BlobApiService/StartBlobUpload", [Reply({})]),
            ("BlobApiService/StartBlobUpload", [Reply([])]),
            ("BlobApiService/StartBlobUpload", [Reply({"token": "token-1"})]),
            ("PUT /upload/token-1", [half_an_upload]),
            ("PUT /upload/token-1", [half_an_upload, Reply(status=500)]),
            ("PUT /upload/token-2", [None]),
            ("PUT /upload/token-1", [Reply(status=400)]),
            ("PUT /upload/token-1", [half_an_upload, Reply(status=404)]),
            (CREATE, [None]),
            (CREATE, [lost]),
            (CREATE, [garbled({})]),
            (CREATE, [garbled(PAGE)]),
            (CREATE, [Reply(PAGE, status=403)]),
            (CREATE, [refusal(409, "Conflict")]),
            (CREATE, [refusal(500, "Internal error"), lost]),
            (CREATE, [refusal(429, "Too many requests")]),
            (CREATE, [TRICKLE]),
            (DOWNLOAD, [slow(0.01)]),
            (SAVE_KERNEL, [None]),
            (SAVE_KERNEL, [lost]),
            (SAVE_KERNEL, [Reply({"code": 500, "message": "an error in a 200"})]),
            (SAVE_KERNEL, [Reply({})]),
            (SAVE_KERNEL, [Reply(PAGE, status=403)]),
            *(
                (SAVE_KERNEL, [garbled(value)])
                for value in (PAGE, {}, [], [1], "", {"ref": f"/code/{TRAIN}"}, {"error": {}})
            ),
            (SAVE_KERNEL, [refusal(409, "Conflict"), refusal(429, "Too many requests"), lost]),
            (SAVE_KERNEL, [TRICKLE]),
            (RUN_STATUS, [None, refusal(503, "Unavailable")]),
            (SUBMIT, [None]),
            (SUBMIT, [lost]),
            (SUBMIT, [refusal(500, "Internal error")]),
            (SUBMIT, [garbled({})]),
            (SUBMIT, [garbled(PAGE)]),
            (SUBMIT, [Reply({})]),
            (SUBMIT, [TRICKLE]),
            (
                "CompetitionApiService/GetSubmission",
                [None, TRICKLE, refusal(500, "Internal error")],
            ),
            (LIMITS, [refusal(404, "Not found")]),
            (LIMITS, [None]),
        ],
        every=20,
    ),
)
def test_a_fault_that_passes_costs_nothing(run, service, call, faults):
    service.next_run = ["COMPLETE"]
    service.processing = 1
    service.queue(call, *faults)
    limits = {"limits": IMPATIENT} if TRICKLE in faults else {}
    pushed = run(*PUSH, **limits)
    assert pushed.code == 0, pushed.err
    submitted = run("submit", "--message", "m", **limits)
    assert submitted.code == 0, submitted.err
    assert len(service.received(call)) >= len(faults)
    assert_once(service)


def failed_if_there(request, usual):
    reply = usual(request)
    return Reply({"status": "FAILED"}) if reply.status == 200 else reply


@pytest.mark.parametrize(
    ("call", "fault", "words"),
    sampled(
        [
            (STATUS, refusal(401, "Unauthenticated"), "does not accept these credentials"),
            (STATUS, refusal(500, f"Internal error for {KEY}"), "Internal error for ***"),
            (STATUS, None, "no answer from Kaggle"),
            (STATUS, TRICKLE, "no answer from Kaggle"),
            (STATUS, failed_if_there, "could not create the dataset"),
            (
                "BlobApiService/StartBlobUpload",
                refusal(403, "Upload quota exceeded"),
                "Upload quota exceeded",
            ),
            ("PUT /upload/token-*", Reply(status=400), "only 0 of 4 files were uploaded"),
            (
                CREATE,
                Reply({"status": "error", "error": "The title is in use"}),
                "The title is in use",
            ),
            (CREATE, refusal(409, "The title is already in use"), "already in use (HTTP 409)"),
            (CREATE, refusal(400, "Invalid license"), "Invalid license"),
            (CREATE, refusal(500, "Internal error"), "Internal error"),
            (CREATE, None, "no answer from Kaggle"),
            (DOWNLOAD, refusal(404, "Not found"), "not with the manifest that was pushed"),
            (SAVE_KERNEL, Reply({"error": "This kernel is locked"}), "This kernel is locked"),
            (
                SAVE_KERNEL,
                Reply({"error": {"message": "This kernel is locked"}}),
                "This kernel is locked",
            ),
            (
                SAVE_KERNEL,
                Reply({"error": {"code": 400, "message": "No quota"}}, status=400),
                "No quota (HTTP 400)",
            ),
            (
                SAVE_KERNEL,
                Reply({"code": "INVALID_ARGUMENT", "message": "No quota"}, status=400),
                "No quota (HTTP 400)",
            ),
            (
                STATUS,
                Reply({"error": {"code": 401, "message": "Who?"}}, status=401),
                "does not accept these credentials",
            ),
            (
                SAVE_KERNEL,
                Reply({"ref": f"/code/{USER}/another", "versionNumber": 1}),
                "derived a different kernel",
            ),
            (
                SAVE_KERNEL,
                refusal(403, "Phone verification required"),
                "Phone verification required",
            ),
            (SAVE_KERNEL, refusal(429, "Too many requests"), "Too many requests"),
            (
                RUN_STATUS,
                Reply({"status": "CANCEL_ACKNOWLEDGED"}),
                "the run ended with CANCEL_ACKNOWLEDGED",
            ),
        ],
        every=20,
    ),
)
def test_a_fault_that_stays_is_one_line_and_no_success(run, service, folder, call, fault, words):
    usual = service.answers.get(call)
    service.answers[call] = lambda request: fault(request, usual) if callable(fault) else fault
    if call.startswith("PUT"):
        for number in range(1, 50):
            service.queue(call.replace("*", str(number)), *[fault] * 20)
    failed = run(*PUSH, **({"limits": IMPATIENT} if fault is TRICKLE else {}))
    assert failed.code == 2
    assert failed.out == ""
    last = failed.err.splitlines()[-1]
    assert last.startswith("humanpref: ")
    assert words in last
    if (folder / ".humanpref" / "pushes.json").exists():
        assert records(folder).get("infer", {}).get("state") != "done"


@pytest.mark.parametrize("call", sampled([CREATE, SAVE_KERNEL], every=2))
def test_a_title_in_use_is_told_at_once(run, service, call):
    service.answers[call] = lambda request: refusal(409, "The title is already in use")
    failed = run(*PUSH)
    assert failed.code == 2
    assert "The title is already in use (HTTP 409)" in failed.err.splitlines()[-1]
    assert len(service.received(call)) == 1


@pytest.mark.parametrize(
    ("call", "reply", "words"),
    [
        (RUN_STATUS, None, "no answer from Kaggle"),
        (RUN_STATUS, refusal(401, "Unauthenticated"), "does not accept these credentials"),
        (LIMITS, refusal(401, "Unauthenticated"), "does not accept these credentials"),
    ],
)
def test_a_status_that_cannot_be_told(run, service, call, reply, words):
    assert run(*PUSH, "--dataset", "--train").code == 0
    service.answers[call] = lambda request: reply
    failed = run("status")
    assert failed.code == 2
    assert words in failed.err.splitlines()[-1]


def test_a_status_without_what_kaggle_does_not_tell(run, service):
    service.answers[LIMITS] = lambda request: None
    told = run("status")
    assert told.code == 0
    assert "submissions left today: unknown" in told.out
    assert "no answer from Kaggle" in told.err


def test_the_key_is_nowhere(run, service, folder):
    service.queue(STATUS, refusal(500, f"who sent {KEY}?"))
    assert run(*PUSH).code == 0
    assert run("submit", "--message", f"with {KEY}").code == 0
    assert run("output").code == 0
    for path in folder.rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes(), path
    assert "***" in service.submissions[0]["description"]
