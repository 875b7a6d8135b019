"""Fetch the competition's files, and the output of a kernel's run."""

import logging
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

from humanpref.files import folder_whole
from humanpref.kaggle.service.client import Client, NotThereError, ServiceError
from humanpref.kaggle.service.competitions import download_files
from humanpref.kaggle.service.kernels import download_output, run_output
from humanpref.kaggle.service.records import Records
from humanpref.kaggle.service.results import check_current, check_whole, wait_for_run

logger = logging.getLogger(__name__)


def fetch_data(client: Client, competition: str, out: Path) -> list[str]:
    """Fetch the competition's files into a new folder and return their names.

    Raises
    ------
    InputError
        If the folder exists, or Kaggle withholds the files, for example because you have not
        accepted the competition's rules.
    """
    with folder_whole(out) as folder, tempfile.TemporaryDirectory(dir=folder) as temporary:
        archive = Path(temporary, "data.zip")
        try:
            download_files(client, competition, archive)
        except NotThereError as error:
            raise NotThereError(
                f"{error}: if the competition's name is correct, sign in as "
                f"{client.user or 'yourself'}, accept its rules at "
                f"https://www.kaggle.com/competitions/{competition}/rules and rerun this command"
            ) from None
        try:
            with zipfile.ZipFile(archive) as files:
                files.extractall(folder)
                return [name for name in files.namelist() if not name.endswith("/")]
        except zipfile.BadZipFile as error:
            raise ServiceError(
                f"{competition}: expected a zip file from Kaggle ({error})"
            ) from None


def fetch_output(client: Client, records: Records, name: str, out: Path) -> list[str]:
    """Fetch the output files and the log of the recorded version of a kernel into a new folder, and
    return their names.

    Raises
    ------
    InputError
        If the folder exists, the run failed, or the recorded version is not the current one.
    """
    with folder_whole(out) as folder:
        wait_for_run(client, records, name)
        entry = records[name]
        ref = entry["ref"]
        files, log = run_output(client, ref)
        for file, url in files.items():
            logger.info("%s: %s", ref, client.clean(file))
            download_output(client, url, new_file(folder, file))
        # Also checks that the files are not from a version pushed in the meantime.
        check_whole(client, entry, anyway=True)
        log_name = f"{ref.split('/')[1]}.log"
        new_file(folder, log_name).write_text(log, encoding="utf-8", errors="replace")
    return [*files, log_name]


def fetch_log(client: Client, records: Records, name: str) -> str:
    """Return the complete log of the recorded version of a kernel, with credentials masked. The run
    may have failed, or may not have ended yet.

    Raises
    ------
    InputError
        If the kernel was not pushed, or the recorded version is not its current one.
    """
    entry = records.require(name, f"push --{name}")
    _, log = run_output(client, entry["ref"])
    check_current(client, entry)
    return client.mask(log)


def new_file(folder: Path, name: str) -> Path:
    """Create an empty file in the folder and return its path.

    Raises
    ------
    ServiceError
        If the name points outside the folder, or the file cannot be created.
    """
    path = PurePosixPath(name)
    inside = path.parts and not path.is_absolute() and ".." not in path.parts
    if not inside or "\\" in name or not name.isprintable():
        raise ServiceError(
            f"expected Kaggle to name a file inside the folder, got {name!r}; nothing was kept"
        )
    target = folder / path
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch(exist_ok=False)
    except OSError as error:
        raise ServiceError(
            f"Kaggle sent a file that cannot be written, {name[:100]!r}: {error.strerror}"
        ) from None
    return target
