"""Compare the submissions of all experiments: held-out log loss against public score.

`submissions.json`, next to an experiment's records, has one entry for each submission that was made
from that experiment. The scores are read from Kaggle.
"""

from pathlib import Path
from typing import Any

import pandas as pd

from humanpref.files import read_json, write_json
from humanpref.kaggle.service.client import Client
from humanpref.kaggle.service.competitions import list_submissions
from humanpref.kaggle.service.records import Records

FILE = "submissions.json"
COLUMNS = (
    *("submission", "experiment", "status", "log loss", "public score"),
    *("degraded", "description"),
)
"""The columns of the table of scores."""


def note(records: Records, number: int, message: str, status: dict[str, Any]) -> None:
    """Record a submission that was made from an experiment.

    Parameters
    ----------
    records : Records
        The experiment's records.
    number : int
        The submission's ID.
    message : str
        The user's text for the submission.
    status : dict
        The values of the run's status.json. If the run predicted with only one artifact, the log
        loss of that artifact's held-out rows is kept.
    """
    path = records.path.with_name(FILE)
    artifacts = status.get("artifacts")
    only = artifacts[0] if isinstance(artifacts, list) and len(artifacts) == 1 else {}
    facts = {
        "experiment": records.name,
        "message": message,
        "log_loss": only.get("log_loss") if isinstance(only, dict) else None,
        "degraded": status.get("degraded", []),
    }
    noted = read_json(path) if path.exists() else {}
    write_json(path, noted | {str(number): facts})


def scores(client: Client, root: Path, competition: str) -> pd.DataFrame:
    """Return a table of the team's submissions, newest first, with the columns `COLUMNS`.

    Parameters
    ----------
    client : Client
        The service.
    root : Path
        The folder with the records of all experiments (`records.find_root`), from which the table
        takes the held-out log losses. A submission without a record has none.
    competition : str
        The competition's slug.
    """
    noted: dict[str, Any] = {}
    for path in (root / FILE, *sorted(root.glob(f"*/{FILE}"))):
        noted |= read_json(path) if path.exists() else {}
    rows = []
    for submission in list_submissions(client, competition):
        facts = noted.get(str(submission.ref), {})
        experiment = facts.get("experiment", "") or ("default" if facts else "")
        rows.append(
            {
                "submission": str(submission.ref),
                "experiment": experiment,
                "status": f"{submission.status} {submission.error}".strip(),
                "log loss": facts.get("log_loss"),
                "public score": pd.to_numeric(submission.public_score, errors="coerce"),
                "degraded": client.clean("; ".join(map(str, facts.get("degraded", ())))),
                "description": facts.get("message", submission.description),
            }
        )
    numbers = {"log loss": float, "public score": float}
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(numbers)
