"""Measure what an interrupted or refused exchange with Kaggle costs, in another commit and in this
checkout.

    python benchmarks/kaggle_faults.py b5a4fac [--only CASE ...]

The other commit is checked out into a temporary worktree. Both sides push a bundle of stand-ins
with the installed Kaggle client to the loopback service of `tests/kaggle/loopback.py`. Pauses take
no time and are counted on the command's own clock. Prints a table with one row per case, in five to
ten minutes.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.kaggle.loopback import USER, Reply, Service, client_environment, lost, refusal  # noqa: E402

COMPETITION = "llm-classification-finetuning"
CREATE, VERSION = "DatasetApiService/CreateDataset", "DatasetApiService/CreateDatasetVersion"
SAVE_KERNEL, RUN_STATUS = (
    f"KernelsApiService/{n}" for n in ("SaveKernel", "GetKernelSessionStatus")
)
SUBMIT = "CompetitionApiService/CreateCodeSubmission"
PUSH = ("push", "--user", USER)
STAGE = """
import sys
from pathlib import Path
from tests.kaggle.service.bundles import stage
stage(Path(sys.argv[1]))
"""
COMMAND = """
import sys, time
slept, monotonic = 0.0, time.monotonic
def sleep(seconds):
    global slept
    slept += seconds
time.sleep, time.monotonic = sleep, lambda: monotonic() + slept
import humanpref.cli.main
try:
    code = humanpref.cli.main.main(sys.argv[1:])
except SystemExit as error:
    code = error.code
print(f"paused {slept:.0f} s", file=sys.stderr)
sys.exit(code)
"""


@dataclass(frozen=True)
class Finished:
    """How a command ended: its exit code, its output, its last line of errors, and its pauses in
    seconds."""

    code: int
    out: str
    error: str
    paused: int


class Project:
    """A folder with a bundle and records of a checkout, and the service that its commands reach."""

    def __init__(self, checkout: Path, folder: Path, service: Service) -> None:
        self.checkout, self.folder, self.service = checkout, folder, service
        (folder / ".humanpref").mkdir()
        self._python(checkout, STAGE, str(folder / "bundle"))

    def run(self, *arguments: str, inside: str = ".") -> Finished:
        """Run `humanpref kaggle ARGUMENTS` in the folder, or in a folder inside it."""
        done = self._python(self.folder / inside, COMMAND, "kaggle", *arguments)
        paused = re.search(r"paused (\d+) s$", done.stderr.strip())
        errors = [line for line in done.stderr.splitlines() if line.startswith("humanpref: ")]
        if not paused:
            sys.exit(f"{self.checkout}: {' '.join(arguments)} broke off:\n{done.stderr}")
        return Finished(done.returncode, done.stdout, (errors or [""])[-1], int(paused[1]))

    def count(self, *calls: str) -> int:
        """Return how many requests of these calls the service has received."""
        return sum(len(self.service.received(call)) for call in calls)

    def _python(self, folder: Path, code: str, *arguments: str) -> subprocess.CompletedProcess:
        environment = client_environment(self.service, self.folder / "home")
        sources = f"{self.checkout / 'src'}:{self.checkout}"
        return subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env=environment | {"PYTHONPATH": sources, "OMP_NUM_THREADS": "1"},
            cwd=folder,
            capture_output=True,
            text=True,
        )


def _records_lost(*parts: str) -> Callable[[Project], str]:
    def measure_case(project: Project) -> str:
        for chosen in ((), parts):
            project.run(*PUSH, *chosen)
            project.run("submit", "--message", "m")
            (project.folder / ".humanpref" / "pushes.json").unlink()
        kernels, submissions = project.count(SAVE_KERNEL) - 2, project.count(SUBMIT) - 1
        return f"kernels sent again: {kernels}; submissions: {submissions}"

    return measure_case


def an_hour(project: Project) -> str:
    """Push a dataset that is not ready after an hour, then push again."""
    project.service.processing = 100
    first = project.run(*PUSH, "--dataset")
    second = project.run(*PUSH, "--dataset")
    sent = project.count(CREATE, VERSION)
    return f"exit code {first.code}, then {second.code}; versions sent: {sent}"


def answer_lost(project: Project) -> str:
    """Lose the answer to the creation of a dataset that Kaggle is still processing."""
    project.service.untold, project.service.processing = True, 30
    project.service.queue(CREATE, lost)
    done = project.run(*PUSH, "--dataset")
    return f"exit code {done.code}; versions sent: {project.count(CREATE, VERSION)}"


def outage(project: Project) -> str:
    """Leave seven questions for a run's state unanswered."""
    project.service.queue(RUN_STATUS, *[refusal(503, "Unavailable")] * 7)
    return _ended(project.run(*PUSH))


