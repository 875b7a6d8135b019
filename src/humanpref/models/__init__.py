"""The model families behind one common interface. A family's module, which may import torch or
other libraries, is imported only when a model of that family is built."""

import importlib
import importlib.util
from collections.abc import Iterable, Iterator
from pathlib import Path

from humanpref.config import Config, from_dict
from humanpref.config.neural import REFERENCED
from humanpref.extras import install_line
from humanpref.files import read_json
from humanpref.models.base import CONFIG_FILE, Model
from humanpref.schema import InputError, refuse_failures

__all__ = [
    "Model",
    "build_model",
    "extras_of",
    "libraries_of",
    "load_model",
    "model_of",
    "module_of",
]

_NEURAL = ("transformers", "tokenizers")
_LIBRARIES = {
    "sparse": ("scikit-learn",),
    "boosted": ("scikit-learn", "xgboost"),
    "embedding": (*_NEURAL, "sentence-transformers"),
    **dict.fromkeys(("encoder", "decoder", "dpo"), _NEURAL),
}
"""For each family, the libraries whose versions affect a saved model."""

_OPTION_LIBRARIES = (
    ("peft", REFERENCED, "peft", "torch"),
    ("selection", ("forward", "backward"), "lightgbm", "boosted"),
    ("preprocess", ("nltk", "nltk-no-spaces"), "nltk", "nltk"),
    ("quantisation", ("8bit", "4bit"), "bitsandbytes", "quantised"),
)
"""The libraries that individual model options need: the option, the values that need the library,
the library, and the extra that installs it."""
_FITTING = ("selection",)
"""Options whose library is needed for fitting, but not for predicting."""


def build_model(config: Config) -> Model:
    """Return an unfitted model of the configuration's family.

    Raises
    ------
    InputError
        If a library that the family or one of its options needs is not installed.
    """
    model = model_of(config)
    _check_libraries(_needs(config))
    return model


def _check_libraries(needs: Iterable[tuple[str, str, str, str]]) -> None:
    for option, value, library, extra in needs:
        if importlib.util.find_spec(library) is None:
            raise InputError(
                f"option model.{option}: {value} needs {library}: {install_line(extra)}"
            )


def _needs(config: Config) -> Iterator[tuple[str, str, str, str]]:
    """Yield (option, value, library, pip extra that installs it) for each option whose value needs
    a library."""
    for option, values, library, extra in _OPTION_LIBRARIES:
        value = getattr(config.model, option, None)
        if value in values:
            yield option, value, library, extra


def libraries_of(config: Config) -> set[str]:
    """Return the libraries, other than numpy and torch, whose versions affect a saved model of this
    configuration."""
    used = {*_LIBRARIES.get(config.family, ()), *(library for _, _, library, _ in _needs(config))}
    if getattr(config.model, "offset", "none") != "none":
        used.update(_LIBRARIES["sparse"])
    return used


def extras_of(config: Config) -> set[str]:
    """Return the names of this package's pip extras that the configuration's options need.

    Examples
    --------
    >>> from humanpref.config import load_config
    >>> sorted(extras_of(load_config("gemma-2-9b-qlora")))
    ['quantised', 'torch']
    """
    return {extra for *_, extra in _needs(config)}


def module_of(config: Config) -> str:
    """Return the name of the module that implements the configuration's family. For example, family
    `dpo` is the class `DpoModel` in `humanpref.models.dpo`."""
    return f"humanpref.models.{config.family}"


def model_of(config: Config) -> Model:
    """Return an unfitted model of the configuration's family, whether or not the libraries that its
    options need are installed."""
    try:
        module = importlib.import_module(module_of(config))
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("humanpref"):
            raise
        extra = "boosted" if config.family == "boosted" else "torch"
        raise InputError(
            f"family {config.family} needs {error.name}: {install_line(extra)}"
        ) from None
    return getattr(module, f"{config.family.title()}Model").from_config(config)


def load_model(folder: str | Path) -> Model:
    """Load the model that `Model.save` wrote into a folder.

    Raises
    ------
    InputError
        If the model is incomplete or damaged, or cannot predict a row, or if a library that it
        needs is not installed.
    """
    folder = Path(folder)
    path = folder / CONFIG_FILE
    config = from_dict(read_json(path), str(path))
    model = model_of(config)
    _check_libraries(need for need in _needs(config) if need[0] not in _FITTING)
    with refuse_failures(f"{folder}: cannot be used; is it complete?"):
        model.load_state(folder)
        model.try_out()
    return model
