"""Stages: a run whose models start from the weights of another run. A row is never held out if
those weights have learned its prompt."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from humanpref.config import Config
from humanpref.config.neural import SCRATCH, AdaptedOptions, LoopOptions
from humanpref.data import EXTRA_ID, TrainingRows, prompt_keys
from humanpref.files import read_json
from humanpref.runs.artifact import CHAIN, Artifact
from humanpref.runs.artifact_files import DIGESTS, value_digest
from humanpref.runs.artifact_tables import ANSWER_KEY, OOF_FILE, PROMPT_KEY, read_oof
from humanpref.runs.results import FoldModel
from humanpref.schema import ID, InputError

logger = logging.getLogger(__name__)

EARLIER = "extra-0:"
"""Prefix of the ids of an earlier stage's rows in `rows.csv`. Like all extra rows, they count as
learned and never held out."""
_FREE = {
    "attention",
    "backbone",
    "base_dtype",
    "dropout",
    "lora_dropout",
    "max_length",
    "prompt_share",
    "quantisation",
    "question",
    "system_prompt",
    "truncation",
    "zero_start",
}
"""Model options that may differ between two stages. The backbone may have a different name, but its
content is compared. All other options decide which weights the model has or how they are used."""
_INCIDENTAL = {"architectures", "dtype", "torch_dtype", "transformers_version", "use_cache"}
"""Keys of a backbone's configuration that do not change what it computes."""


class Earlier(NamedTuple):
    """An earlier run, from whose weights a new run starts."""

    path: Path
    """The run's artifact."""
    drop_learned: bool = False
    """Whether to drop the rows of the training file whose prompts the earlier models have learned.
    If False, the rows stay, and a new run that would hold one of them out is refused."""


@dataclass(frozen=True, eq=False)
class Stage:
    """The earlier stage of a run.

    Attributes
    ----------
    earlier : Earlier
        The path of the earlier run, and whether to drop rows whose prompts it has learned.
    artifact : Artifact
        The earlier run's artifact.
    """

    earlier: Earlier
    artifact: Artifact

    @classmethod
    def open(cls, earlier: Earlier, config: Config) -> "Stage":
        """Open an earlier run, and check that its weights fit the configuration of a new one.

        Raises
        ------
        InputError
            If the weights do not fit, for example because they have a different kind of head.
        """
        if not isinstance(config.training, LoopOptions):
            raise InputError(
                f"--from: the new run is of family {config.family}, which cannot start from "
                "weights; choose a preset of a neural family, or leave out --from"
            )
        path = earlier.path
        artifact = Artifact.load(path)
        if artifact.facts["family"] != config.family:
            raise InputError(
                f"--from {path}: expected family {config.family}, as in this run, got "
                f"{artifact.facts['family']}"
            )
        for leaf in artifact.ensemble.leaves():
            for each in (leaf.config, config):
                each.training.require(each.training.epochs > 0, "epochs", "at least 1 with --from")
            _check_options(str(path), leaf.config, config)
            _check_backbone(str(path), leaf.folder, leaf.config.model.backbone, config)
        return cls(earlier, artifact)

    @property
    def members(self) -> list[str]:
        """The folders of the earlier run's models."""
        return self.artifact.facts["members"]

    @cached_property
    def weights_sha256(self) -> str:
        """A digest of the earlier run's weights."""
        digests = self.artifact.facts[DIGESTS].items()
        weights = {name: digest for name, digest in digests if name.endswith(".safetensors")}
        return value_digest(weights)

    @property
    def chain(self) -> list[dict[str, Any]]:
        """The earlier stages, first stage first, as plain JSON types."""
        facts, config = self.artifact.facts, self.artifact.ensemble.leaves()[0].config
        link = {
            "name": self.artifact.folder.resolve().name,
            "data_sha256": facts["data_sha256"],
            "config_sha256": value_digest(config.to_dict()),
            "weights_sha256": self.weights_sha256,
        }
        return [*facts.get(CHAIN, []), link]

    @property
    def rows(self) -> pd.DataFrame:
        """The rows of all earlier stages, in the form of `Artifact.rows`."""
        rows = self.artifact.rows
        rows = rows.assign(**{ID: EARLIER + rows[ID].str.replace(EXTRA_ID, "", regex=True)})
        return rows.drop_duplicates([ID, PROMPT_KEY, ANSWER_KEY], ignore_index=True)

    def learned(self, member: str) -> set[str]:
        """Return the keys of the prompts that a model of the earlier run has learned. Prompts
        learned in stages before that run are included, since their rows are never held out.

        These are the prompts of all rows except those that the model held out. If its best epoch
        was chosen on the rows that it held out, their prompts count as learned, too.
        """
        rows = self.artifact.rows
        keys = set(rows[PROMPT_KEY])
        path = self.artifact.checked(member) / OOF_FILE
        record = self.artifact.metrics["members"].get(member, {})
        # A merged model has no such file. It has learned the prompts that any of its models
        # learned.
        if not path.is_file() or "kept_epoch" in record.get("training", {}):
            return keys
        return keys - set(rows[PROMPT_KEY][rows[ID].isin(read_oof(path)[ID])])

    def allowed(self, rows: TrainingRows) -> TrainingRows:
        """With `Earlier.drop_learned`, drop the rows of the training file whose prompts a model of
        the earlier run has learned; otherwise, return all rows.

        Raises
        ------
        InputError
            If no rows remain.
        """
        if not self.earlier.drop_learned:
            return rows
        known = _among(rows.pairs, set().union(*(self.learned(name) for name in self.members)))
        if known.all():
            raise InputError(
                f"--from {self.artifact.folder}: learned the prompts of all rows, so "
                "--drop-learned leaves none to train on"
            )
        logger.info(
            "%s: dropped %d of %d rows because %s learned their prompts",
            rows.facts["file"],
            known.sum(),
            len(known),
            self.artifact.folder,
        )
        facts = rows.facts | {"dropped_learned": int(known.sum())}
        return replace(rows, facts=facts).only(~known)

    def started(self, models: Iterable[FoldModel], pairs: pd.DataFrame) -> list[FoldModel]:
        """Give each model the folder of the weights from which it starts: the earlier run's only
        model, or the one with the same name (fold k continues from fold k).

        Parameters
        ----------
        models : iterable of FoldModel
            The models of this run.
        pairs : DataFrame
            The n rows of the training file, to which the models' masks `held` refer.

        Raises
        ------
        InputError
            If the earlier run has several models and their names are not those of this run's
            models, or if a model would hold out a prompt that the model it starts from has learned.
        """
        models, path = list(models), self.artifact.folder
        names = [model.name for model in models]
        if len(self.members) > 1 and set(self.members) != set(names):
            raise InputError(
                f"--from {path}: expected one model, or the models of this run "
                f"({', '.join(names)}), got {', '.join(self.members)}; merge them (`humanpref "
                "merge`), or name an artifact with one model"
            )
        started, leaked = [], np.zeros(len(pairs), dtype=bool)
        for model in models:
            member = model.name if len(self.members) > 1 else self.members[0]
            leaked |= model.held & _among(pairs, self.learned(member))
            started.append(model._replace(start=self.artifact.checked(member)))
        if leaked.any():
            several = ", or train with the folds of that run on the same rows"
            raise InputError(
                f"--from {path}: learned the prompts of {leaked.sum()} of the rows to be held out "
                f"(first id: {pairs[ID][leaked].iloc[0]!r}), so predictions for these rows would "
                f"look too good; drop the rows with --drop-learned"
                + several
                * (len(self.members) > 1)
            )
        return started


