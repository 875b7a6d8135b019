"""The configuration of a run: its options, and the presets, files and overrides that set them.

Which options a section has depends on the model's family. An option that only other families have
is an unknown key, and an unknown key is an error.
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
