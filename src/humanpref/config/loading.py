"""Build a configuration from presets, TOML files and `section.key=value` overrides."""

import contextlib
import difflib
import logging
import shlex
import tomllib
from pathlib import Path
from typing import Any, Literal, get_origin

from humanpref.config.bounds import hints_of, parts_of
from humanpref.config.families import FAMILIES, SECTIONS, Config, valid_keys
from humanpref.schema import InputError

logger = logging.getLogger(__name__)

PRESETS = Path(__file__).parents[1] / "presets"

ALIASES = {
    "lr": "learning_rate",
    "wd": "weight_decay",
    "batch": "batch_size",
    "bs": "batch_size",
    "grad_accum": "accumulation",
    "gradient_accumulation_steps": "accumulation",
    "num_train_epochs": "epochs",
    "max_len": "max_length",
    "max_seq_length": "max_length",
    "rank": "lora_r",
    "alpha": "lora_alpha",
    "model_name": "backbone",
    "fp16": "precision",
    "bf16": "precision",
    "smoothing": "label_smoothing",
}
"""Names that other tools use for the options. They are refused, but the error message suggests the
corresponding option."""


def from_dict(values: dict[str, Any], source: str) -> Config:
    """Build a configuration from nested dictionaries of plain values.

    Parameters
    ----------
    values : dict
        `family`, optionally `preset` and `seed`, and the sections `model`, `training`, `inference`;
        a missing option keeps its default.
    source : str
        Where the values come from, for error messages.

    Raises
    ------
    InputError
        For an unknown key (the message suggests the nearest valid one), or for a value of the wrong
        type or out of range.
    """
    return _build(_flat(values, source), source)


def _flat(values: dict[str, Any], source: object) -> dict[str, Any]:
    """Flatten nested values to `section.key` keys."""
    if not isinstance(values, dict):
        raise InputError(f"{source}: expected a JSON object, got {type(values).__name__}")
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if key not in SECTIONS:
            flat[key] = value
        elif isinstance(value, dict):
            flat |= {f"{key}.{name}": option for name, option in value.items()}
        else:
            raise InputError(f"{source}: [{key}]: expected a section, got {value!r}")
    return flat


def _build(flat: dict[str, Any], source: str) -> Config:
    """Build a configuration from values with `section.key` keys."""
    family = _family(flat.get("family"), source)
    sections: dict[str, dict[str, Any]] = {section: {} for section in ("", *SECTIONS)}
    for key, value in flat.items():
        _require_known(key, ["family", "preset", *valid_keys(family)], family, source)
        section, _, name = key.rpartition(".")
        sections[section][name] = value
    try:
        kinds = zip(SECTIONS, FAMILIES[family], strict=True)
        return Config(**sections[""], **{name: kind(**sections[name]) for name, kind in kinds})
    except InputError as error:
        raise InputError(f"{source}: {error}") from None


