"""From a bundle to a score: our commands and the real client against the loopback service, which
may misbehave."""

import importlib.util
import shutil
import signal

import pytest

from humanpref.arena import write_arena
from humanpref.files import read_json, sha256, write_json
from humanpref.kaggle.bundle.metadata import (
    DATASET_METADATA,
    KERNEL_METADATA,
    OWNER_PLACEHOLDER,
    read_metadata,
)
from humanpref.kaggle.contract import WEIGHTS_MARKER

from ...fences import command_lines, fences
from ..loopback import KEY, USER, refusal
from ..sampled import sampled
from .bundles import (
    CREATE,
    DOWNLOAD,
    INFER,
    MARKER,
    PUSH,
    ROOT,
    RUN_STATUS,
    SAVE_KERNEL,
    STATUS,
    SUBMIT,
    TRAIN,
    VERSION,
    WHEELS,
    assert_once,
    assert_sent,
    change,
    inside,
    kill_at,
    left_whole,
    records,
    stage,
)

pytestmark = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("kaggle", "kagglesdk", "six")),
    reason="needs the Kaggle client: pip install 'humanpref[kaggle]'",
)


def needs_setuptools() -> None:
    """Skip without setuptools; not by importing it, which it forbids where another module has
    imported distutils."""
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("needs setuptools")


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


@pytest.mark.slow
def test_records_that_were_lost(run, service, folder):
    """What Kaggle has is taken up: nothing is sent a second time."""
    assert run(*PUSH).code == 0
    assert run("submit", "--message", "m").code == 0
    before = records(folder)
    (folder / ".humanpref" / "pushes.json").unlink()
    pushed = run(*PUSH)
    assert pushed.code == 0, pushed.err
    assert run("submit", "--message", "m").out == "submission 1001: public score 1.01234\n"
    assert_sent(service, submissions=1)
    again = records(folder)
    for name in ("train", "infer", "submission"):
        assert (
            again[name].items()
            >= {key: value for key, value in before[name].items() if key != "base"}.items()
        )
    # Nothing but the same code on the same sources, whose run has not failed, is taken up.
    path = folder / "bundle" / "train" / "train.py"
    path.write_text(path.read_text() + "print('more')\n")
    (folder / ".humanpref" / "pushes.json").unlink()
    assert run(*PUSH).code == 0
    assert [len(service.kernels[name]) for name in (TRAIN, INFER)] == [2, 1]


@pytest.mark.slow
def test_lost_records_and_the_inference_kernel_alone(run, service, folder):
    """What it mounts is taken up as well, so that it is the same push and the same submission."""
    assert run(*PUSH).code == 0
    assert run("submit", "--message", "m").code == 0
    before = records(folder)
    (folder / ".humanpref" / "pushes.json").unlink()
    pushed = run(*PUSH, "--infer")
    assert pushed.code == 0, pushed.err
    assert run("submit", "--message", "m").out == "submission 1001: public score 1.01234\n"
    assert_sent(service, submissions=1)
    after = records(folder)
    assert {name: after[name]["digest"] for name in ("dataset", "train", "infer")} == {
        name: before[name]["digest"] for name in ("dataset", "train", "infer")
    }
    # With another bundle, nothing of what is there is the same.
    stage(folder / "bundle", b"another wheel")
    (folder / ".humanpref" / "pushes.json").unlink()
    assert run(*PUSH, "--infer").code == 0
    assert set(records(folder)) == {"format", "infer"}
    assert [len(service.kernels[name]) for name in (TRAIN, INFER)] == [1, 2]


def test_packed_weights_that_nothing_mounts_are_not_uploaded(run, service, folder):
    for name in ("weights-old", "weights-new"):
        packed = folder / "bundle" / name
        packed.mkdir()
        path = packed / "LICENSE"
        path.write_text(name)
        entry = {"name": path.name, "bytes": path.stat().st_size, "sha256": sha256(path)}
        write_json(packed / WEIGHTS_MARKER, {"format": 1, "files": [entry]})
        metadata = read_metadata(folder / "bundle" / "dataset" / DATASET_METADATA)
        names = {"id": f"{OWNER_PLACEHOLDER}/{name}", "title": name.replace("-", " ")}
        write_json(packed / DATASET_METADATA, metadata | names)
    for kernel in ("train", "infer"):
        path = folder / "bundle" / kernel / KERNEL_METADATA
        sources = [*read_metadata(path)["dataset_sources"], f"{OWNER_PLACEHOLDER}/weights-new"]
        change(path, dataset_sources=sources)
    pushed = run(*PUSH, "--dataset")
    assert pushed.code == 0, pushed.err
    assert set(service.versions) == {WHEELS, f"{USER}/weights-new"}
    assert "bundle/weights-old: no kernel mounts these weights; not uploaded" in pushed.err


@pytest.mark.slow
@pytest.mark.parametrize("change_it", ["sources", "failure"])
def test_another_run_is_not_taken_up(run, service, folder, change_it):
    service.next_run = ["ERROR"] if change_it == "failure" else ["COMPLETE"]
    assert run(*PUSH, "--dataset", "--train").code == 0
    (folder / ".humanpref" / "pushes.json").unlink()
    if change_it == "sources":
        change(
            folder / "bundle" / "train" / KERNEL_METADATA,
            kernel_sources=["INSERT_USERNAME/humanpref-train/1"],
        )
    service.next_run = ["COMPLETE"]
    assert run(*PUSH).code == 0
    assert [len(service.kernels[name]) for name in (TRAIN, INFER)] == [2, 1]


