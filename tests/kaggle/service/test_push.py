"""From a bundle to a score: our commands and the real client against the loopback service, which
may misbehave."""

import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
from pathlib import Path

import pytest

from humanpref.arena import write_arena
from humanpref.files import read_json, sha256, write_json
from humanpref.kaggle.bundle.metadata import DATASET_METADATA, KERNEL_METADATA, read_metadata
from humanpref.kaggle.contract import COMPETITION

from ..commands import Commands
from ..loopback import KEY, USER, Reply, Service, garbled, half_an_upload, lost, refusal, slow
from ..sampled import sampled

ROOT = Path(__file__).parents[3]
MARKER = "humanpref-dataset.json"
WHEELS, TRAIN, INFER = (f"{USER}/humanpref-{name}" for name in ("wheels", "train", "infer"))

SAVE_KERNEL, SUBMIT = "KernelsApiService/SaveKernel", "CompetitionApiService/CreateCodeSubmission"
CREATE, VERSION = "DatasetApiService/CreateDataset", "DatasetApiService/CreateDatasetVersion"

pytestmark = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("kaggle", "kagglesdk", "six")),
    reason="needs the Kaggle client: pip install 'humanpref[kaggle]'",
)


@pytest.fixture(scope="session")
def commands(tmp_path_factory):
    commands = Commands(tmp_path_factory.mktemp("home"))
    yield commands
    commands.close()


@pytest.fixture
def service():
    with Service(competitions=(COMPETITION,)) as service:
        service.outputs = {
            "submission.csv": b"id\n1\n",
            "logs/infer.log": b"fine\n",
            "status.json": left_whole,
        }
        yield service


def left_whole(code, **values):
    """The status.json of a run in which nothing went wrong: the dataset was the one that the code
    insists on."""
    return json.dumps({"manifest": inside(code), "degraded": [], **values}).encode()


def inside(code):
    """The digest that stands in a kernel's code, a script's or a notebook's."""
    (digest,) = re.findall(r'MANIFEST = \\?"(\w*)', code)
    return digest


@pytest.fixture
def folder(tmp_path):
    """A folder to work in, with a bundle."""
    stage(tmp_path / "bundle")
    return tmp_path


@pytest.fixture
def run(commands, service, folder):
    """Run `humanpref kaggle …`; the key is in none of its output."""

    def run(*arguments, **options):
        finished = commands.run(service, folder, "kaggle", *arguments, **options)
        assert KEY not in finished.out + finished.err
        assert "Traceback" not in finished.err
        return finished

    return run


PUSH = ("push", "--user", USER)

IMPATIENT = (0.5, 1.0)
TRICKLE = slow(0.1)
"""Two seconds for an answer, never half a second without a byte."""


def needs_setuptools() -> None:
    """Skip without setuptools; not by importing it, which it forbids where another module has
    imported distutils."""
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("needs setuptools")


def stage(bundle, content=b"stands for a wheel", preset="tiny"):
    """A bundle as `humanpref kaggle bundle` lays it out, with stand-ins for the large files; no
    preset: nothing is trained."""
    dataset = bundle / "dataset"
    (dataset / "artifacts" / "one").mkdir(parents=True, exist_ok=True)
    (dataset / "humanpref-0-py3-none-any.whl").write_bytes(content)
    (dataset / "run.toml").write_text(f'preset = "{preset}"\n')
    (dataset / "artifacts" / "one" / "metrics.json").write_text("{}")
    names = ("artifacts/one/metrics.json", "humanpref-0-py3-none-any.whl", "run.toml")
    files = [
        {"name": name, "bytes": (dataset / name).stat().st_size, "sha256": sha256(dataset / name)}
        for name in names
    ]
    write_json(dataset / MARKER, {"format": 1, "version": "0", "files": files})
    write_json(dataset / DATASET_METADATA, read_metadata(ROOT / DATASET_METADATA))
    lines = ("import os\n", 'MANIFEST = ""\n', "print(os)")
    notebook = {"cells": [cell(*lines)], "metadata": {"kernelspec": {"name": "python3"}}}
    code = {"train": 'MANIFEST = ""\nprint("trained")\n', "infer": json.dumps(notebook)}
    for name, path in (
        ("train", ROOT / "kernel" / "train" / KERNEL_METADATA),
        ("infer", ROOT / KERNEL_METADATA),
    ):
        metadata = read_metadata(path)
        if not preset:
            metadata["kernel_sources"] = []
        target = bundle / name / metadata["code_file"]
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(code[name])
        write_json(bundle / name / KERNEL_METADATA, metadata)
    if not preset:
        shutil.rmtree(bundle / "train")


