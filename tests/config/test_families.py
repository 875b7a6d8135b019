import pytest

from humanpref.config import FAMILIES, Config, valid_keys
from humanpref.schema import InputError


def test_valid_keys_are_those_of_the_family():
    assert "training.epochs" in valid_keys("encoder")
    assert "training.epochs" not in valid_keys("sparse")
    shared = ["validation_fraction", "seeds", "classes"]
    assert valid_keys("prior") == ["seed", *(f"training.{name}" for name in shared)]


def test_the_default_options_of_every_family_fit():
    for family, sections in FAMILIES.items():
        assert (
            Config(family, **{name: kind() for name, kind in sections._asdict().items()}).seed == 42
        )


def test_the_seed_has_a_range():
    for seed in (-1, 2**32, 1.5):
        with pytest.raises(InputError, match="option seed: expected"):
            Config("prior", seed=seed)
