"""Run `humanpref` commands in processes of their own, which may be killed, without importing
everything for each.

One process imports the package and the real client and then forks a child for every command. In it
no time passes: sleeping only moves its clock.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .loopback import CLIENT_TIMEOUT, Service, client_environment

SOURCES = Path(__file__).parents[2] / "src"

_FORKER = """
import json, os, sys, time

slept = 0.0
def sleep(seconds):
    global slept
    slept += seconds
monotonic = time.monotonic
time.sleep, time.monotonic = sleep, lambda: monotonic() + slept

# What the commands import, once for all of them.
import humanpref.cli.main, humanpref.runs.artifact, importlib, pandas
for name in sys.argv[1:]:
    importlib.import_module(name)
from humanpref.kaggle.service import client, fetch, push, results, submit, waiting, wire
for line in sys.stdin:
    order = json.loads(line)
    pid = os.fork()
    if not pid:
        code = 70
        try:
            wire.READ_SECONDS, client.CALL_SECONDS = order["limits"]
            os.environ.clear()
            os.environ.update(order["environment"])
            os.chdir(order["folder"])
            for number in (1, 2):
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
                os.dup2(os.open(order["output"][number - 1], flags), number)
            code = humanpref.cli.main.main(order["arguments"])
        except SystemExit as error:
            code = error.code
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@dataclass(frozen=True)
class Finished:
    """What a command ended with: its exit code, minus the signal if it was killed, and what it
    printed."""

    code: int
    out: str
    err: str


class Commands:
    """The process that forks; `pid` is that of the command which runs.

    It imports the modules of `client` for all commands. Importing `kaggle` itself signs in.
    """

    def __init__(self, folder: Path, client: Sequence[str] = ("kaggle",)) -> None:
        self.pid = 0
        self._folder = folder
        with Service() as service:
            environment = client_environment(service, folder) | {"PYTHONPATH": str(SOURCES)}
        self._forker = subprocess.Popen(
            [sys.executable, "-c", _FORKER, *client],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def run(
        self,
        service: Service,
        folder: Path,
        *arguments: str,
        limits: tuple[float, float] = (20, 40),
        environment: Mapping[str, str] | None = None,
    ) -> Finished:
        """Run `humanpref ARGUMENTS` in a folder against a service; `limits`: seconds for a read and
        for a call; `environment`: by default, that of a client with a key."""
        output = [self._folder / "out", self._folder / "err"]
        order = {
            "arguments": arguments,
            "folder": str(folder),
            "limits": limits,
            "environment": environment or client_environment(service, self._folder),
            "output": [str(path) for path in output],
        }
        self._forker.stdin.write(json.dumps(order) + "\n")
        self.pid = int(self._forker.stdout.readline())
        code = int(self._forker.stdout.readline())
        return Finished(code, *(path.read_text(errors="replace") for path in output))

    def close(self) -> None:
        """End the process that forks, once it has no command left."""
        self._forker.stdin.close()
        self._forker.wait(timeout=CLIENT_TIMEOUT)
        self._forker.stdout.close()