def cell(*lines):
    return {
        "cell_type": "code",
        "source": list(lines),
        "metadata": {},
        "outputs": [],
        "execution_count": None,
    }


def change(path, **values):
    write_json(path, read_json(path) | values)


def records(folder):
    return read_json(folder / ".humanpref" / "pushes.json")


# All goes well.


def test_from_a_bundle_to_a_score(run, service, folder):
    service.processing = 3
    pushed = run(*PUSH)
    assert pushed.code == 0, pushed.err
    assert pushed.out.splitlines() == [
        f"{name}: version 1, done" for name in (WHEELS, TRAIN, INFER)
    ]
    assert set(service.datasets[WHEELS]) == {
        MARKER,
        "humanpref-0-py3-none-any.whl",
        "run.toml",
        "artifacts.zip",
    }
    assert service.kernels[TRAIN][0]["datasetDataSources"] == [WHEELS]
    # The inference kernel mounts the training kernel's output, so that has to be there first.
    calls = [request.call for request in service.requests]
    statuses = [
        i for i, call in enumerate(calls) if call == "KernelsApiService/GetKernelSessionStatus"
    ]
    first, second = (i for i, call in enumerate(calls) if call == SAVE_KERNEL)
    assert len([i for i in statuses if first < i < second]) == 3

    assert run("wait").out.splitlines() == [
        f"{WHEELS} version 1: ready",
        f"{TRAIN} version 1: COMPLETE",
        f"{INFER} version 1: COMPLETE",
    ]
    fetched = run("output")
    assert fetched.code == 0, fetched.err
    assert {
        path.relative_to(folder / "output").as_posix() for path in (folder / "output").rglob("*.*")
    } == {*service.outputs, "humanpref-infer.log"}
    assert (folder / "output" / "logs" / "infer.log").read_bytes() == b"fine\n"

    scored = run("submit", "--message", "a first try")
    assert (scored.code, scored.out) == (0, "submission 1001: public score 1.01234\n")
    (submission,) = service.submissions
    assert submission["kernel"] == (INFER, 1)
    assert submission["fileName"] == "submission.csv"
    assert submission["description"].endswith("] a first try")

    said = run("status").out.splitlines()
    assert said[:3] == [
        f"{WHEELS} version 1: READY",
        f"{TRAIN} version 1: COMPLETE",
        f"{INFER} version 1: COMPLETE",
    ]
    assert said[3].startswith("submission 1001: COMPLETE 1.01234, [some-user/humanpref-infer v1 ")
    assert said[4:] == ["submissions left today: 4", "GPU this week: 2.5 of 30.0 hours used"]

    # Nothing is left to do, so nothing is done.
    assert run(*PUSH).code == 0
    assert run("submit", "--message", "again").code == 0
    sent = [len(service.received(call)) for call in (CREATE, VERSION, SAVE_KERNEL, SUBMIT)]
    assert sent == [1, 0, 2, 1]


def test_what_changed_is_pushed_again_and_what_mounts_it(run, service, folder):
    assert run(*PUSH).code == 0
    service.processing = 3
    stage(folder / "bundle", b"another wheel")
    assert run(*PUSH).code == 0
    assert [
        len(service.versions[WHEELS]),
        len(service.kernels[TRAIN]),
        len(service.kernels[INFER]),
    ] == [2, 2, 2]
    assert service.datasets[WHEELS]["humanpref-0-py3-none-any.whl"] == b"another wheel"
    assert {
        name: entry["version"] for name, entry in records(folder).items() if name != "format"
    } == {"dataset": 2, "train": 2, "infer": 2}


