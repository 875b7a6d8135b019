"""Signing in to Kaggle: which of the client's ways is used, and what is wrong with it.

The client tries an access token, the legacy key and the login of `kaggle auth login`, and passes
over in silence what does not work; some of its calls then use a token all the same that its sign-in
passed over.
"""

import importlib.metadata
import json
import os
from pathlib import Path
from typing import Any

from humanpref.schema import InputError

OLDEST = (1, 8, 4)
"""The oldest client that was seen to work."""
SETTINGS = "https://www.kaggle.com/settings"
VARIABLES = ("KAGGLE_USERNAME", "KAGGLE_KEY")
LOGIN = "kaggle auth login"
INSTALL = "pip install 'humanpref[kaggle]'"


def sign_in() -> tuple[Any, str]:
    """Sign in as the client does; give its API, and in words what it signed in with.

    Raises
    ------
    InputError
        If the client is missing or too old, Kaggle cannot be reached, or there is no sign-in that
        works.
    """
    _check_version()
    import requests

    login = _login_file()
    had_login = login.is_file()  # the client removes a login that Kaggle refuses
    if had_login and not _token()[1]:
        os.environ.setdefault(
            "KAGGLE_ENABLE_OAUTH", "1"
        )  # before 2.2 the client looks at it only then
    api = None
    try:
        # Importing it signs in, makes a folder for the credentials, and prints advice.
        import kaggle

        api = kaggle.api
        if not _signed_in(api):
            api.authenticate()  # again, since the import hides the reason
    except ImportError as error:
        raise InputError(f"this needs the Kaggle client ({error}): {INSTALL}") from None
    except requests.exceptions.HTTPError as error:
        if error.response.status_code not in (401, 403):
            raise InputError(
                f"cannot sign in to Kaggle with {_first(had_login)}: HTTP "
                f"{error.response.status_code}; try later"
            ) from None
    except (requests.exceptions.RequestException, TimeoutError, json.JSONDecodeError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise InputError(
            f"cannot reach Kaggle to sign in with {_first(had_login)} ({reason})"
        ) from None
    except (SystemExit, OSError, ValueError, TypeError, KeyError, AttributeError):
        pass  # what is wrong is found below
    if api is None or not _signed_in(api):
        raise InputError(_fault(had_login))
    return api, _first("token" in api.config_values)


def secrets(api: Any) -> list[str]:
    """Every credential that is at hand, used or not."""
    values = [
        api.config_values.get("key"),
        api.config_values.get("token"),
        os.environ.get("KAGGLE_KEY"),
        _token()[0],
    ]
    try:
        login = json.loads(_login_file().read_text(encoding="utf-8"))
        values += [login.get("refresh_token"), login.get("access_token")]
    except (OSError, ValueError, AttributeError):
        pass
    return list(dict.fromkeys(value for value in values if value))


def _check_version() -> None:
    """Raise InputError for a missing or an old client, which may end the process on import."""
    try:
        version = importlib.metadata.version("kaggle")
    except importlib.metadata.PackageNotFoundError:
        raise InputError(f"this needs the Kaggle client: {INSTALL}") from None
    parts = version.split(".")[:3]
    if all(part.isdigit() for part in parts) and tuple(map(int, parts)) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise InputError(
            f"kaggle {version} is installed, which is too old: expected {oldest} or newer; "
            f"{INSTALL}"
        )


def _token() -> tuple[str, str]:
    """The access token that the client would take, and where it is from; empty where there is
    none."""
    from kagglesdk.kaggle_env import get_access_token_from_env

    try:
        token, source = get_access_token_from_env()
    except (OSError, ValueError):  # KAGGLE_API_TOKEN may name a file
        return "", "KAGGLE_API_TOKEN"
    return token or "", {"access_token": "~/.kaggle/access_token"}.get(source, source or "")


def _signed_in(api: Any) -> bool:
    values, (token, source) = api.config_values, _token()
    if source:
        return values.get("token") == token
    return "token" in values or {"username", "key"} <= values.keys()


def _login_file() -> Path:
    return Path("~/.kaggle/credentials.json").expanduser()


def _key_file() -> Path:
    """The legacy key's file, by the client's rule."""
    folder = os.environ.get("KAGGLE_CONFIG_DIR")
    places = [Path(folder)] if folder else [Path("~/.kaggle").expanduser()]
    if not folder:
        places.append(
            Path(os.environ.get("XDG_CONFIG_HOME") or Path("~/.config").expanduser(), "kaggle")
        )
    return next(
        (place / "kaggle.json" for place in places if place.is_dir()), places[0] / "kaggle.json"
    )


def _first(login: bool) -> str:
    """What the client signs in with, of what there is."""
    if source := _token()[1]:
        return source
    if login:
        return LOGIN
    return " and ".join(VARIABLES) if all(map(os.environ.get, VARIABLES)) else str(_key_file())


def _fault(had_login: bool) -> str:
    """Why there is no sign-in: what is wrong with the first that is there."""
    if source := _token()[1]:
        return f"{source}: Kaggle does not know this access token; make another at {SETTINGS}"
    path = _key_file()
    if path.is_file():
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if not (isinstance(values, dict) and {"username", "key"} <= values.keys()):
                return (
                    f"{path}: expected a JSON object with username and key; make another at "
                    f"{SETTINGS}"
                )
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or f"not valid JSON: {error}"
            return f"{path}: cannot be read ({reason}); make another at {SETTINGS}"
    if had_login:
        return f"{LOGIN}: Kaggle no longer takes this login; give that command again"
    given = [name for name in VARIABLES if os.environ.get(name)]
    if len(given) == 1:
        (missing,) = set(VARIABLES) - set(given)
        return f"{given[0]} is set, and {missing} is not"
    return (
        f"no Kaggle credentials: {LOGIN}, or make a token at {SETTINGS} and put it into "
        "KAGGLE_API_TOKEN or "
        "~/.kaggle/access_token"
    )