def load_config(
    preset: str | None = None, file: Path | None = None, overrides: tuple[str, ...] | list[str] = ()
) -> Config:
    """Build a configuration from a preset, a file and overrides. The file takes precedence over the
    preset, and the overrides take precedence over both.

    Parameters
    ----------
    preset : str, optional
        A name from `preset_names()`. If omitted, the file must name a `preset` or a `family`.
    file : Path, optional
        A TOML file with the same keys as a preset.
    overrides : sequence of str
        `section.key=value` (or `seed=value`). If the option is a text or a choice, the value is
        taken literally; otherwise, it is parsed as TOML. `none` sets an option to None if the
        option allows it.

    Raises
    ------
    InputError
        For an unknown preset or key, an unreadable file, or an invalid value.

    Examples
    --------
    >>> load_config("tiny", overrides=["training.epochs=3"]).training.epochs
    3
    """
    from_file = {} if file is None else _flat(read_toml(Path(file)), file)
    named = from_file.pop("preset", preset)
    if not isinstance(named, str | None) or preset not in (None, named):
        expected = f"{preset!r}, as in --preset" if preset else "a name"
        raise InputError(f"{file}: option preset: expected {expected}, got {named!r}")
    if named is None and "family" not in from_file:
        raise InputError("name a preset (--preset NAME), or a family in the configuration file")
    source = f"preset {named}" if file is None else str(file)
    values = {} if named is None else _flat(_read_preset(named), source) | {"preset": named}
    family = _family(from_file.get("family", values.get("family")), source)
    if values.get("family", family) != family:
        raise InputError(
            f"{file}: family {family!r} does not match preset {named} (family {values['family']!r})"
        )
    # Warn only about options that the caller set: a preset may also set options of other
    # methods, for comparisons that change the method.
    chosen = from_file | dict(_parsed_override(override, family) for override in overrides)
    config = _build(values | chosen, f"{source} with --set" if overrides else source)
    for section in SECTIONS:
        options = getattr(config, section)
        for name, other in options.idle().items():
            if f"{section}.{name}" in chosen:
                why = f"{section}.{other}={getattr(options, other)}"
                logger.warning("option %s.%s: has no effect with %s", section, name, why)
    return config


def member_words(text: str) -> tuple[str, None, list[str]]:
    """Split the text that describes a blend's member, `PRESET section.key=value …`, into the
    arguments of `load_config`: the preset, None (no file), and the overrides."""
    try:
        preset, *overrides = shlex.split(text)
    except ValueError as error:
        raise InputError(
            f"option model.members: {text!r}: expected a preset and KEY=VALUE options ({error})"
        ) from None
    return preset, None, overrides


def preset_names() -> list[str]:
    """Return the names of the presets that come with the package, in alphabetical order."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises
    ------
    InputError
        If the file cannot be read or is not valid TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid TOML ({error})") from None


def _read_preset(name: str) -> dict[str, Any]:
    names = preset_names()
    if name not in names:
        raise InputError(
            f"unknown preset {name!r}{_hint(name, names)}; the presets are {', '.join(names)}"
        )
    return read_toml(PRESETS / f"{name}.toml")


def _family(name: Any, source: str) -> str:
    if not isinstance(name, str) or name not in FAMILIES:
        raise InputError(
            f"{source}: option family: expected one of {', '.join(FAMILIES)}, got {name!r}"
        )
    return name


def _require_known(key: str, valid: list[str], family: str, source: str) -> None:
    if key not in valid:
        raise InputError(f"{source}: unknown option {key!r} for family {family}{_hint(key, valid)}")


def _hint(key: str, valid: list[str]) -> str:
    """Return a hint to append to an error message: the valid key, in any section, for which `key`
    is an alias or probably a misspelling. The hint is empty if no key is close enough."""
    name = key.rpartition(".")[2]
    options = [option.rpartition(".")[2] for option in valid]
    nearest = difflib.get_close_matches(ALIASES.get(name, name), options, n=1, cutoff=0.7)
    same_name = [full for full, option in zip(valid, options, strict=True) if option in nearest]
    suggestion = difflib.get_close_matches(key, same_name, n=1, cutoff=0)
    return f" (did you mean {suggestion[0]!r}?)" if suggestion else ""


def _parsed_override(override: str, family: str) -> tuple[str, Any]:
    """Parse one `section.key=value` and return the key and the value."""
    key, equals, text = map(str.strip, override.partition("="))
    if not equals or not key:
        raise InputError(f"--set {override!r}: expected section.key=value")
    _require_known(key, valid_keys(family), family, "--set")
    section, _, name = key.rpartition(".")
    options = getattr(FAMILIES[family], section) if section else Config
    kind, _, _ = parts_of(hints_of(options)[name])
    if kind is not str and get_origin(kind) is not Literal:
        with contextlib.suppress(tomllib.TOMLDecodeError):
            return key, tomllib.loads(f"value = {text}")["value"]
    return key, text