def test_a_dataset_that_is_there_already_is_not_uploaded(run, service, folder):
    assert run(*PUSH, "--dataset").code == 0
    (folder / ".humanpref" / "pushes.json").unlink()
    assert run(*PUSH, "--dataset").code == 0
    assert len(service.received("BlobApiService/StartBlobUpload")) == 4
    assert records(folder)["dataset"]["version"] == 1


def test_data(run, service, folder):
    service.data = {"train.csv": b"id\n" * 1000, "test.csv": b"id\n"}
    fetched = run("data")
    assert (fetched.code, fetched.out) == (0, "data: train.csv, test.csv\n")
    assert {path.name: path.read_bytes() for path in (folder / "data").iterdir()} == service.data
    again = run("data")
    assert again.code == 2
    assert "data: already exists" in again.err


def test_downloads_that_break_off_are_made_again(run, service, folder):
    service.data = {"train.csv": b"id\n" * 100_000}
    service.queue("GET /files/0/all.zip", None)
    service.queue("GET /files/1/all.zip", TRICKLE)
    fetched = run("data", limits=IMPATIENT)
    assert fetched.code == 0, fetched.err
    assert (folder / "data" / "train.csv").read_bytes() == service.data["train.csv"]
    assert len(service.received("CompetitionApiService/DownloadDataFiles")) >= 3
    assert run(*PUSH).code == 0
    first = f"GET /files/{len(service.files)}/output"
    service.queue(first, None, Reply(status=500), Reply(b"i", headers={"Content-Length": "9"}))
    fetched = run("output")
    assert fetched.code == 0, fetched.err
    assert (folder / "output" / "submission.csv").read_bytes() == service.outputs["submission.csv"]
    assert len(service.received(first)) == 4


def test_data_before_the_rules_are_accepted(run, service, folder):
    service.data = None
    refused = run("data")
    assert refused.code == 2
    (line,) = refused.err.splitlines()
    assert (
        f"accept its rules, signed in as {USER}, at "
        f"https://www.kaggle.com/competitions/{COMPETITION}/rules" in line
    )
    assert not (folder / "data").exists()


# The service misbehaves, and all comes to a good end all the same.

DOWNLOAD = "DatasetApiService/DownloadDataset"
STATUS = "DatasetApiService/GetDatasetStatus"
RUN_STATUS = "KernelsApiService/GetKernelSessionStatus"
PAGE = b"<html>a proxy's page</html>"


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
            ("CompetitionApiService/GetSubmissionLimits", [refusal(404, "Not found")]),
            ("CompetitionApiService/GetSubmissionLimits", [None]),
        ],
        every=5,
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


def assert_once(service):
    """All was sent, whole, and nothing twice."""
    assert_sent(service, submissions=1)
    assert set(service.datasets[WHEELS]) == {
        MARKER,
        "humanpref-0-py3-none-any.whl",
        "run.toml",
        "artifacts.zip",
    }
    assert service.datasets[WHEELS]["humanpref-0-py3-none-any.whl"] == b"stands for a wheel"


def assert_sent(service, submissions):
    sent = [
        service.versions[WHEELS],
        service.kernels[TRAIN],
        service.kernels[INFER],
        service.submissions,
    ]
    assert [len(each) for each in sent] == [1, 1, 1, submissions]


# Faults that stay: one clear line, a non-zero exit.


def failed_if_there(request, usual):
    reply = usual(request)
    return Reply({"status": "FAILED"}) if reply.status == 200 else reply


