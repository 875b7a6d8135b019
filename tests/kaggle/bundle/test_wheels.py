"""The vendored wheels: which are needed, which are refused, and what pip makes of the lock."""

import shutil

import pytest

from humanpref.files import sha256
from humanpref.kaggle.bundle import wheels
from humanpref.kaggle.bundle.image import IMAGE, read_image
from humanpref.kaggle.bundle.wheels import (
    LOCK,
    closure_faults,
    download,
    fetch,
    read_lock,
    read_wheel,
    remake_lock,
    write_lock,
)
from humanpref.schema import InputError

from ..fake_wheels import make_wheel, only_from


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image.txt"
    path.write_text(
        "# Date: 2026-10\nnumpy==2.0.2\ntorch==2.10.0\nscikit_learn==1.6.1  # a remark\nlocal @ "
        "file:///x\nxgboost==3.2.0\n"
    )
    return read_image(path)


@pytest.fixture
def ours(tmp_path):
    return make_wheel(
        tmp_path / "ours", "humanpref", "0.1.0", requires=("numpy>=1.26", "scikit-learn>=1.5")
    )


@pytest.fixture
def project(tmp_path, image, monkeypatch):
    """A checkout; its wheel lies in it and is not built."""
    folder = tmp_path / "project"
    (folder / "wheels").mkdir(parents=True)
    (tmp_path / "image.txt").rename(folder / "wheels" / IMAGE)
    monkeypatch.setattr(wheels, "build_wheel", lambda project, _: next(project.glob("*.whl")))
    return folder


def faults(ours, image, *vendored):
    return closure_faults([read_wheel(path) for path in (ours, *vendored)], image)


def test_a_closure_that_installs(ours, image, tmp_path):
    two = [
        make_wheel(
            tmp_path,
            "fast",
            tags=f"cp{version}-cp{version}-manylinux_2_28_x86_64",
            requires=("numpy",),
        )
        for version in (312, 313)
    ]
    anywhere = make_wheel(
        tmp_path, "plain-helper", requires=("fast[more]>=1", "colorama; sys_platform == 'win32'")
    )
    stable = make_wheel(tmp_path, "stable", tags="cp38-abi3-manylinux2014_x86_64")
    assert faults(ours, image, *two, anywhere, stable) == []


@pytest.mark.parametrize(
    "tags",
    [
        "cp311-cp311-manylinux_2_17_x86_64",
        "cp312-cp312-win_amd64",
        "cp312-cp312-manylinux_2_39_x86_64",
        "cp312-cp312-musllinux_1_2_x86_64",
    ],
)
def test_a_wheel_for_another_python_or_platform(ours, image, tmp_path, tags):
    wrong = make_wheel(tmp_path, "fast", tags=tags)
    assert faults(ours, image, wrong) == [
        f"{wrong.name}: not for the image's Python {python} on Linux x86_64 with glibc 2.35 "
        "(Requires-Python any)"
        for python in ("3.12", "3.13")
    ]


def test_a_wheel_for_one_of_the_pythons_alone(ours, image, tmp_path):
    (fault,) = faults(
        ours, image, make_wheel(tmp_path, "fast", tags="cp312-cp312-manylinux_2_17_x86_64")
    )
    assert "not for the image's Python 3.13 on" in fault
    fault, _ = faults(ours, image, make_wheel(tmp_path, "old", python="<3.12"))
    assert fault.endswith("Requires-Python <3.12)")


@pytest.mark.parametrize(
    ("requires", "expected"),
    [
        (
            ("nowhere>=2",),
            "helper-1.0-py3-none-any.whl: needs nowhere>=2, which neither the image nor the bundle "
            "has",
        ),
        (
            ("scikit-learn>=1.7",),
            "helper-1.0-py3-none-any.whl: needs scikit-learn>=1.7, but the image has 1.6.1",
        ),
        (
            ("humanpref>=7",),
            "helper-1.0-py3-none-any.whl: needs humanpref>=7, but the bundle has 0.1.0",
        ),
        (
            ("tail; python_version >= '3.13'",),
            "helper-1.0-py3-none-any.whl: needs tail, which neither the image nor the bundle has",
        ),
    ],
)
def test_a_missing_dependency(ours, image, tmp_path, requires, expected):
    assert faults(ours, image, make_wheel(tmp_path, "helper", requires=requires)) == [expected]


def test_the_extras_that_the_kernels_import_are_required_and_no_others(image, tmp_path):
    ours = make_wheel(
        tmp_path,
        "humanpref",
        "0.1.0",
        requires=(
            "peft>=1; extra == 'torch'",
            "ruff; extra == 'test'",
            "xgboost-cpu>=3; extra == 'boosted'",
        ),
    )
    assert faults(ours, image) == [
        "humanpref-0.1.0-py3-none-any.whl: needs peft>=1, which neither the image nor the bundle "
        "has"
    ]