def _among(pairs: pd.DataFrame, keys: set[str]) -> np.ndarray:
    """Return a mask, (n,), of the rows whose prompt has one of the keys."""
    return pd.Series(prompt_keys(pairs)).isin(keys).to_numpy()


def _check_options(source: str, earlier: Config, config: Config) -> None:
    free = _FREE | config.model.idle().keys()
    for name, wanted in vars(config.model).items():
        found = getattr(earlier.model, name)
        if name not in free and found != wanted:
            raise InputError(
                f"option model.{name}: expected {found!r}, as in --from {source}, got {wanted!r}"
            )


def _check_backbone(source: str, folder: Path, trained: str, config: Config) -> None:
    """Raise InputError if the option `model.backbone` names a different backbone than that of the
    saved model in `folder`. `trained` is the name of the saved model's backbone."""
    from humanpref.models.bases import BASE_FILE
    from humanpref.models.checkpoint import base_digest
    from humanpref.models.neural import BACKBONE_FOLDER
    from humanpref.models.pretrained import base_folder, load_backbone_config

    name = config.model.backbone
    problem = f"option model.backbone: expected that of --from {source} ({trained}), got {name}"
    if isinstance(config.model, AdaptedOptions):
        if read_json(folder / BASE_FILE)["sha256"] != base_digest(base_folder(name)):
            raise InputError(f"{problem}, which has different weights")
    elif SCRATCH in (name, trained):
        if name != trained:
            raise InputError(problem)
    else:
        found, wanted = (
            load_backbone_config(place).to_dict() for place in (str(folder / BACKBONE_FOLDER), name)
        )
        for key in sorted((found.keys() | wanted.keys()) - _INCIDENTAL):
            if not key.startswith("_") and found.get(key) != wanted.get(key):
                raise InputError(
                    f"{problem}, whose configuration differs in {key} ({found.get(key)!r}, "
                    f"{wanted.get(key)!r})"
                )