@pytest.mark.parametrize(
    ("call", "fault", "words"),
    sampled(
        [
            (STATUS, refusal(401, "Unauthenticated"), "does not know these credentials"),
            (STATUS, refusal(500, f"Internal error for {KEY}"), "Internal error for ***"),
            (STATUS, None, "no answer from Kaggle"),
            (STATUS, TRICKLE, "no answer from Kaggle"),
            (STATUS, failed_if_there, "could not make the dataset"),
            (
                "BlobApiService/StartBlobUpload",
                refusal(403, "Upload quota exceeded"),
                "Upload quota exceeded",
            ),
            ("PUT /upload/token-*", Reply(status=400), "0 of 4 files could be uploaded"),
            (
                CREATE,
                Reply({"status": "error", "error": "The title is in use"}),
                "The title is in use",
            ),
            (CREATE, refusal(400, "Invalid license"), "Invalid license"),
            (CREATE, refusal(500, "Internal error"), "Internal error"),
            (CREATE, None, "no answer from Kaggle"),
            (DOWNLOAD, refusal(404, "Not found"), "with another manifest than the one pushed"),
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
                "does not know these credentials",
            ),
            (
                SAVE_KERNEL,
                Reply({"ref": f"/code/{USER}/another", "versionNumber": 1}),
                "made another kernel",
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
        every=5,
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


def test_sources_that_kaggle_leaves_out(run, service, folder):
    source = "metaresearch/llama-3.2/transformers/1b/1"
    change(folder / "bundle" / "infer" / KERNEL_METADATA, model_sources=[source])
    failed = run(*PUSH)
    assert failed.code == 2
    assert f"saved version 1 without model {source}" in failed.err.splitlines()[-1]
    assert run("submit", "--message", "m").code == 2
    assert not service.submissions
    # Once it is accepted there, the same command pushes again.
    service.models = (source,)
    assert run(*PUSH).code == 0
    assert len(service.kernels[INFER]) == 2


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
    assert run(*PUSH, "--infer").code == 2
    # A run that failed may be tried again as it is.
    service.next_run = ["COMPLETE"]
    assert run(*PUSH).code == 0
    assert [len(service.kernels[TRAIN]), len(service.kernels[INFER])] == [2, 1]


def test_a_submission_that_fails_can_be_sent_again(run, service):
    service.score = ["PENDING", "ERROR"]
    assert run(*PUSH).code == 0
    failed = run("submit", "--message", "m")
    assert failed.code == 2
    assert failed.err.splitlines()[-1] == "humanpref: submission 1001: failed: Notebook Timeout"
    service.score = ["COMPLETE"]
    assert run("submit", "--message", "m").out == "submission 1002: public score 1.01234\n"
    assert run("submit", "--message", "m").out == "submission 1002: public score 1.01234\n"


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
    assert "no submission is left today" in failed.err
    assert not service.received(SUBMIT)


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


# What a run left is of the bundle that was pushed, and whole.


@pytest.mark.parametrize(
    ("left", "words"),
    sampled(
        [
            (None, "it left no status.json"),
            (lambda code: b"{}", "its status.json does not say whether it is whole"),
            (lambda code: b"[]", "its status.json does not say whether it is whole"),
            (lambda code: b"\xff", "its status.json does not say whether it is whole"),
            (
                lambda code: left_whole(code, manifest=""),
                "it ran on another dataset (none) than the one pushed (manifest ",
            ),
            (
                lambda code: left_whole(code, manifest="0" * 64),
                "it ran on another dataset (manifest 00000000) than the one",
            ),
            (
                lambda code: left_whole(code, degraded=["3 of 8 rows have the prior", "no GPU"]),
                "have the prior; no GPU",
            ),
        ],
        every=3,
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
        (line,) = (line for line in failed.err.splitlines() if "is not whole" in line)
        assert line.startswith("humanpref: ")
        assert "version 1 is not whole (--anyway takes it as it is): " in line
        assert words in line
    assert not service.submissions
    assert words.rpartition("; ")[2] in run("output").err
    assert run("wait", "--anyway").code == 0
    submitted = run("submit", "--message", "m", "--anyway")
    assert submitted.code == 0, submitted.err
    assert words in submitted.err
    assert len(service.submissions) == 1


def test_what_an_earlier_version_pushed(run, service, folder):
    """It is waited for, and not taken for whole; nor for the bundle that is pushed next."""
    assert run(*PUSH).code == 0
    path = folder / ".humanpref" / "pushes.json"
    entries = {name: entry for name, entry in records(folder).items() if name != "format"}
    old = {
        name: {key: entry[key] for key in entry if key not in ("manifest", "inputs")}
        for name, entry in entries.items()
    }
    write_json(path, {"format": 1, **old})
    service.outputs["status.json"] = b'{"predicted": 8, "failures": []}'
    for command in (("wait",), ("submit", "--message", "m")):
        failed = run(*command)
        assert failed.code == 2
        assert (
            "is not whole (--anyway takes it as it is): its status.json does not say" in failed.err
        )
    assert len(run("wait", "--anyway").out.splitlines()) == len(entries)
    stage(folder / "bundle", b"another wheel")
    assert run(*PUSH, "--dataset").code == 0
    assert "was pushed before the last push of" in run("submit", "--message", "m", "--anyway").err
    assert not service.submissions


@pytest.mark.parametrize("untold", [False, True])
def test_a_new_bundle_is_trained_and_submitted_whether_its_version_is_told_or_not(
    run, service, folder, untold
):
    service.untold = untold
    assert run(*PUSH).code == 0
    assert run("submit", "--message", "m").out == "submission 1001: public score 1.01234\n"
    stage(folder / "bundle", b"another wheel")
    pushed = run(*PUSH)
    assert pushed.code == 0, pushed.err
    assert run("submit", "--message", "m").out == "submission 1002: public score 1.01234\n"
    assert [
        len(service.versions[WHEELS]),
        len(service.kernels[TRAIN]),
        len(service.kernels[INFER]),
    ] == [2, 2, 2]
    manifest = sha256(folder / "bundle" / "dataset" / MARKER)
    for name in (TRAIN, INFER):
        assert (
            inside(service.kernels[name][1]["text"])
            == manifest
            != inside(service.kernels[name][0]["text"])
        )
    assert {
        entry.get("manifest")
        for name, entry in records(folder).items()
        if name in ("dataset", "train", "infer")
    } == {manifest}
    assert run(*PUSH).code == 0
    assert len(service.kernels[TRAIN]) == 2


@pytest.mark.parametrize(
    "call", ["DatasetApiService/GetDataset", "KernelsApiService/GetKernel", DOWNLOAD]
)
@pytest.mark.parametrize(
    "reply", [refusal(403, "Permission was denied"), refusal(404, "Not found")]
)
def test_what_was_pushed_is_not_pushed_again_for_one_refusal(run, service, call, reply):
    assert run(*PUSH).code == 0
    service.queue(call, reply)
    again = run(*PUSH)
    assert again.code == 0, again.err
    assert_sent(service, submissions=0)
    assert run(*PUSH).code == 0
    assert_sent(service, submissions=0)


@pytest.mark.parametrize("call", [STATUS, VERSION, SAVE_KERNEL])
def test_no_old_score_for_a_new_bundle(run, service, folder, call):
    """However far the push of the new one came."""
    assert run(*PUSH).code == 0
    assert run("submit", "--message", "m").code == 0
    stage(folder / "bundle", b"another wheel")
    usual, service.answers[call] = service.answers[call], lambda request: refusal(400, "Not now")
    assert run(*PUSH).code == 2
    failed = run("submit", "--message", "m", "--anyway")
    assert failed.code == 2
    assert "was pushed before the last push of" in failed.err.splitlines()[-1]
    service.answers[call] = usual
    assert run(*PUSH).code == 0
    assert run("submit", "--message", "m").out == "submission 1002: public score 1.01234\n"


def test_a_kernel_is_not_pushed_without_its_dataset(run, service, folder):
    assert run(*PUSH).code == 0
    stage(folder / "bundle", b"another wheel")
    failed = run(*PUSH, "--train")
    assert failed.code == 2
    assert f"{TRAIN}: mounts {WHEELS}, which is of another bundle; push it first" in failed.err
    assert len(service.kernels[TRAIN]) == 1


def test_a_bundle_without_training(run, service, folder):
    stage(folder / "bundle")
    assert run(*PUSH).code == 0
    stage(folder / "bundle", b"another wheel", preset="")
    pushed = run(*PUSH)
    assert pushed.code == 0, pushed.err
    assert [len(service.kernels[TRAIN]), len(service.kernels[INFER])] == [1, 2]
    assert "kernelDataSources" not in service.kernels[INFER][1]
    # The training kernel of the bundle before is nobody's business any more.
    service.kernels[TRAIN].append(service.kernels[TRAIN][0])
    assert run("wait").out.splitlines() == [
        f"{WHEELS} version 2: ready",
        f"{INFER} version 2: COMPLETE",
    ]
    assert "has no train kernel" in run(*PUSH, "--train").err
    assert run("submit", "--message", "m").code == 0


def test_a_kernel_that_was_pushed_from_elsewhere(run, service):
    assert run(*PUSH).code == 0
    service.kernels[INFER].append(service.kernels[INFER][0])
    for command in (("output",), ("submit", "--message", "m")):
        failed = run(*command)
        assert failed.code == 2
        assert "version 1 was pushed from here, the current one is version 2" in failed.err
    assert not service.submissions


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "/tmp/evil",
        "a/../../evil",
        "C:\\evil",
        "a\\..\\evil",
        "",
        "submission.csv/x",
        "x" * 300,
    ],
)
def test_output_stays_in_its_folder(run, service, folder, name):
    assert run(*PUSH).code == 0
    service.outputs = {"submission.csv": b"id\n", name: b"evil"}
    before = sorted(folder.rglob("*"))
    failed = run("output")
    assert failed.code == 2, failed.err
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("spoil", "words"),
    sampled(
        [
            (
                lambda bundle: (bundle / "dataset" / "run.toml").write_text('preset = "prior"\n'),
                "not the file that the manifest",
            ),
            (
                lambda bundle: (bundle / "dataset" / "artifacts" / "one" / "metrics.json").unlink(),
                "but not there",
            ),
            (
                lambda bundle: (bundle / "dataset" / "notes.txt").write_text("x"),
                "notes.txt: not in the manifest",
            ),
            (lambda bundle: (bundle / "dataset" / MARKER).unlink(), "not a bundle"),
            (
                lambda bundle: (bundle / "dataset" / DATASET_METADATA).write_text(KEY),
                "not valid JSON",
            ),
            (
                lambda bundle: change(bundle / "train" / KERNEL_METADATA, enable_internet=True),
                "key enable_internet: the comp",
            ),
            (
                lambda bundle: change(bundle / "infer" / KERNEL_METADATA, title=f"{KEY} a title"),
                "would make a second kernel",
            ),
        ],
        every=3,
    ),
)
def test_a_bundle_that_was_changed_is_not_uploaded(run, service, folder, spoil, words):
    spoil(folder / "bundle")
    failed = run(*PUSH)
    assert failed.code == 2
    assert words in failed.err.splitlines()[-1]
    assert not service.requests


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (None, "no answer from Kaggle"),
        (refusal(401, "Unauthenticated"), "does not know these credentials"),
    ],
)
@pytest.mark.parametrize("call", ["CompetitionApiService/GetSubmissionLimits", RUN_STATUS])
def test_a_status_that_cannot_be_told(run, service, call, reply, words):
    assert run(*PUSH, "--dataset", "--train").code == 0
    service.answers[call] = lambda request: reply
    failed = run("status")
    assert failed.code == 2
    assert words in failed.err.splitlines()[-1]