def test_what_an_extra_of_a_vendored_wheel_needs(image, tmp_path):
    ours = make_wheel(tmp_path, "humanpref", "0.1.0", requires=("fast[more]",))
    fast = make_wheel(
        tmp_path, "fast", requires=("nowhere; extra == 'more'", "ruff; extra == 'less'")
    )
    assert faults(ours, image, fast) == [
        "fast-1.0-py3-none-any.whl: needs nowhere, which neither the image nor the bundle has"
    ]


def test_torch_and_numpy_are_never_replaced(ours, image, tmp_path):
    numpy = make_wheel(tmp_path, "numpy", "2.4.0")
    assert faults(ours, image, numpy) == [
        "numpy-2.4.0-py3-none-any.whl: would replace the image's numpy"
    ]


@pytest.mark.parametrize("name", ["fast-1.0-py3-none-any.whl", "fast.whl"])
def test_what_is_not_a_wheel(tmp_path, name):
    (tmp_path / name).write_bytes(b"no zip")
    with pytest.raises(InputError, match="not a readable wheel"):
        read_wheel(tmp_path / name)


def test_a_wheel_that_is_not_in_the_lock(image, tmp_path, monkeypatch):
    only_from(monkeypatch, tmp_path / "nothing")
    fast = make_wheel(tmp_path, "fast")
    make_wheel(tmp_path, "humanpref")  # an older one of ours, which does not matter
    needs = read_wheel(make_wheel(tmp_path / "ours", "humanpref", "0.1.0", requires=("fast",)))
    write_lock(tmp_path / LOCK, [read_wheel(fast)])
    assert [wheel.path for wheel in fetch(tmp_path, needs, image)] == [fast]
    fast.write_bytes(fast.read_bytes() + b" ")
    with pytest.raises(InputError, match="no wheel for the image's Python"):
        fetch(tmp_path, needs, image)


@pytest.mark.slow
def test_only_what_the_extras_need_is_fetched(image, tmp_path, monkeypatch):
    """The lock holds what any bundle may need; a bundle gets its own share of it."""
    index, folder = tmp_path / "index", tmp_path / "wheels"
    folder.mkdir()
    only_from(monkeypatch, index)
    monkeypatch.setattr(wheels, "PYTHONS", ("3.12",))  # one call of pip for each fetched wheel
    bits = make_wheel(index, "bits", requires=("torch", "deep>=1"))
    deep = make_wheel(index, "deep", "2.0")
    other = make_wheel(index, "other")
    write_lock(folder / LOCK, [read_wheel(path) for path in (bits, deep, other)])
    requires = ("numpy", "bits; extra == 'quantised'", "torch; extra == 'torch'")
    ours = read_wheel(make_wheel(tmp_path / "ours", "humanpref", "0.1.0", requires=requires))
    assert fetch(folder, ours, image) == []
    assert list(folder.glob("*.whl")) == []
    extras = {*wheels.EXTRAS, "quantised"}
    found = fetch(folder, ours, image, extras)
    assert [wheel.path for wheel in found] == [folder / bits.name, folder / deep.name]
    assert closure_faults([ours, *found], image, extras) == []
    # What a later bundle does not need stays where it is and out of that bundle.
    assert fetch(folder, ours, image) == []
    (fault,) = closure_faults([ours], image, extras)
    assert fault.endswith("needs bits, which neither the image nor the bundle has")


def test_a_lock_is_read_as_it_was_written(tmp_path):
    one, two = (make_wheel(tmp_path, "fast", tags=f"cp{v}-cp{v}-linux_x86_64") for v in (312, 313))
    other = make_wheel(tmp_path, "able", "2.0")
    write_lock(tmp_path / LOCK, [read_wheel(path) for path in (one, two, other)])
    locked = read_lock(tmp_path / LOCK)
    assert locked == {"fast==1.0": {sha256(one), sha256(two)}, "able==2.0": {sha256(other)}}
    text = (tmp_path / LOCK).read_text()
    assert text.index("able==2.0 \\\n    --hash=sha256:") < text.index("fast==1.0 \\\n    --hash")
    assert text.count("fast==1.0") == 1


