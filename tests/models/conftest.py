"""What several tests of models need."""

import json
import shutil

import pytest


@pytest.fixture
def changed(sentence_encoder, tmp_path):
    """A copy of the folder with one JSON file's values changed, or left out."""

    def change(path, **values):
        folder = tmp_path / "changed"
        shutil.copytree(sentence_encoder, folder, dirs_exist_ok=True)
        file = folder / path
        if values:
            file.write_text(json.dumps(json.loads(file.read_text()) | values))
        else:
            file.unlink()
        return str(folder)

    return change
