"""The command that installs one of the package's extras, for messages about a missing library."""

import json
import shlex
from urllib.parse import unquote, urlparse


def install_line(extra: str) -> str:
    """Return the `pip` command that adds an extra to this installation.

    The package is not on an index, so `pip install 'humanpref[torch]'` finds nothing. But pip
    records the path of the clone or wheel from which it installed the package, so the command names
    that path. If there is no record, the command must be run in the folder of a clone.

    Examples
    --------
    >>> install_line("torch").startswith("pip install ")
    True
    """
    from importlib import metadata  # slow to import, and rarely needed

    try:
        record = json.loads(metadata.distribution("humanpref").read_text("direct_url.json") or "{}")
    except metadata.PackageNotFoundError:
        record = {}
    url = urlparse(record.get("url", ""))
    place = unquote(url.path) if url.scheme == "file" else "."
    editable = place == "." or record.get("dir_info", {}).get("editable", False)
    return f"pip install {'-e ' if editable else ''}{shlex.quote(f'{place}[{extra}]')}"
