"""The line that a message gives for a missing library can be run as it is."""

import json
import shlex
from importlib import metadata
from types import SimpleNamespace

import pytest

from humanpref.extras import install_line


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (
            {"url": "file:///home/me/a%20clone", "dir_info": {"editable": True}},
            ["-e", "/home/me/a clone[torch]"],
        ),
        ({"url": "file:///home/me/clone", "dir_info": {}}, ["/home/me/clone[torch]"]),
        ({"url": "file:///tmp/h-1.whl", "archive_info": {}}, ["/tmp/h-1.whl[torch]"]),
        (None, ["-e", ".[torch]"]),
    ],
)
def test_the_extra_comes_from_where_the_package_came(monkeypatch, record, words):
    text = None if record is None else json.dumps(record)
    found = SimpleNamespace(read_text={"direct_url.json": text}.__getitem__)
    monkeypatch.setattr(metadata, "distribution", lambda name: found)
    assert shlex.split(install_line("torch")) == ["pip", "install", *words]


def test_without_an_installation(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    assert install_line("figures") == "pip install -e '.[figures]'"
