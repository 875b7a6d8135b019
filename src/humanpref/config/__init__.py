"""The configuration of a run: every option, defined once per family, and presets, files and
overrides.

The options in each section of a run depend on the model's family. An option of a different family
is an unknown key, and an unknown key is an error.
"""

from humanpref.config.families import FAMILIES, SECTIONS, Config, valid_keys
from humanpref.config.loading import from_dict, load_config, preset_names, read_toml

__all__ = [
    "FAMILIES",
    "SECTIONS",
    "Config",
    "from_dict",
    "load_config",
    "preset_names",
    "read_toml",
    "valid_keys",
]