@pytest.mark.slow
def test_our_tags_are_pips(tmp_path, monkeypatch):
    """What we call fitting, pip takes; what we refuse, it refuses."""
    only_from(monkeypatch, tmp_path / "index")
    for name, tags, fits in (
        ("one", "cp312-cp312-manylinux_2_5_x86_64.manylinux1_x86_64", True),
        ("two", "cp38-abi3-manylinux_2_35_x86_64", True),
        ("three", "cp312-cp312-manylinux_2_36_x86_64", False),
        ("four", "cp313-cp313-manylinux_2_17_x86_64", False),
    ):
        assert read_wheel(make_wheel(tmp_path / "index", name, tags=tags)).fits("3.12") is fits
        if not fits:
            with pytest.raises(InputError, match=r"no wheel for the image's Python 3\.12"):
                download("3.12", tmp_path / "got", name)
    download("3.12", tmp_path / "got", "one", "two")


@pytest.mark.slow
def test_the_lock_is_remade_from_what_the_image_lacks_and_fetched_by_hash(
    image, project, tmp_path, monkeypatch
):
    index, folder = tmp_path / "index", project / "wheels"
    only_from(monkeypatch, index)
    ours = make_wheel(project, "humanpref", "0.1.0", requires=("numpy>=1.26", "needed-thing>=1,<3"))
    make_wheel(index, "needed-thing", "3.0")
    make_wheel(index, "needed-thing", "1.0")
    make_wheel(index, "needed-thing", "2.0", requires=("numpy", "deep"))
    deep = [
        make_wheel(index, "deep", tags=f"cp{v}-cp{v}-manylinux_2_28_x86_64") for v in (312, 313)
    ]
    locked = remake_lock(project)
    text = (folder / LOCK).read_text()
    needed = index / "needed_thing-2.0-py3-none-any.whl"
    assert {(wheel.name, str(wheel.version)) for wheel in locked} == {
        ("deep", "1.0"),
        ("needed-thing", "2.0"),
    }
    assert read_lock(folder / LOCK) == {
        "deep==1.0": set(map(sha256, deep)),
        "needed-thing==2.0": {sha256(needed)},
    }
    assert "://" not in text
    assert str(tmp_path) not in text
    own = read_wheel(ours)

    def fetched_again():
        return [wheel.path for wheel in fetch(folder, own, image)]

    fetched = fetched_again()
    assert [path.name for path in fetched] == [
        "deep-1.0-cp312-cp312-manylinux_2_28_x86_64.whl",
        "deep-1.0-cp313-cp313-manylinux_2_28_x86_64.whl",
        "needed_thing-2.0-py3-none-any.whl",
    ]
    assert faults(ours, image, *fetched) == []
    # What is there is not fetched again; what was re-uploaded under the same name is refused.
    only_from(monkeypatch, tmp_path / "nothing")
    assert fetched_again() == fetched
    kept = fetched[2].read_bytes()
    fetched[2].write_bytes(kept + b" ")
    with pytest.raises(InputError, match="no wheel for the image's Python"):
        fetched_again()
    only_from(monkeypatch, index)
    assert fetched_again() == fetched
    assert fetched[2].read_bytes() == kept
    fetched[2].unlink()
    make_wheel(index, "needed-thing", "2.0", requires=("numpy", "deep"), code="evil = True")
    with pytest.raises(InputError, match="no wheel for the image's Python"):
        fetched_again()
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [*(p.name for p in fetched[:2]), LOCK, IMAGE]
    )


def test_what_cannot_be_locked(project, tmp_path, monkeypatch):
    only_from(monkeypatch, tmp_path / "index")
    target = project / "wheels" / LOCK
    for requires, message in (
        (
            ("numpy>=3",),
            "needs numpy>=3, but the image has 2.0.2; a bundle must not replace the image's numpy",
        ),
        (("nowhere",), "pip found no wheel for the image's Python 3.12"),
    ):
        make_wheel(project, "humanpref", "0.1.0", requires=requires)
        with pytest.raises(InputError, match=message):
            remake_lock(project)
    assert not target.exists()
    make_wheel(project, "humanpref", "0.1.0", requires=("numpy",))
    shutil.copy(project / "wheels" / IMAGE, tmp_path)
    (project / "wheels" / IMAGE).write_text("nothing==1.0\n")
    assert remake_lock(project, tmp_path / IMAGE) == []
    assert "# None: the image has every library" in target.read_text()
    assert read_lock(target) == {}


@pytest.mark.parametrize(
    "line", ["fast>=1.0", "fast==1.0", "fast==1.0 --hash=md5:12", "--index-url somewhere"]
)
def test_a_lock_that_pins_nothing(tmp_path, line):
    (tmp_path / "lock").write_text(f"# a remark\n{line}\n")
    with pytest.raises(InputError, match="expected name==version --hash=sha256"):
        read_lock(tmp_path / "lock")
