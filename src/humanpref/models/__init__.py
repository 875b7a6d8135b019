"""The model families behind one protocol. A family's module, and what it needs (torch, say), is
imported when it is built."""

import importlib
import importlib.util
from pathlib import Path

from humanpref.config import Config, from_dict
from humanpref.config.neural import REFERENCED
from humanpref.files import read_json
from humanpref.models.base import CONFIG_FILE, Model
from humanpref.schema import InputError

__all__ = ["Model", "build_model", "libraries_of", "load_model", "model_of", "module_of"]

_CLASSES = {
    "prior": ("humanpref.models.prior", "PriorModel"),
    "sparse": ("humanpref.models.sparse", "SparseModel"),
    "embedding": ("humanpref.models.embedding", "EmbeddingModel"),
    "boosted": ("humanpref.models.boosted", "BoostedModel"),
    "encoder": ("humanpref.models.encoder", "EncoderModel"),
    "blend": ("humanpref.models.blend", "BlendModel"),
    "dpo": ("humanpref.models.dpo", "DpoModel"),
    "decoder": ("humanpref.models.decoder", "DecoderModel"),
}

_EXTRAS = {"boosted": "boosted"}
"""What to install for a family that needs something else than the extra `torch`."""

_LIBRARIES = (
    ("peft", REFERENCED, "peft", "torch"),
    ("selection", ("forward", "backward"), "lightgbm", "boosted"),
    ("preprocess", ("nltk", "nltk-no-spaces"), "nltk", "nltk"),
)
"""What single options of the models need to learn: the option, its values, the library, and the
extra to install."""


def build_model(config: Config) -> Model:
    """An unfitted model of the configuration's family.

    Raises
    ------
    InputError
        If the libraries that the family, or one of its options, needs are not installed.
    """
    model = model_of(config)
    for option, values, library, extra in _LIBRARIES:
        value = getattr(config.model, option, None)
        if value in values and importlib.util.find_spec(library) is None:
            raise InputError(
                f"option model.{option}: {value} needs {library}: pip install 'humanpref[{extra}]'"
            )
    return model


_NEURAL = ("transformers", "tokenizers")
_FAMILY_LIBRARIES = {
    "sparse": ("scikit-learn",),
    "boosted": ("scikit-learn", "xgboost"),
    **dict.fromkeys(("encoder", "decoder", "dpo"), _NEURAL),
    "embedding": (*_NEURAL, "sentence-transformers"),
}


def libraries_of(config: Config) -> set[str]:
    """The libraries, numpy and torch apart, whose versions count for what a model of this
    configuration saves."""
    used = set(_FAMILY_LIBRARIES.get(config.family, ()))
    if getattr(config.model, "offset", "none") != "none":
        used |= set(_FAMILY_LIBRARIES["sparse"])
    options = (
        (getattr(config.model, option, None), values, library)
        for option, values, library, _ in _LIBRARIES
    )
    return used | {library for value, values, library in options if value in values}


def module_of(config: Config) -> str:
    """The name of the module that holds the configuration's family."""
    return _CLASSES[config.family][0]


def model_of(config: Config) -> Model:
    """Return an unfitted model of the configuration's family, whether or not what single options
    need to learn is installed."""
    module, name = _CLASSES[config.family]
    try:
        return getattr(importlib.import_module(module), name).from_config(config)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("humanpref"):
            raise
        extra = _EXTRAS.get(config.family, "torch")
        raise InputError(
            f"family {config.family} needs {error.name}: pip install 'humanpref[{extra}]'"
        ) from None


def load_model(folder: str | Path) -> Model:
    """The model that `Model.save` left in a folder.

    Raises
    ------
    InputError
        If the folder does not hold one, whole: a missing or an extra weight is an error.
    """
    folder = Path(folder)
    path = folder / CONFIG_FILE
    values = read_json(path)
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected a JSON object, got {type(values).__name__}")
    model = model_of(from_dict(values, str(path)))
    model.load_state(folder)
    return model
