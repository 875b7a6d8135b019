"""What was pushed and submitted from here: `.humanpref/pushes.json`, written whole before and after
each remote call.

One entry for the latest push of each folder of a bundle (`dataset`, `weights-NAME`, `train`,
`infer`), and one for the latest `submission`. Its `state` is

- `starting`: nothing was sent yet; what was pushed of the bundle before is out of date;
- `sending`: the call is being made. Found so at the start, it may have arrived or not, and the
  service has to be asked;
- `done`: it arrived, and the entry says as what (`version`, or the submission's `number`);
- `refused`: it did not, or not as it was meant;
- `failed`: of a submission, that it could not be scored.

`manifest` is the digest of the wheel dataset's manifest in the bundle that an entry was pushed
from, `inputs` what a kernel then mounted of what was pushed from here: a dataset by the digest of
its manifest, a kernel by its version.

An entry has no addresses of uploads and no credentials.
"""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from humanpref.files import read_json, write_json
from humanpref.schema import InputError

FORMAT = 1
FOLDER = ".humanpref"


class Records:
    """The entries in a folder's `pushes.json`.

    Raises
    ------
    InputError
        If the file is there and is not such a file.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FOLDER / "pushes.json"
        self._entries: dict[str, dict[str, Any]] = {}
        if self.path.exists():
            values = read_json(self.path)
            if (
                not isinstance(values, dict)
                or values.pop("format", None) != FORMAT
                or not _are_entries(values)
            ):
                raise InputError(
                    f"{self.path}: expected the record of pushes, format {FORMAT}; move it out of "
                    "the way"
                )
            self._entries = values

    def __getitem__(self, name: str) -> dict[str, Any]:
        """The entry of that name; empty where there is none."""
        return dict(self._entries.get(name, {}))

    def items(self) -> list[tuple[str, dict[str, Any]]]:
        """All entries by name."""
        return [(name, dict(entry)) for name, entry in self._entries.items()]

    def latest(self) -> list[str]:
        """The pushes that belong together: those of the last bundle that are not out of date, and
        what they mount."""
        pushed = {name: entry for name, entry in self.items() if name != "submission"}
        mine = {name: entry for name, entry in pushed.items() if not self.outdated(name)}
        mounted = {source for entry in mine.values() for source in entry.get("inputs", ())}
        return [name for name, entry in pushed.items() if name in mine or entry["ref"] in mounted]

    def outdated(self, name: str) -> str:
        """What was pushed after the entry, and so is not in it: the last bundle's dataset, or a
        source that a kernel mounts."""
        entry, dataset = self[name], self["dataset"]
        if dataset and entry.get("manifest") != dataset["digest"]:
            return dataset["ref"]
        for other_name, other in self.items():
            was = entry.get("inputs", {}).get(other["ref"])
            if (
                was is not None
                and other_name != "submission"
                and (other["state"], identity(other)) != ("done", was)
            ):
                return other["ref"]
        return ""

    def starting(self, name: str, **entry: Any) -> None:
        """Write down what is going to be sent, in the earlier entry's place."""
        self._entries[name] = {**entry, "state": "starting"}
        self._write()

    def sending(self, name: str, **entry: Any) -> None:
        """Write down what is about to be sent, in the earlier entry's place."""
        self._entries[name] = {**entry, "state": "sending"}
        self._write()

    def became(self, name: str, state: str, **values: Any) -> None:
        """Write down what became of it."""
        self._entries[name] = {**self._entries[name], "state": state, **values}
        self._write()

    def require(self, name: str, command: str) -> dict[str, Any]:
        """The entry of that name, which has to be done.

        Raises
        ------
        InputError
            If it is not.
        """
        entry = self[name]
        if entry.get("state") != "done":
            found = f"the last one was {entry['state']}" if entry else "there is none"
            raise InputError(
                f"{self.path}: expected a finished push of {name}, {found}: humanpref kaggle "
                f"{command}"
            )
        return entry

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other commands out that would send something; the lock ends with the process,
        however it ends."""
        self.path.parent.mkdir(exist_ok=True)
        with open(self.path.with_name("lock"), "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(
                    f"{self.path.parent}: another humanpref kaggle command is at work here; wait "
                    "for it"
                ) from None
            yield

    def _write(self) -> None:
        self.path.parent.mkdir(exist_ok=True)
        write_json(self.path, {"format": FORMAT, **self._entries})


def identity(entry: dict[str, Any]) -> Any:
    """What tells one push of a dataset, or of a kernel, from another."""
    return entry["digest"] if "marker" in entry else entry.get("version")


def describe(entry: dict[str, Any]) -> str:
    """What an entry is of: its name, and its version where Kaggle told it."""
    return f"{entry['ref']} version {entry['version']}" if entry.get("version") else entry["ref"]


def _are_entries(values: dict[str, Any]) -> bool:
    return all(
        isinstance(entry, dict) and {"ref", "state"} <= entry.keys() for entry in values.values()
    )
