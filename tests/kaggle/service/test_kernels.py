"""The calls on kernels: what is asked, and how each answer is read."""

import json
from datetime import timedelta
from types import SimpleNamespace

import pytest

from humanpref.kaggle.service.client import NotThereError, RefusedError, UncertainError
from humanpref.kaggle.service.kernels import (
    Kernel,
    download_output,
    get_kernel,
    gpu_hours,
    run_output,
    run_status,
    save_kernel,
)

from .played import answering

NAMES = {"user_name": "me", "kernel_slug": "a-kernel"}


def saved(ref="/code/me/a-kernel", version_number=3, error=None, **invalid):
    kinds = ("dataset", "competition", "kernel", "model")
    sources = {f"invalid_{kind}_sources": invalid.get(kind) for kind in kinds}
    return SimpleNamespace(ref=ref, version_number=version_number, error=error, **sources)


def test_a_saved_kernel(client, tmp_path):
    pushed = []

    def push(folder):
        pushed.append(folder)
        return saved()

    client.api.kernels_push = push
    assert save_kernel(client, tmp_path, "me/a-kernel") == 3
    assert pushed == [str(tmp_path)]


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (saved(error="It is locked"), RefusedError, "refused the kernel: It is locked"),
        (saved(ref=""), UncertainError, "does not name the saved version"),
        (saved(version_number=0), UncertainError, "does not name the saved version"),
        (saved(ref="/code/me/another"), RefusedError, "derived a different kernel, me/another,"),
        (
            saved(dataset=["me/d"], model=["m/n/o/p/1"]),
            RefusedError,
            "saved version 3 without dataset me/d, model m/n/o/p/1, ",
        ),
    ],
)
def test_a_kernel_that_is_not_saved_as_it_is(client, tmp_path, answer, kind, words):
    client.api.kernels_push = lambda folder: answer
    with pytest.raises(kind, match=f"^me/a-kernel: .*{words}"):
        save_kernel(client, tmp_path, "me/a-kernel")


def test_get_kernel(client):
    metadata = SimpleNamespace(
        current_version_number=2,
        dataset_data_sources=["me/d"],
        competition_data_sources=None,
        kernel_data_sources=["me/k"],
        model_data_sources=[],
    )
    answer = SimpleNamespace(metadata=metadata, blob=SimpleNamespace(source="print()"))
    method = answering(answer, NotThereError("no"))
    client.kernels = SimpleNamespace(get_kernel=method)
    kernel = get_kernel(client, "me/a-kernel")
    assert kernel == Kernel(2, "print()", frozenset({"me/d", "me/k"}))
    assert method.asked == [NAMES]
    assert get_kernel(client, "me/a-kernel") is None


def test_run_status(client):
    answer = SimpleNamespace(status=SimpleNamespace(name="ERROR"), failure_message="out of\nmemory")
    client.kernels = SimpleNamespace(get_kernel_session_status=answering(answer))
    assert run_status(client, "me/a-kernel") == ("ERROR", "out of memory")


@pytest.mark.parametrize(
    ("log", "text"),
    [
        (json.dumps([{"data": "a\n"}, {"data": "b\n"}]), "a\nb\n"),
        ("plain", "plain"),
        ('[{"time": 1}]', '[{"time": 1}]'),
        ("3", "3"),
    ],
)
def test_run_output(client, log, text):
    files = [SimpleNamespace(file_name=f"{name}.csv", url=f"http://{name}") for name in "ab"]
    pages = [
        SimpleNamespace(files=files[:1], log=log, next_page_token="2"),
        SimpleNamespace(files=files[1:], log="later", next_page_token=""),
    ]
    client.kernels = SimpleNamespace(list_kernel_session_output=answering(*pages))
    left, printed = run_output(client, "me/a-kernel")
    assert left == {"a.csv": "http://a", "b.csv": "http://b"}
    assert printed == text


def test_download_output(client, monkeypatch, tmp_path):
    import requests

    response = SimpleNamespace(
        raise_for_status=lambda: None, iter_content=lambda size: iter([b"ab", b"c"])
    )
    asked = []

    def get(url, **options):
        asked.append((url, options))
        return response

    monkeypatch.setattr(requests, "get", get)
    download_output(client, "http://a", tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_bytes() == b"abc"
    assert asked == [("http://a", {"stream": True})]


def test_gpu_hours(client):
    used, allowed = timedelta(minutes=90), timedelta(hours=30)
    quotas = [
        SimpleNamespace(time_used=used, total_time_allowed=allowed),
        SimpleNamespace(time_used=None, total_time_allowed=allowed),
        SimpleNamespace(time_used=used, total_time_allowed=None),
        None,
    ]
    answers = [SimpleNamespace(gpu_quota=quota) for quota in quotas]
    method = answering(*answers, RefusedError("no"))
    client.kernels = SimpleNamespace(get_accelerator_quota_statistics=method)
    hours = [gpu_hours(client) for _ in range(5)]
    assert hours == [(1.5, 30), None, None, None, None]
