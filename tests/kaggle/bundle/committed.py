"""The committed metadata, to be spoilt, and the facts of a manifest made by hand."""

from pathlib import Path

from humanpref.kaggle.bundle.image import read_image
from humanpref.kaggle.bundle.metadata import read_metadata, write_metadata

_VERSIONS = read_image(Path(__file__).parents[3] / "wheels" / "image.txt").versions
IMAGE = {name: str(version) for name, version in _VERSIONS.items()}
"""The versions of the image's libraries."""
FACTS = {"image": {"versions": IMAGE}, "wheels": {"humanpref": "0.1.0"}}
"""What a manifest says of the image and of the bundle's wheels."""


def change(path: Path, **values) -> Path:
    """Change keys of a metadata file; None takes a key away."""
    metadata = read_metadata(path) | values
    write_metadata(path, {key: value for key, value in metadata.items() if value is not None})
    return path