def _in_use(call: str) -> Callable[[Project], str]:
    def measure_case(project: Project) -> str:
        project.service.answers[call] = lambda _: refusal(409, "The title is already in use")
        done = project.run(*PUSH)
        return f"calls: {project.count(call)}; pauses: {done.paused} s"

    return measure_case


def retry_after(project: Project) -> str:
    """Be asked to wait for ten minutes while waiting for a run."""
    busy = Reply({"code": 429, "message": "Busy"}, 429, {"Retry-After": "600"})
    project.service.queue(RUN_STATUS, busy)
    return _ended(project.run(*PUSH))


def subfolder(project: Project) -> str:
    """Push, then ask for the state in a folder below."""
    project.run(*PUSH)
    (project.folder / "below").mkdir()
    told = project.run("status", inside="below").out.splitlines()[0]
    return told.replace(str(project.folder), "PROJECT")


def without_user(project: Project) -> str:
    """Push without naming the user."""
    return _ended(project.run("push"))


def second_experiment(project: Project) -> str:
    """Push, then push again under a name."""
    project.run(*PUSH)
    done = project.run(*PUSH, "--name", "wide")
    return f"exit code {done.code}; kernels: {len(project.service.kernels)}"


def _ended(done: Finished) -> str:
    return f"exit code {done.code}; pauses: {done.paused} s"


CASES: dict[str, Callable[[Project], str]] = {
    "records lost, then `push` and `submit` again": _records_lost(),
    "records lost, then `push --infer` and `submit` again": _records_lost("--infer"),
    "a new dataset is still in progress after an hour, `push` again": an_hour,
    "the answer to `CreateDataset` is lost, Kaggle processes the dataset": answer_lost,
    "7 unanswered questions for a run's state": outage,
    "a dataset's title is in use (HTTP 409)": _in_use(CREATE),
    "a kernel's title is in use (HTTP 409)": _in_use(SAVE_KERNEL),
    "`Retry-After: 600` while waiting for a run": retry_after,
    "`status` in a subfolder of the project": subfolder,
    "`push` without `--user`": without_user,
    "a second experiment next to the first (`--name`)": second_experiment,
}


def measure(checkout: Path, measure_case: Callable[[Project], str]) -> str:
    """Measure one case in one checkout, with a new project and a new service."""
    from tests.kaggle.service.bundles import left_whole

    with tempfile.TemporaryDirectory() as temporary, Service((COMPETITION,)) as service:
        service.outputs = {"submission.csv": b"id\n1\n", "status.json": left_whole}
        return measure_case(Project(checkout, Path(temporary), service))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", help="the commit to compare with")
    parser.add_argument("--only", nargs="+", default=[], help="parts of the cases' names")
    options = parser.parse_args()
    chosen = {
        name: case
        for name, case in CASES.items()
        if not options.only or any(part in name for part in options.only)
    }
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary, "base")
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(base), options.base], check=True)
        try:
            print(f"| case | {options.base} | this checkout |\n|---|---|---|", flush=True)
            for name, case in chosen.items():
                print(f"| {name} | {measure(base, case)} | {measure(ROOT, case)} |", flush=True)
        finally:
            subprocess.run([*git, "remove", "--force", str(base)], check=True)


if __name__ == "__main__":
    main()