def test_another_user_and_other_mistakes(run, service, folder):
    assert (
        f"the Kaggle credentials here are those of {USER}" in run("push", "--user", "somebody").err
    )
    assert "nothing was pushed from here" in run("wait").err
    assert "there is none: humanpref kaggle push --infer" in run("output").err
    assert "--message: expected some words" in run("submit", "--message", " ").err
    assert "nothing was pushed from here" in run("status").out
    assert not (folder / "output").exists()


# Secrets.


@pytest.mark.parametrize("place", ["train/train.py", "dataset/artifacts/one/metrics.json"])
def test_a_key_is_not_uploaded(run, service, folder, place):
    path = folder / "bundle" / place
    path.write_text(f"MANIFEST = \"\"\nkey = '{KEY}'\n")
    manifest = read_json(folder / "bundle" / "dataset" / MARKER)
    for file in manifest["files"]:
        own = folder / "bundle" / "dataset" / file["name"]
        file |= {"bytes": own.stat().st_size, "sha256": sha256(own)}
    write_json(folder / "bundle" / "dataset" / MARKER, manifest)
    failed = run(*PUSH)
    assert failed.code == 2
    assert f"{path.name}: holds your Kaggle key" in failed.err
    assert not [request for request in service.requests if KEY.encode() in request.body]


