"""`humanpref serve`: serve a judge over HTTP."""

import argparse
import logging
from typing import Any

from humanpref.cli.shared import add_command, add_option, add_path
from humanpref.extras import install_line
from humanpref.schema import InputError

log = logging.getLogger(__name__)


def add(commands: Any) -> None:
    """Add the command to the parser."""
    command = add_command(
        commands, "serve", run, "serve a judge over HTTP: a page, POST /judge, GET /health"
    )
    text = "judge by this artifact (default: the small judge that comes with the package)"
    add_path(command, "artifact", "ARTIFACT", text, nargs="?")
    text = "the address to listen on (default: 127.0.0.1, which only this machine can reach)"
    add_option(command, "--host", "ADDRESS", text, default="127.0.0.1")
    text = "the port to listen on (default: 8000; 0 takes a free one)"
    add_option(command, "--port", "PORT", text, type=int, default=8000)


def run(options: argparse.Namespace) -> int:
    from humanpref.interfaces.judge import load

    try:
        from humanpref.interfaces import serve
    except ModuleNotFoundError as error:
        raise InputError(f"serve needs {error.name}: {install_line('serve')}") from None
    judge = load(options.artifact)
    host = options.host
    with serve.listen(host, options.port) as listener:
        address, port = listener.getsockname()[:2]
        if not serve.is_loopback(address):
            log.warning("%s: other machines may reach this server; it asks for no password", host)
        name = f"[{host}]" if ":" in host else host
        print(f"http://{name}:{port}: a page, POST /judge, GET /health", flush=True)
        model = str(options.artifact or "packaged")
        serve.serve(listener, serve.application(judge, model, host))
    return 0
