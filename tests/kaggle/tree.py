"""A made-up /kaggle for the kernels to run on."""

import hashlib
import json
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd

from humanpref.arena import write_arena
from humanpref.data import check_submission
from humanpref.files import read_json
from humanpref.kaggle.bundle import stage
from humanpref.kaggle.bundle.metadata import kernel_code
from humanpref.kaggle.competitions import DEFAULT
from humanpref.schema import ID, LABEL_COLUMNS

PROJECT = Path(__file__).parents[2]
TRAIN = PROJECT / "kernel" / "train" / "train.py"
INFER = PROJECT / "kernel" / "infer" / "infer.ipynb"
LAYOUTS = {
    "new": (
        f"competitions/{DEFAULT}",
        "datasets/someone/humanpref-wheels",
        "notebooks/someone/humanpref-train",
    ),
    "legacy": (DEFAULT, "humanpref-wheels", "humanpref-train"),
}


class Tree:
    """A made-up /kaggle: the competition's files, and what a test adds."""

    def __init__(self, root: Path, layout: str = "new") -> None:
        competition, dataset, kernel = LAYOUTS[layout]
        self.root, self.input, self.working = root, root / "input", root / "working"
        self.competition, self.dataset, self.kernel = (
            self.input / competition,
            self.input / dataset,
            self.input / kernel,
        )
        self.working.mkdir(parents=True)
        arena = write_arena(self.competition, rows=40, seed=3)
        for hidden in ("truth.csv", "test_labels.csv"):
            (self.competition / hidden).unlink()
        self.test_csv = self.competition / "test.csv"
        self.rates = arena.train[list(LABEL_COLUMNS)].to_numpy().mean(axis=0)

    def run(
        self, kernel: Path, environment: Path, rerun: bool = False
    ) -> subprocess.CompletedProcess:
        code = kernel_code(kernel)
        return subprocess.run(
            [environment / "bin" / "python", "-c", code],
            env={
                "HUMANPREF_KAGGLE_ROOT": str(self.root),
                "PATH": "/usr/bin:/bin",
                "HOME": str(self.root),
            }
            | ({"KAGGLE_IS_COMPETITION_RERUN": "1"} if rerun else {}),
            cwd=self.working,
            capture_output=True,
            text=True,
            timeout=300,
        )

    @property
    def ids(self) -> list[str]:
        """The test rows' ids."""
        return list(pd.read_csv(self.test_csv, dtype={ID: str})[ID])

    @property
    def status(self) -> dict:
        return read_json(self.working / "status.json")

    def submission(self) -> np.ndarray:
        """The submission's probabilities, after the check that it is one."""
        assert check_submission(self.working / "submission.csv", self.test_csv) == []
        return pd.read_csv(self.working / "submission.csv")[list(LABEL_COLUMNS)].to_numpy()

    def add_artifact(self, facts: object) -> Path:
        folder = self.kernel / "artifact"
        folder.mkdir(parents=True)
        (folder / "artifact.json").write_text(json.dumps(facts))
        return folder


def copy_dataset(source: Path, target: Path) -> Path:
    """A dataset that a test may spoil; gives its wheel."""
    target.mkdir(parents=True)
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return next(target.glob("*.whl"))


def write_manifest(folder: Path) -> None:
    entries = [
        {
            "name": p.name,
            "bytes": p.stat().st_size,
            "sha256": hashlib.sha256(p.read_bytes()).hexdigest(),
        }
        for p in folder.iterdir()
        if p.name != stage.MARKER
    ]
    (folder / stage.MARKER).write_text(
        json.dumps({"format": 1, "version": "9.9", "files": entries})
    )
