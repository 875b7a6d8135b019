"""The structure of artifacts, read from disk without any weights: individual models (leaves) and
mixtures of them.

An artifact is an equal mixture of its fold models, several artifacts form an equal mixture of
artifacts, and a blend is a mixture with its own weights and correction.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from humanpref.config import Config, from_dict
from humanpref.config.gpu import needs_gpu, uses_gpu
from humanpref.files import read_json
from humanpref.models import Model, load_model, model_of
from humanpref.models.arrays import STATE_FILE
from humanpref.models.base import CONFIG_FILE
from humanpref.models.blend import read_state
from humanpref.models.blend_weights import Blend, equal_blend, mix
from humanpref.text.token_memo import TokenMemos


def _unchecked(*_: object) -> None:
    """Accept any file without checking it: the default of the argument `check`."""


@dataclass(frozen=True)
class Leaf:
    """A saved model that is not a mixture of others."""

    folder: Path
    config: Config
    check: Callable[[], object] = field(default=_unchecked, compare=False)
    """Raises InputError if a file of the model is damaged. The check reads all files, so a run
    makes it once, before the first process loads the model; by default, nothing is checked."""

    @property
    def uses_gpu(self) -> bool:
        """Whether the model uses a GPU if one exists; without a GPU it is slow."""
        return uses_gpu(self.config)

    @property
    def needs_gpu(self) -> bool:
        """Whether the model would take days on a CPU."""
        return needs_gpu(self.config)

    @property
    def swap_equivariant(self) -> bool:
        """Whether, by construction, exchanging A and B exchanges P(A) and P(B)."""
        return model_of(self.config).swap_equivariant

    def leaves(self) -> list["Leaf"]:
        """Return a list of just this leaf."""
        return [self]

    def hash_base(self) -> None:
        """If the model's folder names a base (in `base.json`), compute the base's digest now, so
        that the processes that load the model inherit the digest.

        Raises
        ------
        InputError
            If the base cannot be found.
        """
        if (self.folder / "base.json").is_file():
            from humanpref.models.pretrained import find_base

            find_base(self.folder)

    def load(self, memos: TokenMemos) -> Model:
        """Load the model. It shares token ids with all other models that use the same tokenizer."""
        model = load_model(self.folder)
        model.share_token_ids(memos)
        return model

    def probabilities(
        self, predictions: Mapping[Path, np.ndarray], cases: np.ndarray
    ) -> np.ndarray:
        """Pick this leaf's predictions, (n, 3), from those of all leaves by folder."""
        return predictions[self.folder]


@dataclass(frozen=True)
class Mixture:
    """Models, and the blend that combines their probabilities."""

    blend: Blend
    parts: Sequence["Ensemble"]

    def leaves(self) -> list[Leaf]:
        """Return the individual models of the mixture, each once."""
        return list({leaf.folder: leaf for part in self.parts for leaf in part.leaves()}.values())

    def probabilities(
        self, predictions: Mapping[Path, np.ndarray], cases: np.ndarray
    ) -> np.ndarray:
        """Mix the predictions known so far. For each row, mix only the models that predicted it.

        Parameters
        ----------
        predictions : mapping
            Each leaf's predictions, (n, 3), by its folder; NaN where it predicted nothing.
        cases : ndarray
            (n,) cases of the rows (`humanpref.text.cases`).

        Returns
        -------
        ndarray
            (n, 3) float64; NaN for rows that no model predicted.
        """
        parts = [part.probabilities(predictions, cases) for part in self.parts]
        return mix(self.blend, np.stack(parts), cases)


Ensemble = Leaf | Mixture


def read_ensemble(folder: Path, check: Callable[[Path], object] = _unchecked) -> Ensemble:
    """Read the structure of a saved model.

    Parameters
    ----------
    folder : Path
        The model's folder.
    check : callable
        A function that takes the path of a file or a folder, and raises InputError if the file, or
        one in the folder, is damaged. It is called for each file before it is read. By default,
        nothing is checked.

    Raises
    ------
    InputError
        If its configuration, or a blend's weights, cannot be read.
    """
    path = folder / CONFIG_FILE
    check(path)
    config = from_dict(read_json(path), str(path))
    if config.family != "blend":
        return Leaf(folder, config, partial(check, folder))
    check(folder / STATE_FILE)
    blend, members = read_state(folder, config)
    return Mixture(blend, [read_ensemble(member, check) for member in members])


def equal_mixture(parts: Sequence[Ensemble]) -> Ensemble:
    """Return the plain mean of several ensembles, or a single ensemble unchanged. Either all of the
    ensembles have ties or none of them has."""
    if len(parts) == 1:
        return parts[0]
    ties = parts[0].leaves()[0].config.training.classes != 2
    return Mixture(equal_blend("arithmetic", len(parts), ties), parts)
