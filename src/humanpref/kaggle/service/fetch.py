"""Fetch what Kaggle has: the competition's files, and what a kernel's run left."""

import logging
import tempfile
import zipfile
from pathlib import Path, PurePosixPath, PureWindowsPath

from humanpref.files import folder_whole
from humanpref.kaggle.service.client import Client, NotThereError, ServiceError
from humanpref.kaggle.service.competitions import download_files
from humanpref.kaggle.service.kernels import download_output, run_output
from humanpref.kaggle.service.records import Records
from humanpref.kaggle.service.results import STATUS, check_current, faults, wait_for_run

logger = logging.getLogger(__name__)


def fetch_data(client: Client, competition: str, out: Path) -> list[str]:
    """Fetch the competition's files into a new folder; give their names.

    Raises
    ------
    InputError
        If the folder is there already, or Kaggle does not give the files, as before the
        competition's rules are accepted.
    """
    with folder_whole(out) as folder, tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        archive = Path(temporary, "data.zip")
        try:
            download_files(client, competition, archive)
        except NotThereError as error:
            raise NotThereError(
                f"{error}: if the competition's name is right, accept its rules, signed in as "
                f"{client.user or 'yourself'}, "
                f"at https://www.kaggle.com/competitions/{competition}/rules and give this command "
                "again"
            ) from None
        try:
            with zipfile.ZipFile(archive) as files:
                names = [info.filename for info in files.infolist() if not info.is_dir()]
                for name in names:
                    target = _inside(folder, name)
                    target.write_bytes(files.read(name))
        except zipfile.BadZipFile as error:
            raise ServiceError(
                f"{competition}: expected a zip file from Kaggle ({error})"
            ) from None
    return names


def fetch_output(client: Client, records: Records, name: str, out: Path) -> list[str]:
    """Fetch what the recorded version of a kernel left, and its log, into a new folder; give their
    names.

    Raises
    ------
    InputError
        If the folder is there already, or the run failed or is not the kernel's current one.
    """
    with folder_whole(out) as folder:
        wait_for_run(client, records, name)
        entry = records[name]
        files, log = run_output(client, entry["ref"])
        for file, url in files:
            logger.info("%s: %s", entry["ref"], client.clean(file))
            download_output(client, url, _inside(folder, file))
        # What was fetched is of that version only if nobody pushed another one meanwhile.
        check_current(client, entry["ref"], entry["version"])
        log_name = f"{entry['ref'].split('/')[1]}.log"
        _inside(folder, log_name).write_text(log, encoding="utf-8", errors="replace")
        content = (folder / STATUS).read_bytes() if (folder / STATUS).is_file() else None
        for fault in faults(content, entry["manifest"]):
            logger.warning(
                "%s",
                client.clean(f"{entry['ref']} version {entry['version']} is not whole: {fault}"),
            )
    return [*(file for file, _ in files), log_name]


def _inside(folder: Path, name: str) -> Path:
    """A new, empty file in the folder; raises ServiceError for a name that leads elsewhere."""
    path = PurePosixPath(name)
    if (
        not path.parts
        or path.is_absolute()
        or ".." in path.parts
        or PureWindowsPath(name).drive
        or any(character in "\\:" or not character.isprintable() for character in name)
    ):
        raise ServiceError(
            f"Kaggle gave a file's name that is not one inside a folder: {name!r}; nothing was kept"
        )
    target = folder / path
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch(exist_ok=False)
    except OSError as error:
        raise ServiceError(
            f"Kaggle gave a file that cannot be kept, {name[:100]!r}: {error.strerror}"
        ) from None
    return target
