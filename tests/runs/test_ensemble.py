"""What artifacts consist of, read without loading a weight."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from humanpref.config import load_config
from humanpref.files import write_json
from humanpref.models.blend import write_blend
from humanpref.models.blend_correction import Correction
from humanpref.models.blend_weights import Blend, equal_blend
from humanpref.runs import ensemble as module
from humanpref.runs.ensemble import Leaf, Mixture, equal_mixture, read_ensemble
from humanpref.schema import InputError
from humanpref.text.cases import CASES

A, B, C = [0.8, 0.1, 0.1], [0.2, 0.3, 0.5], [0.1, 0.1, 0.8]
PRIOR, SPARSE, BLEND = (load_config(name) for name in ("prior", "sparse", "cpu-best"))
NONE = np.array(["", ""], dtype=object)


def leaf(name):
    return Leaf(Path(name), PRIOR)


def two(row):
    return np.tile(np.array(row, dtype=float), (2, 1))


def write_leaf(folder, config=PRIOR):
    folder.mkdir(parents=True)
    write_json(folder / "config.json", config.to_dict())


def test_a_model_that_predicts_by_itself(tmp_path):
    write_leaf(tmp_path / "model", SPARSE)
    assert read_ensemble(tmp_path / "model") == Leaf(tmp_path / "model", SPARSE)


def test_a_blend_of_a_blend_without_a_weight(tmp_path):
    """Its members need not even be whole."""
    rates = np.zeros((len(CASES), 3))
    rates[0] = [0.1, 0.2, 0.7]
    outer = Blend("geometric", np.array([0.75, 0.25]), Correction(2.0, rates))
    inner = partial(
        write_blend,
        config=BLEND,
        blend=equal_blend("arithmetic", 2),
        members=[write_leaf, partial(write_leaf, config=SPARSE)],
    )
    geometric = load_config("cpu-best", None, ["model.mean=geometric"])
    write_blend(tmp_path / "model", geometric, outer, [write_leaf, inner])
    read = read_ensemble(tmp_path / "model")
    first, second = tmp_path / "model" / "member-0", tmp_path / "model" / "member-1"
    assert [(own.folder, own.config) for own in read.leaves()] == [
        (first, PRIOR),
        (second / "member-0", PRIOR),
        (second / "member-1", SPARSE),
    ]
    assert read.blend.weights.tolist() == [0.75, 0.25]
    predictions = {first: two(A), second / "member-0": two(B), second / "member-1": two(C)}
    cases = np.array([CASES[0], ""], dtype=object)
    mean = np.mean([two(B), two(C)], axis=0)
    np.testing.assert_allclose(
        read.probabilities(predictions, cases), outer(np.stack([two(A), mean]), cases), atol=1e-12
    )
    (second / "member-1" / "config.json").unlink()
    with pytest.raises(InputError, match=r"member-1/config\.json"):
        read_ensemble(tmp_path / "model")


def test_several_weigh_the_same_whatever_they_consist_of():
    folds = equal_mixture([leaf("a"), leaf("b"), leaf("c")])
    both = equal_mixture([folds, leaf("d")])
    predictions = {Path(name): two(row) for name, row in zip("abcd", (A, B, C, B), strict=True)}
    expected = np.mean([np.mean([A, B, C], axis=0), B], axis=0)
    np.testing.assert_allclose(both.probabilities(predictions, NONE), two(expected), atol=1e-12)


def test_one_alone_is_itself():
    one = leaf("a")
    assert equal_mixture([one]) is one
    assert one.leaves() == [one]
    predictions = {one.folder: two(A)}
    assert one.probabilities(predictions, NONE) is predictions[one.folder]


def test_what_is_not_known_goes_to_the_others():
    mixture = Mixture(Blend("arithmetic", np.array([0.6, 0.3, 0.1])), [leaf(n) for n in "abc"])
    predictions = {Path(name): two(row) for name, row in zip("abc", (A, B, C), strict=True)}
    predictions[Path("a")][0] = np.nan
    made = mixture.probabilities(predictions, NONE)
    np.testing.assert_allclose(made[0], 0.75 * np.array(B) + 0.25 * np.array(C), atol=1e-12)
    np.testing.assert_allclose(made[1], np.array([0.6, 0.3, 0.1]) @ [A, B, C], atol=1e-12)
    for own in predictions.values():
        own[0] = np.nan
    assert np.isnan(mixture.probabilities(predictions, NONE)).tolist() == [[True] * 3, [False] * 3]


def test_a_model_that_is_named_twice_is_one_leaf():
    both = equal_mixture([leaf("a"), equal_mixture([leaf("b"), leaf("a")])])
    assert [own.folder.name for own in both.leaves()] == ["a", "b"]


@pytest.mark.parametrize(
    ("preset", "overrides", "uses", "needs", "equivariant"),
    [
        ("prior", (), False, False, False),
        ("sparse", (), False, False, True),
        ("tiny", (), True, False, False),
        ("tiny", ("inference.swap_average=true",), True, False, True),
        ("deberta-v3-small", (), True, True, False),
    ],
)
def test_what_a_leaf_takes_follows_from_its_options(preset, overrides, uses, needs, equivariant):
    if uses:
        pytest.importorskip("torch")
    own = Leaf(Path("a"), load_config(preset, None, overrides))
    assert (own.uses_gpu, own.needs_gpu) == (uses, needs)
    if preset != "deberta-v3-small":
        assert own.swap_equivariant == equivariant


def test_the_base_of_a_model_is_looked_up_if_it_names_one(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    looked_up = []
    monkeypatch.setattr("humanpref.models.pretrained.find_base", looked_up.append)
    Leaf(tmp_path, load_config("prior")).hash_base()
    assert looked_up == []
    (tmp_path / "base.json").touch()
    Leaf(tmp_path, load_config("prior")).hash_base()
    assert looked_up == [tmp_path]


def test_a_loaded_model_shares_token_ids(monkeypatch):
    shared = []
    model = SimpleNamespace(share_token_ids=shared.append)
    monkeypatch.setattr(module, "load_model", lambda folder: model)
    memos = {}
    assert leaf("a").load(memos) is model
    assert shared[0] is memos
