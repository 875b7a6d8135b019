"""Every way of signing in that the client has, and what is said where it does not work; each in a
process of its own."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..commands import Commands
from ..loopback import (
    CLIENT_TIMEOUT,
    KEY,
    REFRESH_TOKEN,
    TOKEN,
    USER,
    Reply,
    Service,
    client_environment,
)

SOURCES = Path(__file__).parents[3] / "src"
VARIABLES = ("KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_CONFIG_DIR")

pytestmark = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("kaggle", "kagglesdk", "six")),
    reason="needs the Kaggle client: pip install 'humanpref[kaggle]'",
)

KEY_FILE, TOKEN_FILE, LOGIN_FILE = (
    f".kaggle/{name}" for name in ("kaggle.json", "access_token", "credentials.json")
)
SETTINGS = "https://www.kaggle.com/settings"


@pytest.fixture
def service():
    with Service() as service:
        yield service


def environment_of(service, home, **variables):
    """What reaches the service, with no other credentials than these variables."""
    environment = client_environment(service, home)
    return {name: environment[name] for name in environment if name not in VARIABLES} | variables


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    """Commands that have all but the client itself imported, since that signs in."""
    commands = Commands(tmp_path_factory.mktemp("home"), ("kagglesdk", "requests"))
    yield commands
    commands.close()


@pytest.fixture
def status(commands, service, tmp_path):
    """Run `humanpref kaggle status` with nothing but these files in the home folder and these
    variables; no secret shows."""

    def status(files=(), **variables):
        (tmp_path / ".kaggle").mkdir()
        for name, content in dict(files).items():
            text = content if isinstance(content, str) else json.dumps(content)
            (tmp_path / name).write_text(text)
        environment = environment_of(service, tmp_path, **variables)
        done = commands.run(service, tmp_path, "kaggle", "status", environment=environment)
        for secret in (KEY, TOKEN, REFRESH_TOKEN, "wrong-secret"):
            assert secret not in done.out + done.err
        return done

    return status


@pytest.mark.parametrize(
    ("files", "variables"),
    [
        ({}, {"KAGGLE_USERNAME": USER, "KAGGLE_KEY": KEY}),
        ({}, {"KAGGLE_API_TOKEN": TOKEN}),
        ({TOKEN_FILE: TOKEN}, {}),
        ({KEY_FILE: {"username": USER, "key": KEY}}, {}),
        ({LOGIN_FILE: {"refresh_token": REFRESH_TOKEN, "username": USER}}, {}),
        # What is not used may be broken.
        ({TOKEN_FILE: TOKEN, KEY_FILE: "{"}, {}),
        ({KEY_FILE: "{"}, {"KAGGLE_USERNAME": USER, "KAGGLE_KEY": KEY}),
    ],
)
def test_signed_in(status, files, variables):
    done = status(files, **variables)
    assert done.code == 0, done.err
    assert "submissions left today: 5" in done.out


LOGIN = {"refresh_token": "wrong-secret", "username": USER}


@pytest.mark.parametrize(
    ("files", "variables", "words"),
    [
        (
            {},
            {},
            f"no Kaggle credentials: run kaggle auth login, or create a token at {SETTINGS} "
            "and put it into",
        ),
        ({}, {"KAGGLE_USERNAME": USER}, "KAGGLE_USERNAME is set, but KAGGLE_KEY is not"),
        (
            {},
            {"KAGGLE_USERNAME": USER, "KAGGLE_KEY": "wrong-secret"},
            "(KAGGLE_USERNAME and KAGGLE_KEY)",
        ),
        (
            {KEY_FILE: {"username": USER, "key": "wrong-secret"}},
            {},
            "these credentials ({home}/.kaggle/kaggle.json)",
        ),
        ({KEY_FILE: "{"}, {}, "{home}/.kaggle/kaggle.json: not valid JSON ("),
        (
            {KEY_FILE: [1]},
            {},
            "{home}/.kaggle/kaggle.json: expected a JSON object with username and key",
        ),
        (
            {KEY_FILE: {"username": USER}},
            {},
            "{home}/.kaggle/kaggle.json: expected a JSON object with username and key",
        ),
        (
            {},
            {"KAGGLE_API_TOKEN": "wrong-secret"},
            "KAGGLE_API_TOKEN: Kaggle does not accept this access token",
        ),
        (
            {TOKEN_FILE: "wrong-secret"},
            {},
            "~/.kaggle/access_token: Kaggle does not accept this access token",
        ),
        # The client signs in with the key, and then sends the token.
        (
            {TOKEN_FILE: "wrong-secret", KEY_FILE: {"username": USER, "key": KEY}},
            {},
            "~/.kaggle/access_token: Kaggle does not accept this access token",
        ),
        ({LOGIN_FILE: LOGIN}, {}, "kaggle auth login: Kaggle no longer accepts this login"),
    ],
)
def test_not_signed_in(status, tmp_path, files, variables, words):
    done = status(files, **variables)
    assert done.code == 2
    assert "submissions left" not in done.out
    (line,) = done.err.splitlines()
    assert words.format(home=tmp_path) in line


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (None, "cannot sign in to Kaggle with KAGGLE_API_TOKEN ("),
        (Reply(b"<html>"), "cannot sign in to Kaggle with KAGGLE_API_TOKEN ("),
        (Reply(status=503), "cannot sign in to Kaggle with KAGGLE_API_TOKEN (HTTPError: 503"),
        (
            Reply({"code": 401, "message": "wrong-secret"}, 401),
            "KAGGLE_API_TOKEN: Kaggle does not accept this access",
        ),
    ],
)
def test_kaggle_cannot_be_asked(service, status, reply, words):
    service.answers["OAuthService/IntrospectToken"] = lambda request: reply
    done = status(KAGGLE_API_TOKEN=TOKEN)
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert words in line


def test_an_old_client(service, tmp_path):
    """Its import ends the process, so it is not imported."""
    old = tmp_path / "old"
    (old / "kaggle-1.6.17.dist-info").mkdir(parents=True)
    (old / "kaggle-1.6.17.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: kaggle\nVersion: 1.6.17\n"
    )
    (old / "kaggle.py").write_text("raise SystemExit(1)\n")
    path = os.pathsep.join([str(old), str(SOURCES)])
    done = subprocess.run(
        [sys.executable, "-m", "humanpref.cli", "kaggle", "status"],
        env=environment_of(service, tmp_path, PYTHONPATH=path),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=CLIENT_TIMEOUT,
        check=False,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("humanpref: kaggle 1.6.17: expected 1.8.4 or newer; pip install ")
    assert "[kaggle]" in line
