"""The checkout: where it is, clean copies of it, and the package's wheel."""

import shutil
import zipfile
from pathlib import Path

import pytest

import humanpref
from humanpref.files import sha256
from humanpref.kaggle.bundle.checkout import build_wheel, copy_clean, find_project, normalize_wheel
from humanpref.schema import InputError

PROJECT = Path(__file__).parents[3]


def sources() -> set[Path]:
    """What a build could leave its droppings in or beside."""
    below = {path for path in (PROJECT / "src").rglob("*") if "__pycache__" not in path.parts}
    return below | {path for path in PROJECT.iterdir() if not path.name.startswith(".")}


def test_the_wheel_holds_the_package_and_the_checkout_stays_as_it_is(tmp_path):
    before = sources()
    wheel = build_wheel(PROJECT, tmp_path / "one")
    assert sources() == before
    assert wheel.name == f"humanpref-{humanpref.__version__}-py3-none-any.whl"
    files = {
        path for path in before if path.is_file() and PROJECT / "src" / "humanpref" in path.parents
    }
    expected = {str(path.relative_to(PROJECT / "src")) for path in files}
    with zipfile.ZipFile(wheel) as archive:
        assert {name for name in archive.namelist() if ".dist-info/" not in name} == expected
    # The same sources give the same bytes, so that a digest tells whether a dataset is up to date.
    assert sha256(wheel) == sha256(build_wheel(PROJECT, tmp_path / "two"))


def test_a_wheel_is_built_from_clean_sources(tmp_path):
    """What tools leave in a checkout is not copied, so that it can neither get into the wheel nor
    change its bytes."""
    for name in (
        "pkg/__init__.py",
        "pkg/__pycache__/a.pyc",
        "pkg.egg-info/SOURCES.txt",
        ".hidden",
        "pkg/deep/x.egg-info/y",
    ):
        (tmp_path / "src" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "src" / name).write_text("x")
    copy_clean(tmp_path / "src", tmp_path / "copy")
    assert [path for path in (tmp_path / "copy").rglob("*") if path.is_file()] == [
        tmp_path / "copy" / "pkg" / "__init__.py"
    ]


def test_a_wheels_bytes_do_not_depend_on_order_times_modes_or_compression(tmp_path):
    built = []
    for number, names in enumerate(
        (["b.py", "a.py", "p-1.dist-info/RECORD"], ["p-1.dist-info/RECORD", "a.py", "b.py"])
    ):
        path = tmp_path / f"{number}.whl"
        with zipfile.ZipFile(
            path, "w", (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)[number]
        ) as archive:
            for name in names:
                entry = zipfile.ZipInfo(name, date_time=(2000 + number, 1, 1, 0, 0, 0))
                entry.external_attr = (0o100600, 0o100777)[number] << 16
                archive.writestr(entry, name * 50)
        built.append(normalize_wheel(path, tmp_path / f"{number}.out"))
    assert built[0].read_bytes() == built[1].read_bytes()
    with zipfile.ZipFile(built[0]) as archive:
        assert archive.namelist() == ["a.py", "b.py", "p-1.dist-info/RECORD"]
        assert {entry.external_attr >> 16 for entry in archive.infolist()} == {0o100644}
        assert archive.testzip() is None


def test_a_wheel_that_cannot_be_built(tmp_path):
    shutil.copytree(PROJECT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "setup.py").write_text("raise SystemExit('broken')")
    with pytest.raises(InputError, match="the wheel cannot be built; pip exited with code 1"):
        build_wheel(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_checkout_is_found_from_within_and_from_without(tmp_path, monkeypatch):
    assert find_project(PROJECT / "kernel" / "infer") == PROJECT
    assert find_project(tmp_path) == Path(humanpref.__file__).resolve().parents[2]
    installed = tmp_path / "lib" / "humanpref" / "__init__.py"
    monkeypatch.setattr(humanpref, "__file__", str(installed))
    with pytest.raises(InputError, match="expected a checkout of humanpref"):
        find_project(tmp_path)
