"""The calls on datasets: what is asked, and how each answer is read. Uploads are tested by the
commands that make them."""

import io
import zipfile
from types import SimpleNamespace

import pytest

from humanpref.kaggle.service.client import NotThereError, RefusedError, UncertainError
from humanpref.kaggle.service.datasets import (
    commit_dataset,
    dataset_file,
    dataset_status,
    dataset_version,
)

from .played import answering

pytest.importorskip("kagglesdk")

NAMES = {"owner_slug": "me", "dataset_slug": "some-data"}
METADATA = {
    "id": "me/some-data",
    "title": "Some data",
    "licenses": [{"name": "apache-2.0"}],
    "subtitle": "rows and rows of it",
}


def answer(status="ok", error=None, ref="", url=""):
    return SimpleNamespace(status=status, error=error, ref=ref, url=url)


def test_the_state_of_a_dataset(client):
    ready = SimpleNamespace(status=SimpleNamespace(name="READY"))
    method = answering(ready, NotThereError("no"))
    client.datasets = SimpleNamespace(get_dataset_status=method)
    assert dataset_status(client, "me/some-data") == "READY"
    assert method.asked == [NAMES]
    assert dataset_status(client, "me/some-data") is None


def test_the_version_of_a_dataset(client):
    answers = [SimpleNamespace(current_version_number=number) for number in (3, 0)]
    client.datasets = SimpleNamespace(get_dataset=answering(*answers, NotThereError("no")))
    versions = [dataset_version(client, "me/some-data") for _ in range(3)]
    assert versions == [3, None, None]


def test_a_file_of_a_dataset_zipped_or_not(client):
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("a.json", "{}")
    answers = [SimpleNamespace(content=content) for content in (b"{ }", zipped.getvalue())]
    method = answering(*answers, NotThereError("no"))
    client.datasets = SimpleNamespace(download_dataset=method)
    contents = [dataset_file(client, "me/some-data", "a.json") for _ in range(3)]
    assert contents == [b"{ }", b"{}", None]
    assert method.asked[0] == NAMES | {"file_name": "a.json"}


def test_a_new_dataset(client):
    method = answering(answer())
    client.datasets = SimpleNamespace(create_dataset=method)
    commit_dataset(client, METADATA, [], create=True, notes="n")
    assert method.asked == [
        {
            "owner_slug": "me",
            "slug": "some-data",
            "title": "Some data",
            "license_name": "apache-2.0",
            "is_private": True,
            "subtitle": "rows and rows of it",
            "category_ids": [],
            "files": [],
        }
    ]


def test_a_new_version(client):
    method = answering(answer(status="", ref="me/some-data"))
    client.datasets = SimpleNamespace(create_dataset_version=method)
    commit_dataset(client, METADATA, [], create=False, notes="digest")
    (asked,) = method.asked
    body = asked.pop("body")
    assert asked == NAMES
    assert (body.version_notes, body.subtitle) == ("digest", "rows and rows of it")
    assert body.files == []


@pytest.mark.parametrize(
    ("answered", "kind", "words"),
    [
        (answer(error="The title is in use"), RefusedError, "The title is in use"),
        (answer(status="error"), RefusedError, "refused the dataset: error"),
        (answer(status=None), UncertainError, "does not say"),
    ],
)
def test_a_dataset_that_is_not_taken(client, answered, kind, words):
    client.datasets = SimpleNamespace(create_dataset=answering(answered))
    with pytest.raises(kind, match=words):
        commit_dataset(client, METADATA, [], create=True, notes="n")
