"""What an artifact says of its base, where the base is found, and in which order."""

import shutil
from pathlib import Path

import pytest

from humanpref.models.bases import (
    BASE_VARIABLE,
    is_folder_name,
    places,
    public_config,
    public_name,
    remember,
)

DIGEST = "a" * 64


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Returns a folder that looks like a base's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(BASE_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)

    def make(place):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "config.json").touch()
        return tmp_path / place

    return make


def test_the_order(folder, tmp_path, monkeypatch):
    model = tmp_path / "work" / "artifact" / "fold-0"
    model.mkdir(parents=True)
    named = folder("override/base")
    around = [
        folder(f"work/{place}") for place in ("artifact/fold-0/base", "artifact/base", "base")
    ]
    remembered, here = folder("far/away"), folder("base")
    remember(DIGEST, remembered)
    assert list(places("./base", DIGEST, model)) == [*around, here, remembered, Path("base")]
    monkeypatch.setenv(BASE_VARIABLE, str(tmp_path / "override"))
    assert next(places("./base", DIGEST, model)) == named
    assert remembered not in places("./base", "b" * 64, model)


def test_a_base_that_is_gone_is_no_place(folder, tmp_path):
    base = folder("base")
    remember(DIGEST, base)
    shutil.rmtree(base)
    assert list(places("./base", DIGEST, tmp_path)) == []


def test_without_a_cache_nothing_is_remembered(folder, tmp_path, monkeypatch):
    (tmp_path / "cache").touch()
    remember(DIGEST, folder("base"))
    assert list(places("./other", DIGEST, tmp_path)) == []


def test_a_name_without_its_path(folder):
    here = folder("owner/base")
    folder("scratch")  # is no backbone
    for name in (str(here), "owner/base", "./owner/base", "../elsewhere/base", "/gone/base"):
        assert public_name(name) == "./base"
        assert is_folder_name(public_name(name))
    for name in ("owner/other", "gpt2", "scratch"):
        assert public_name(name) == name
        assert not is_folder_name(name)


def test_only_backbones_change_in_a_configuration():
    values = {"seed": 1, "model": {"backbone": "", "question": "/a or b?", "answers": ["/x"]}}
    assert public_config(values) == values


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("embedding model.backbone=/a/b seed=1", "embedding model.backbone=./b seed=1"),
        ("embedding 'model.backbone=/a b/c' seed=1", "embedding 'model.backbone=./c' seed=1"),
        ('embedding model.backbone="/a b/c" seed=1', 'embedding model.backbone="./c" seed=1'),
        (r"embedding model.backbone=/a\ b/c seed=1", "embedding model.backbone=./c seed=1"),
        ("embedding model.backbone=owner/name", "embedding model.backbone=owner/name"),
        ("it's in model.backbone", "it's in model.backbone"),
        (
            'model.members=["sparse", "embedding model.backbone=/a/b", "boosted"]',
            'model.members=["sparse", "embedding model.backbone=./b", "boosted"]',
        ),
        (
            r'model.members=["embedding \"model.backbone=/a b/c\" seed=1", "boosted"]',
            r'model.members=["embedding \"model.backbone=./c\" seed=1", "boosted"]',
        ),
        (
            r'model.members=["embedding model.backbone=\"/a b/c\"", "boosted"]',
            r'model.members=["embedding model.backbone=\"./c\"", "boosted"]',
        ),
        (
            r"""model.members=["embedding model.backbone='/a b/c'", "boosted"]""",
            r"""model.members=["embedding model.backbone='./c'", "boosted"]""",
        ),
    ],
)
def test_the_backbone_of_a_blends_member(text, expected):
    assert public_config(text) == expected
