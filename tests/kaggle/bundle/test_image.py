"""Kaggle's image, as a freeze has it."""

from pathlib import Path

import pytest

from humanpref.kaggle.bundle.image import (
    IMAGE,
    environment,
    image_tags,
    is_newer,
    platforms,
    read_image,
)
from humanpref.schema import InputError


def test_the_image_is_read_from_a_freeze(tmp_path):
    path = tmp_path / "image.txt"
    path.write_text(
        "# Date: 2026-10\nnumpy==2.0.2\nscikit_learn==1.6.1  # a remark\nlocal @ file:///x\n"
        "xgboost==3.2.0\n"
    )
    image = read_image(path)
    assert {name: str(version) for name, version in image.versions.items()} == {
        "numpy": "2.0.2",
        "scikit-learn": "1.6.1",
        "xgboost": "3.2.0",
    }
    (tmp_path / "empty.txt").write_text("numpy\n")
    with pytest.raises(InputError, match="has no name==version line"):
        read_image(tmp_path / "empty.txt")
    assert str(image.version("xgboost-cpu")) == "3.2.0"
    assert image.version("peft") is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"numpy==2.0.2\ntorch==new\n", "torch: expected a version, got 'new'"),
        (b"\xff", "expected UTF-8 text"),
        (None, "cannot be read"),
    ],
)
def test_a_freeze_that_cannot_be_read(tmp_path, content, message):
    path = tmp_path / "image.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_image(path)


def test_the_committed_freeze():
    image = read_image(Path(__file__).parents[3] / "wheels" / IMAGE)
    assert {"torch", "numpy", "jinja2", "pydantic", "sentence-transformers"} < image.versions.keys()


def test_the_tags_of_wheels_for_the_image():
    tags = {str(tag) for tag in image_tags("3.12")}
    assert {"cp312-cp312-manylinux_2_35_x86_64", "cp38-abi3-manylinux2014_x86_64"} < tags
    assert {"py3-none-any", "cp312-none-any"} < tags
    assert not {"cp313-cp313-manylinux_2_17_x86_64", "cp312-cp312-manylinux_2_36_x86_64"} & tags


def test_markers_are_of_the_image_and_not_of_the_running_python():
    from packaging.markers import Marker

    for text, there in (
        ("python_version >= '3.13'", False),
        ("python_full_version == '3.12.0' and implementation_version == '3.12.0'", True),
        ("sys_platform == 'linux' and platform_system == 'Linux' and os_name == 'posix'", True),
        ("platform_machine == 'x86_64' and implementation_name == 'cpython'", True),
        ("platform_python_implementation == 'CPython'", True),
    ):
        assert Marker(text).evaluate(environment("3.12")) is there, text


def test_platforms_have_their_old_names():
    names = platforms()
    assert names[:2] == ["manylinux_2_35_x86_64", "manylinux_2_34_x86_64"]
    place = names.index("manylinux2014_x86_64")
    assert names[place - 1] == "manylinux_2_17_x86_64"
    assert "manylinux2010_x86_64" in names
    assert names[-2:] == ["manylinux_2_5_x86_64", "manylinux1_x86_64"]


@pytest.mark.parametrize(
    ("version", "other", "newer"),
    [
        ("2.10.0", "2.9.0", True),
        ("2.10.0+cu128", "2.10.0", False),
        ("2.9.0", "2.10.0", False),
        ("unknown", "2.10.0", True),
        (None, "2.10.0", True),
    ],
)
def test_is_newer(version, other, newer):
    assert is_newer(version, other) is newer