def test_the_key_is_nowhere(run, service, folder):
    service.queue(STATUS, refusal(500, f"who sent {KEY}?"))
    assert run(*PUSH).code == 0
    assert run("submit", "--message", f"with {KEY}").code == 0
    assert run("output").code == 0
    for path in folder.rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes(), path
    assert "***" in service.submissions[0]["description"]


# Killed at a request, before or after the service dealt with it, the same commands go on.


def kill_at(service, commands, call, done, count=1):
    """Kill the running command at the `count`-th request of `call`."""
    seen = 0

    def watch(request, was_done):
        nonlocal seen
        if request.call == call and was_done == done:
            seen += 1
            if seen == count:
                os.kill(commands.pid, signal.SIGKILL)

    service.watch = watch


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    ("call", "count"),
    sampled(
        [
            ("DatasetApiService/DownloadDataset", 1),
            ("BlobApiService/StartBlobUpload", 2),
            ("PUT /upload/token-2", 1),
            (CREATE, 1),
            ("DatasetApiService/DownloadDataset", 2),
            ("KernelsApiService/GetKernel", 1),
            (SAVE_KERNEL, 1),
            (RUN_STATUS, 2),
            (SAVE_KERNEL, 2),
            ("CompetitionApiService/ListSubmissions", 1),
            (SUBMIT, 1),
            ("CompetitionApiService/GetSubmission", 1),
        ],
        every=4,
        first=2,
    ),
)
def test_killed_and_given_again(run, commands, service, folder, call, count, done):
    service.processing = 2
    kill_at(service, commands, call, done, count)
    codes = []
    for command in (PUSH, ("submit", "--message", "m")):
        finished = run(*command)
        codes.append(finished.code)
        if finished.code == -signal.SIGKILL:
            finished = run(*command)
        assert finished.code == 0, finished.err
    assert codes.count(-signal.SIGKILL) == 1
    assert_once(service)
    assert {entry["state"] for name, entry in records(folder).items() if name != "format"} == {
        "done"
    }


