"""A kernel's sources: how they are named, and where they are mounted."""

import pytest

from humanpref.kaggle.bundle.sources import is_source, mount_path
from humanpref.kaggle.competitions import DEFAULT
from humanpref.schema import InputError


@pytest.mark.parametrize(
    ("kind", "reference", "new", "legacy"),
    [
        ("competition", DEFAULT, f"competitions/{DEFAULT}", DEFAULT),
        ("dataset", "me/humanpref-wheels", "datasets/me/humanpref-wheels", "humanpref-wheels"),
        ("dataset", "me/humanpref-wheels/3", "datasets/me/humanpref-wheels", "humanpref-wheels"),
        ("kernel", "me/humanpref-train", "notebooks/me/humanpref-train", "humanpref-train"),
        (
            "model",
            "meta/llama/transformers/1b/1",
            "models/meta/llama/transformers/1b/1",
            "llama/transformers/1b/1",
        ),
    ],
)
def test_where_kaggle_mounts(kind, reference, new, legacy):
    assert str(mount_path(kind, reference, "new")) == new
    assert str(mount_path(kind, reference, "legacy")) == legacy


@pytest.mark.parametrize(
    ("kind", "reference"), [("dataset", "wheels"), ("model", "a/b/c/d"), ("kernel", "me/")]
)
def test_a_reference_that_names_nothing(kind, reference):
    with pytest.raises(InputError, match=f"{kind}_sources: expected owner/.*, got '{reference}'"):
        mount_path(kind, reference, "new")


@pytest.mark.parametrize(
    ("kind", "reference", "valid"),
    [
        ("competition", "titanic", True),
        ("competition", "kaggle/titanic", False),
        ("dataset", "INSERT_USERNAME/humanpref-wheels", True),
        ("dataset", "humanpref-wheels", False),
        ("dataset", "ann/Wheels", False),
        ("kernel", "ann-b_3/a-kernel/2", True),
        ("kernel", "ann/a-kernel/0", False),
        ("kernel", "ann/a--kernel", False),
        ("model", "metaresearch/llama-3.2/transformers/1b/1", True),
        ("model", "metaresearch/llama-3.2/transformers/1b", False),
        ("model", "metaresearch/llama-3.2/transformers/1b/x", False),
        ("model", "metaresearch/llama-3.2/transformers/1b/1/2", False),
    ],
)
def test_what_names_a_source(kind, reference, valid):
    assert is_source(kind, reference) is valid
