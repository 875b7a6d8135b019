"""The manifest of an uploaded folder, and what must not be in it."""

import pytest

from humanpref.files import read_json, sha256
from humanpref.kaggle.bundle.manifest import manifest_faults, upload_faults, write_manifest
from humanpref.schema import InputError


@pytest.fixture
def folder(tmp_path):
    """A folder with a manifest of two files."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a").write_text("one")
    (tmp_path / "b").write_text("two")
    (tmp_path / "dataset-metadata.json").write_text("{}")
    return write_manifest(tmp_path, "manifest.json", {"version": "1"})


def test_a_manifest_has_the_name_size_and_digest_of_every_file(folder):
    manifest = read_json(folder / "manifest.json")
    assert (manifest["format"], manifest["version"]) == (1, "1")
    assert manifest["files"] == [
        {"name": "b", "bytes": 3, "sha256": sha256(folder / "b")},
        {"name": "deep/a", "bytes": 3, "sha256": sha256(folder / "deep" / "a")},
    ]
    assert manifest_faults(folder, "manifest.json") == {}


def test_what_differs_from_the_manifest(folder):
    (folder / "b").unlink()
    (folder / "c").write_text("x")
    (folder / "deep" / "a").write_text("eno")
    assert manifest_faults(folder, "manifest.json") == {
        "b": "in the manifest, but missing",
        "c": "not in the manifest",
        "deep/a": "not the file that the manifest describes",
    }


@pytest.mark.parametrize("text", ["[]", "{}", '{"files": [1]}', "no JSON"])
def test_what_is_not_a_manifest(folder, text):
    (folder / "manifest.json").write_text(text)
    (fault,) = manifest_faults(folder, "manifest.json").values()
    assert fault.startswith("not a manifest (")


def test_what_must_not_be_uploaded(tmp_path):
    assert upload_faults(tmp_path) == {}
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert upload_faults(tmp_path) == {"link": "a link; replace it with the file itself"}


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("a.zip", "an archive"),
        ("a.TAR.GZ", "an archive"),
        ("zip", None),
        ("a.whl", None),
        ("empty", "an empty file"),
        ("pointer", "a git-lfs pointer"),
    ],
)
def test_what_kaggle_would_drop_or_unpack(tmp_path, name, fault):
    contents = {"empty": "", "pointer": "version https://git-lfs.github.com/spec/v1\n"}
    (tmp_path / name).write_text(contents.get(name, "x"))
    faults = upload_faults(tmp_path)
    assert list(faults) == ([name] if fault else [])
    assert not fault or faults[name].startswith(fault)
    if fault:
        with pytest.raises(InputError, match=f"^{name}: {fault}"):
            write_manifest(tmp_path, "manifest.json", {})
        assert not (tmp_path / "manifest.json").exists()
