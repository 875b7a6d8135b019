"""Read the chat models, the kinds of prompts and the words of the arena from `vocabulary.toml`,
whose comments describe each table."""

import tomllib
from importlib import resources

import numpy as np
import pandas as pd

_TABLES = tomllib.loads(
    resources.files("humanpref").joinpath("arena/vocabulary.toml").read_text(encoding="utf-8")
)
MODELS = pd.DataFrame.from_dict(_TABLES["models"], orient="index")
"""Chat models by name, strongest first: `strength`, `verbosity` and `popularity`."""
KINDS = pd.DataFrame.from_dict(_TABLES["kinds"], orient="index")
"""Kinds of prompts by name: `share`, `nu` (the tie score), `words` and `asks`."""
TEXT = _TABLES["text"]
"""Phrases and layouts of prompts and answers, by their names in the file."""
WORDS = {group: np.array(words.split(), dtype=object) for group, words in _TABLES["words"].items()}
"""The words of each group, most frequent first."""
TOPICS = WORDS["topics"].reshape(-1, 16)
"""The words of each topic, (topics, 16)."""
