"""Run the checks of `humanpref.kaggle.acceptance` on Kaggle's GPUs. They have their own kernel and
wheel dataset, which no competition run uses."""

import logging
import tempfile
from pathlib import Path

from humanpref.files import check_new, sha256
from humanpref.kaggle.bundle.metadata import (
    DATASET_METADATA,
    read_metadata,
    read_text,
    write_metadata,
)
from humanpref.kaggle.bundle.stage import stage_dataset
from humanpref.kaggle.contract import MARKER, KernelRun
from humanpref.kaggle.service.client import Client, ServiceError
from humanpref.kaggle.service.dataset_push import push_dataset
from humanpref.kaggle.service.fetch import fetch_output
from humanpref.kaggle.service.push import check_user, push_kernel
from humanpref.kaggle.service.records import Records

logger = logging.getLogger(__name__)

KERNEL = Path("kernel", "accept")
"""The kernel's folder in the checkout. Its record has the name of this folder."""
WHEELS = "accept-wheels"
"""The name of the dataset's record."""
DATASET = {"id": "INSERT_USERNAME/humanpref-accept-wheels", "title": "humanpref accept wheels"}
TABLE = "acceptance.md"


def accept(client: Client, records: Records, project: Path, owner: str, out: Path) -> str:
    """Push the checkout's wheel and the acceptance kernel, wait for its run, and fetch its output.
    Parts that Kaggle already has are not sent again, so an interrupted command can be rerun.

    Parameters
    ----------
    client, records
        The service, and the record of everything sent to it.
    project : Path
        The checkout; see `humanpref.kaggle.bundle.checkout.find_project`.
    owner : str
        The Kaggle user name to push under.
    out : Path
        A new folder for the output.

    Returns
    -------
    str
        The table; its last line starts with PASS or FAIL.

    Raises
    ------
    InputError
        If the folder exists, the wheel cannot be built, Kaggle refuses something or does not
        answer, or the run left no table.
    """
    check_user(client, owner)
    check_new(out)
    with tempfile.TemporaryDirectory() as temporary:
        dataset = stage_dataset(Path(temporary, WHEELS), project, KernelRun(preset=""))
        metadata = read_metadata(project / DATASET_METADATA)
        write_metadata(dataset / DATASET_METADATA, metadata | DATASET)
        manifest = sha256(dataset / MARKER)
        with records.locked():
            push_dataset(client, records, dataset / MARKER, owner, manifest)
            push_kernel(client, records, project / KERNEL, owner, manifest)
    fetch_output(client, records, KERNEL.name, out)
    if not (out / TABLE).is_file():
        raise ServiceError(f"{out}: the run left no {TABLE}; its log says why")
    return read_text(out / TABLE)
