"""The record of everything sent to Kaggle for a project: `pushes.json`, rewritten atomically before
and after each call. `find_records` says in which folder it is.

It has one entry for the latest push of each folder of a bundle (`dataset`, `weights-NAME`, `train`,
`infer`), and one for the latest `submission`. The `state` of an entry is

- `starting`: nothing has been sent yet, but earlier pushes are out of date;
- `sending`: the call is being made. If a command finds this state when it starts, an earlier call
  may or may not have succeeded, so the command asks Kaggle;
- `done`: the call succeeded; the entry has the resulting `version` or, for a submission, `number`;
- `refused`: Kaggle rejected the call, or created something different from the request;
- `failed`: the submission could not be scored.

`manifest` is the digest of the manifest of the bundle from which an entry was pushed. `inputs` maps
each source that a kernel mounted to the digest of its manifest (a dataset) or to its version (a
kernel).

Entries contain no upload URLs and no credentials.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from humanpref.files import read_json, write_json
from humanpref.kaggle.bundle.metadata import check_name
from humanpref.kaggle.service.client import BusyError, RefusedError
from humanpref.schema import InputError

FORMAT = 1
FOLDER = ".humanpref"
"""The folder of a project's records. If there is none, the records are in a folder for each owner
in the user's state folder (see `find_root`)."""
SUBMISSION = "submission"


class Records:
    """The entries of one experiment, in the file `pushes.json` in its folder. The name is empty for
    the default experiment. The folder is created when the first entry is written.

    Raises
    ------
    InputError
        If the file exists but is not a record of pushes.
    """

    def __init__(self, folder: Path, name: str = "") -> None:
        self.name = name
        self.path = folder / "pushes.json"
        self.entries: dict[str, dict[str, Any]] = {}
        """The entries by name; change them only through `write` and `update`."""
        if self.path.exists():
            values = read_json(self.path)
            if not (
                isinstance(values, dict)
                and values.pop("format", None) == FORMAT
                and all(isinstance(entry, dict) and "state" in entry for entry in values.values())
            ):
                raise InputError(
                    f"{self.path}: expected a record of pushes, format {FORMAT}; move it away"
                )
            self.entries = values

    def __getitem__(self, name: str) -> dict[str, Any]:
        """Return the entry with this name, or an empty one if there is none."""
        return self.entries.get(name, {})

    def pushes(self) -> dict[str, dict[str, Any]]:
        """Return the entries of datasets and kernels; the keys are the names of the entries."""
        return {name: entry for name, entry in self.entries.items() if name != SUBMISSION}

    def latest(self) -> list[str]:
        """Return the names of the entries that are up to date with the last bundle, and of the
        datasets and kernels that those kernels mount."""
        pushes = self.pushes()
        current = {name: entry for name, entry in pushes.items() if not self.outdated(name)}
        mounted = {source for entry in current.values() for source in entry.get("inputs", ())}
        return [name for name in pushes if name in current or pushes[name]["ref"] in mounted]

    def outdated(self, name: str) -> str:
        """Return the reference of the push that makes this entry out of date: the last bundle's
        dataset, or a source that the kernel mounts. If the entry is up to date, return an empty
        string."""
        entry, dataset = self[name], self["dataset"]
        if dataset and entry.get("manifest") != dataset["digest"]:
            return dataset["ref"]
        inputs = entry.get("inputs", {})
        for other in self.pushes().values():
            current = other["state"] == "done" and inputs.get(other["ref"]) == identity(other)
            if other["ref"] in inputs and not current:
                return other["ref"]
        return ""

    def has(self, name: str, state: str, **values: Any) -> bool:
        """Return whether the entry with this name has this state and these values."""
        return self[name].items() >= {"state": state, **values}.items()

    def write(self, name: str, state: str, **values: Any) -> None:
        """Replace the entry with this name."""
        self.entries[name] = {**values, "state": state}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, {"format": FORMAT, **self.entries})

    def update(self, name: str, **values: Any) -> None:
        """Update these values of an entry."""
        self.write(name, **{**self[name], **values})

    @contextlib.contextmanager
    def sending(self, name: str, **values: Any) -> Iterator[None]:
        """Write an entry in state `sending` before the block, which makes the call. If Kaggle
        refuses the call or is busy, the entry's state becomes `refused`."""
        self.write(name, "sending", **values)
        try:
            yield
        except (BusyError, RefusedError):
            self.update(name, state="refused")
            raise

    def require(self, name: str, command: str) -> dict[str, Any]:
        """Return the entry with this name.

        Raises
        ------
        InputError
            If there is no such entry, or if its state is not `done`; the message names the
            `command` to run.
        """
        entry = self[name]
        if entry.get("state") != "done":
            found = f"the last one was {entry['state']}" if entry else "there is none"
            raise InputError(
                f"{self.path}: expected a finished push of {name}, but {found}; run humanpref "
                f"kaggle {command}"
            )
        return entry

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other commands from sending anything while the block runs. The lock also ends with
        the process."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path.with_name("lock"), "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(
                    f"{self.path.parent}: another humanpref kaggle command is running here; wait "
                    "until it ends"
                ) from None
            yield


def find_records(owner: str, name: str = "", start: Path | None = None) -> Records:
    """Find the records of an experiment, so that its commands can be run from any folder.

    Parameters
    ----------
    owner : str
        The Kaggle user name.
    name : str
        The experiment's name; empty for the default one.
    start : Path, optional
        The folder to search from; by default the current one.

    Returns
    -------
    Records
        The records in the folder that `find_root` returns, or in its subfolder with the
        experiment's name.

    Raises
    ------
    InputError
        If the name cannot be part of a slug.
    """
    if name:
        check_name(name)
    return Records(find_root(owner, start) / name, name)


def find_root(owner: str, start: Path | None = None) -> Path:
    """Return the folder of the records of all experiments: `.humanpref` in `start` (by default the
    current folder) or in the nearest folder above it. If there is none, return the owner's folder
    in `$XDG_STATE_HOME/humanpref` (by default `~/.local/state/humanpref`)."""
    start = (start or Path.cwd()).resolve()
    projects = (folder / FOLDER for folder in (start, *start.parents))
    root = next((folder for folder in projects if folder.is_dir()), None)
    if root is None:
        state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        root = Path(state, "humanpref", owner)
    return root


def identity(entry: dict[str, Any]) -> Any:
    """Return the value that identifies a push: a dataset's digest or a kernel's version."""
    return entry["digest"] if "marker" in entry else entry.get("version")


def describe(entry: dict[str, Any]) -> str:
    """Return an entry's reference, with its version if Kaggle reported one."""
    return f"{entry['ref']} version {entry['version']}" if entry.get("version") else entry["ref"]
