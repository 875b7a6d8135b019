"""What artifacts consist of, read from disk without any weights: models that predict by themselves
(leaves), and mixtures of them.

An artifact is the equal mixture of its fold models, several artifacts are the equal mixture of the
artifacts, and a blend is a mixture by its own weights and correction.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from humanpref.config import Config, from_dict
from humanpref.config.gpu import needs_gpu, uses_gpu
from humanpref.files import read_json
from humanpref.models import Model, load_model, model_of
from humanpref.models.base import CONFIG_FILE, TokenIds
from humanpref.models.blend import read_state
from humanpref.models.blend_weights import Blend, equal_blend, mix

Memos = dict[str, TokenIds]
"""Token ids of texts, by the digest of a tokenizer."""


@dataclass(frozen=True)
class Leaf:
    """A saved model that predicts by itself."""

    folder: Path
    config: Config

    @property
    def uses_gpu(self) -> bool:
        """Whether it computes on a GPU where there is one, and takes its time elsewhere."""
        return uses_gpu(self.config)

    @property
    def needs_gpu(self) -> bool:
        """Whether it would take days on a CPU."""
        return needs_gpu(self.config)

    @property
    def swap_equivariant(self) -> bool:
        """Whether exchanging A and B exchanges P(A) and P(B) by construction."""
        return model_of(self.config).swap_equivariant

    def leaves(self) -> list["Leaf"]:
        """Return the leaf itself."""
        return [self]

    def load(self, memos: Memos) -> Model:
        """Load the model. It shares the token ids of texts with all others of its tokenizer."""
        model = load_model(self.folder)
        model.share_token_ids(memos)
        return model

    def probabilities(
        self, predictions: Mapping[Path, np.ndarray], cases: np.ndarray
    ) -> np.ndarray:
        """Return its own predictions (n, 3)."""
        return predictions[self.folder]


@dataclass(frozen=True)
class Mixture:
    """Models whose probabilities a blend makes into one."""

    blend: Blend
    parts: Sequence["Ensemble"]

    def leaves(self) -> list[Leaf]:
        """Return the models that predict by themselves, each once."""
        return list({leaf.folder: leaf for part in self.parts for leaf in part.leaves()}.values())

    def probabilities(
        self, predictions: Mapping[Path, np.ndarray], cases: np.ndarray
    ) -> np.ndarray:
        """Mix what is known so far: a row that only some parts predicted is mixed from those.

        Parameters
        ----------
        predictions : mapping
            (n, 3) of each leaf by its folder; NaN where it predicted nothing.
        cases : ndarray
            (n,) the rows' cases (`humanpref.text.cases`).

        Returns
        -------
        ndarray
            (n, 3) float64; NaN where no part predicted anything.
        """
        parts = [part.probabilities(predictions, cases) for part in self.parts]
        return mix(self.blend, np.stack(parts), cases)


Ensemble = Leaf | Mixture


def read_ensemble(folder: Path) -> Ensemble:
    """Read what a saved model consists of.

    Raises
    ------
    InputError
        If its configuration, or a blend's weights, cannot be read.
    """
    path = folder / CONFIG_FILE
    config = from_dict(read_json(path), str(path))
    if config.family != "blend":
        return Leaf(folder, config)
    blend, members = read_state(folder, config.model.mean)
    return Mixture(blend, [read_ensemble(member) for member in members])


def equal_mixture(parts: Sequence[Ensemble]) -> Ensemble:
    """Return the plain mean of ensembles; one alone is itself."""
    return parts[0] if len(parts) == 1 else Mixture(equal_blend("arithmetic", len(parts)), parts)
