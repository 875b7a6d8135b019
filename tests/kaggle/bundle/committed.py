"""The committed metadata, to be spoilt."""

from pathlib import Path

from humanpref.kaggle.bundle.metadata import read_metadata, write_metadata


def change(path: Path, **values) -> Path:
    """Change keys of a metadata file; None takes a key away."""
    metadata = read_metadata(path) | values
    write_metadata(path, {key: value for key, value in metadata.items() if value is not None})
    return path