def test_nothing_is_inferred_from_training_that_is_not_finished(run, service):
    """The run itself ended well; the log alone says that it left no artifact."""
    service.log = "UNFINISHED: stopped after 41400 s, without an artifact.\n"
    failed = run(*PUSH)
    assert failed.code == 2
    assert f'add "{TRAIN}/1"' in failed.err.splitlines()[-1]
    assert run("wait").code == 2
    assert INFER not in service.kernels
    # What there is of it can be looked at.
    assert run("output", "--train").code == 0


def test_training_goes_on_from_an_earlier_version(run, commands, service, folder):
    """As the documentation has it: the kernel mounts a version of itself. Killed on the way, it is
    not pushed twice."""
    assert run(*PUSH).code == 0
    change(
        folder / "bundle" / "train" / KERNEL_METADATA,
        kernel_sources=["INSERT_USERNAME/humanpref-train/1"],
    )
    kill_at(service, commands, SAVE_KERNEL, done=True)
    assert run(*PUSH).code == -signal.SIGKILL
    for _ in range(2):
        again = run(*PUSH)
        assert again.code == 0, again.err
    assert [body.get("kernelDataSources", []) for body in service.kernels[TRAIN]] == [
        [],
        [f"{TRAIN}/1"],
    ]
    assert len(service.kernels[INFER]) == 2


def test_a_new_version_and_killed(run, commands, service, folder):
    """The old version can be read, and is ready, while the new one is made: only its number
    tells."""
    assert run(*PUSH, "--dataset").code == 0
    stage(folder / "bundle", b"another wheel")
    service.processing = 9
    kill_at(service, commands, VERSION, done=True)
    assert run(*PUSH, "--dataset").code == -signal.SIGKILL
    assert run(*PUSH, "--dataset").code == 0
    assert len(service.versions[WHEELS]) == 2
    assert records(folder)["dataset"]["version"] == 2


