"""A bundle in a folder, a loopback service, and the commands run against it."""

import pytest

from humanpref.kaggle.competitions import DEFAULT

from ..commands import Commands
from ..loopback import KEY, Service
from .bundles import left_whole, stage
from .played import make_client


@pytest.fixture(scope="session")
def commands(tmp_path_factory):
    commands = Commands(tmp_path_factory.mktemp("home"))
    yield commands
    commands.close()


@pytest.fixture
def service():
    with Service(competitions=(DEFAULT,)) as service:
        service.outputs = {
            "submission.csv": b"id\n1\n",
            "logs/infer.log": b"fine\n",
            "status.json": left_whole,
        }
        yield service


@pytest.fixture
def folder(tmp_path):
    """A folder to work in, with a bundle."""
    stage(tmp_path / "bundle")
    (tmp_path / ".humanpref").mkdir()
    return tmp_path


@pytest.fixture
def run(commands, service, folder):
    """Run `humanpref kaggle …`; the key is in none of its output."""

    def run(*arguments, **options):
        finished = commands.run(service, folder, "kaggle", *arguments, **options)
        assert KEY not in finished.out + finished.err
        assert "Traceback" not in finished.err
        return finished

    return run


@pytest.fixture
def client(monkeypatch):
    """A signed-in client in this process; tests put functions in the place of its service."""
    pytest.importorskip("requests")
    return make_client(monkeypatch)