@pytest.mark.slow
def test_experiments_side_by_side(run, service, folder):
    assert run("push").code == 0
    assert run("submit", "--message", "plain").code == 0
    name = ("--name", "wide-2")
    assert "there is none" in run("output", *name).err
    stage(folder / "bundle", b"another wheel")
    pushed = run("push", *name)
    wide = [f"{USER}/humanpref-wide-2-{part}" for part in ("wheels", "train", "infer")]
    assert pushed.out.splitlines() == [f"{ref}: version 1, done" for ref in wide], pushed.err
    (infer,) = service.kernels[wide[2]]
    assert infer["newTitle"] == "humanpref wide 2 infer"
    assert infer["datasetDataSources"] == [wide[0]]
    assert infer["kernelDataSources"] == [wide[1]]
    assert run("output", *name).out.startswith("output-wide-2: ")
    assert run("submit", "--message", "wide", *name).out.startswith("submission 1002: ")
    # The first one is as it was.
    assert_sent(service, submissions=2)
    assert run("status").out.splitlines()[0] == f"{WHEELS} version 1: READY"
    assert run("submit", "--message", "plain").out.startswith("submission 1001: ")
    assert "--name: expected" in run("wait", "--name", "../x").err


@pytest.mark.parametrize("untold", sampled([False, True], every=2))
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


@pytest.mark.slow
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


@pytest.mark.slow
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
    assert (
        f"{TRAIN}: mounts {WHEELS}, which belongs to a different bundle; push {WHEELS} first"
        in failed.err
    )
    assert len(service.kernels[TRAIN]) == 1


@pytest.mark.slow
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
        assert "version 1 was pushed from here, but the current one is version 2" in failed.err
    assert not service.submissions


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
                "but missing",
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
                "key enable_internet: expected false",
            ),
            (
                lambda bundle: change(bundle / "infer" / KERNEL_METADATA, title=f"{KEY} a title"),
                "would create a second kernel",
            ),
        ],
        every=6,
    ),
)
def test_a_bundle_that_was_changed_is_not_uploaded(run, service, folder, spoil, words):
    spoil(folder / "bundle")
    failed = run(*PUSH)
    assert failed.code == 2
    assert words in failed.err.splitlines()[-1]
    assert not service.requests


def test_another_user_and_other_mistakes(run, service, folder):
    assert (
        f"the Kaggle credentials in use belong to {USER}" in run("push", "--user", "somebody").err
    )
    assert "nothing has been pushed from here" in run("wait").err
    assert "there is none; run humanpref kaggle push --infer" in run("output").err
    assert "--message: expected text" in run("submit", "--message", " ").err
    assert "nothing has been pushed from here" in run("status").out
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
    assert f"{path.name}: contains your Kaggle key" in failed.err
    assert not [request for request in service.requests if KEY.encode() in request.body]


# Killed at a request, before or after the service dealt with it, the same commands go on.


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
        every=12,
        first=6,
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
    service.log = "UNFINISHED: stopped after 41400 s: no model can predict yet\n"
    service.outputs["status.json"] = lambda code: left_whole(code, degraded=["ran out of time"])
    failed = run(*PUSH)
    assert failed.code == 2
    assert f'add "{TRAIN}/1"' in failed.err.splitlines()[-1]
    assert run("wait").code == 2
    assert INFER not in service.kernels
    # What there is of it can be looked at.
    assert run("output", "--train").code == 0


@pytest.mark.slow
def test_finished_folds_of_training_that_ran_out_of_time(run, service):
    """They are used where the user says so, at every step, and only where they are an artifact."""
    told = "UNFINISHED: stopped after 41400 s: only 3 of 5 models were trained"
    service.log = f"fold-2: done\n{told} (out of fold: 600 rows, log loss 1.0123)\n"
    failed = run(*PUSH, "--anyway").err.splitlines()[-1]
    assert f"{TRAIN} version 1: {told} (out of fold: 600 rows, log loss 1.0123); to" in failed
    assert failed.endswith("push again")
    service.outputs["artifact.partial/artifact.json"] = b"{}"
    service.outputs["status.json"] = lambda code: left_whole(code, degraded=["out of time"])
    failed = run(*PUSH, "--infer").err.splitlines()[-1]
    assert failed.endswith("; to predict with the trained models, run push --infer --anyway")
    assert INFER not in service.kernels
    pushed = run(*PUSH, "--infer", "--anyway")
    assert pushed.code == 0, pushed.err
    assert f"{TRAIN} version 1: {told}" in pushed.err
    assert run("wait").code == 2
    assert run("wait", "--anyway").code == 0
    assert [len(service.kernels[name]) for name in (TRAIN, INFER)] == [1, 1]


@pytest.mark.slow
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
    lines = command_lines(fences(ROOT / "docs" / "kaggle.md", "sh")[0][1])
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
    (tmp_path / ".humanpref").mkdir()
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

    with open(folder / ".humanpref" / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        failed = run(*PUSH)
    assert failed.code == 2
    assert "another humanpref kaggle command is running here" in failed.err
    assert run(*PUSH, "--dataset").code == 0


def test_a_training_that_cannot_succeed_is_not_pushed(run, service, folder):
    stage(folder / "bundle", preset="gemma-2-9b-qlora")
    assert run("weights", "google/gemma-2/transformers/gemma-2-9b-it/2").code == 0
    failed = run(*PUSH)
    assert failed.code == 2
    assert "training takes" in failed.err
    assert "to push it anyway, add --anyway" in failed.err
    assert not service.versions.get(WHEELS)
    assert run(*PUSH, "--dataset").code == 0
    # The loopback service does not know the model, but now gets the kernel.
    assert "without model google/gemma-2" in run(*PUSH, "--anyway", "--train").err
    assert len(service.kernels[TRAIN]) == 1