# The documentation.


@pytest.mark.slow
def test_the_commands_in_the_documentation(commands, service, tmp_path):
    """All of them, in order, as they stand there, with real files in place of stand-ins; what needs
    the network is looked up."""
    needs_setuptools()
    write_arena(tmp_path / "arena", rows=60, seed=5)
    service.data = {
        path.name: path.read_bytes()
        for path in (tmp_path / "arena").iterdir()
        if path.name in ("train.csv", "test.csv", "sample_submission.csv")
    }
    text = (ROOT / "docs" / "kaggle.md").read_text(encoding="utf-8")
    lines = [
        shlex.split(line, comments=True)
        for line in text.split("```")[1].replace("\\\n", " ").splitlines()
    ]
    lines = [line for line in lines if line]
    clone, make, activate, *rest = lines
    assert clone[:2] == ["git", "clone"]
    makefile = (ROOT / "Makefile").read_text().splitlines()
    assert all(any(line.startswith(f"{target}:") for line in makefile) for target in make[1:])
    assert activate == [
        ".",
        f"{next(line for line in makefile if line.startswith('VENV')).split()[-1]}/bin/activate",
    ]
    assert len(lines) < 12
    for line in rest:
        words = [USER if word == "YOUR_NAME" else word for word in line]
        assert words.pop(0) == "humanpref"
        finished = commands.run(service, tmp_path, *words)
        assert finished.code == 0, (line, finished.out[-2000:], finished.err[-2000:])
        if line[2] == "dry-run":
            assert finished.out.endswith("PASS\n")
    # What was pushed is the bundle, file by file; what was scored is its inference kernel.
    staged = tmp_path / "bundle" / "dataset"
    names = {path.name for path in staged.iterdir()} - {DATASET_METADATA}
    assert service.datasets[WHEELS] == {name: (staged / name).read_bytes() for name in names}
    assert any(name.startswith("humanpref-") and name.endswith(".whl") for name in names)
    (train,), (infer,) = service.kernels[TRAIN], service.kernels[INFER]
    manifest = sha256(staged / MARKER)
    text = (ROOT / "kernel" / "train" / "train.py").read_text()
    assert train["text"] == text.replace('MANIFEST = ""', f'MANIFEST = "{manifest}"')
    assert inside(infer["text"]) == manifest
    assert not any(kernel.get("enableInternet") for kernel in (train, infer))
    assert [submission["kernel"] for submission in service.submissions] == [(INFER, 1)]
    assert "public score 1.01234" in finished.out


@pytest.mark.slow
def test_packed_weights_are_pushed_before_the_kernels_that_mount_them(
    commands, service, tmp_path, sentence_encoder
):
    needs_setuptools()
    shutil.copytree(sentence_encoder, tmp_path / "backbone")
    weights = f"{USER}/weights-backbone"
    for words in (
        ("bundle", "--preset", "deberta-v3-small"),
        ("weights", "backbone"),
        ("check", "--bundle", "bundle"),
        PUSH,
    ):
        finished = commands.run(service, tmp_path, "kaggle", *words)
        assert finished.code == 0, (words, finished.out, finished.err)
    content = (sentence_encoder / "model.safetensors").read_bytes()
    assert service.datasets[weights]["model.safetensors"] == content
    (train,) = service.kernels[TRAIN]
    assert train["datasetDataSources"] == [WHEELS, weights]
    assert b'backbone = "weights-backbone"' in service.datasets[WHEELS]["run.toml"]
    assert list(records(tmp_path))[1:] == ["dataset", "weights-backbone", "train", "infer"]


def test_two_at_once(run, commands, service, folder):
    import fcntl

    (folder / ".humanpref").mkdir()
    with open(folder / ".humanpref" / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        failed = run(*PUSH)
    assert failed.code == 2
    assert "another humanpref kaggle command is at work here" in failed.err
    assert run(*PUSH, "--dataset").code == 0
