"""The configuration of a run: its options, and the presets, files and overrides that set them.

The options that a section has depend on the model's family. Setting an option that the family does
not have is an error.
"""

from humanpref.config.families import FAMILIES, SECTIONS, Config, valid_keys
from humanpref.config.loading import from_dict, load_config, preset_names

__all__ = [
    "FAMILIES",
    "SECTIONS",
    "Config",
    "from_dict",
    "load_config",
    "preset_names",
    "valid_keys",
]
