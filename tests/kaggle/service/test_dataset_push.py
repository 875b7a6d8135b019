"""A dataset is uploaded once, whatever happens on the way, and waited for until it is ready."""

import importlib.util
import signal
from types import SimpleNamespace

import pytest

from humanpref.kaggle.service.client import NotThereError
from humanpref.kaggle.service.dataset_push import may_become_ready

from .bundles import CREATE, DOWNLOAD, PUSH, VERSION, WHEELS, kill_at, records, stage
from .played import answering

pytestmark = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("kaggle", "kagglesdk", "six")),
    reason="needs the Kaggle client: pip install 'humanpref[kaggle]'",
)


def test_a_dataset_that_is_there_already_is_not_uploaded(run, service, folder):
    assert run(*PUSH, "--dataset").code == 0
    (folder / ".humanpref" / "pushes.json").unlink()
    assert run(*PUSH, "--dataset").code == 0
    assert len(service.received("BlobApiService/StartBlobUpload")) == 4
    assert records(folder)["dataset"]["version"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("version", ["first", "second"])
def test_a_dataset_that_takes_longer_than_an_hour_is_not_uploaded_again(
    run, service, folder, version
):
    if version == "second":
        assert run(*PUSH, "--dataset").code == 0
        stage(folder / "bundle", b"another wheel")
    sent = {"first": 1, "second": 2}[version]
    service.processing = 100
    late = run(*PUSH, "--dataset")
    assert late.code == 2
    assert "after 1.0 hours; rerun the same command to keep waiting" in late.err.splitlines()[-1]
    assert records(folder)["dataset"]["state"] == "sending"
    rerun = run(*PUSH, "--dataset")
    assert rerun.code == 0, rerun.err
    assert len(service.versions[WHEELS]) == sent
    uploads = service.received("BlobApiService/StartBlobUpload")
    assert len(uploads) == 4 * sent
    assert records(folder)["dataset"]["version"] == sent


@pytest.mark.parametrize(
    ("status", "version", "answered", "may"),
    [
        ("BLOBS_RECEIVED", None, False, True),
        # The previous version is ready; ours was accepted, or was only looked for.
        ("READY", 3, True, True),
        ("READY", None, True, True),
        ("READY", 3, False, False),
        # Somebody has pushed another version since.
        ("READY", 4, True, False),
        ("", None, True, False),
    ],
)
def test_which_datasets_may_become_ready(client, status, version, answered, may):
    found = SimpleNamespace(status=SimpleNamespace(name=status), current_version_number=version)
    gone = NotThereError("no")
    client.datasets = SimpleNamespace(
        get_dataset_status=answering(found if status else gone),
        get_dataset=answering(found if version else gone),
    )
    entry = {"ref": "me/data", "base": 2, "answered": answered}
    assert may_become_ready(client, entry) is may


@pytest.mark.slow
def test_while_kaggle_processes_a_dataset_nobody_looks_for_it(run, commands, service, folder):
    service.untold, service.processing = True, 30
    kill_at(service, commands, CREATE, done=True)
    assert run(*PUSH, "--dataset").code == -signal.SIGKILL
    service.requests.clear()
    assert run(*PUSH, "--dataset").code == 0
    assert not service.received(CREATE)
    # Once before it is sent and once when it is ready; a minute of looking asks six times more.
    assert len(service.received(DOWNLOAD)) <= 3


@pytest.mark.slow
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
