"""Sign in to Kaggle, and explain why a sign-in failed.

The client tries an access token, then the login of `kaggle auth login`, then the legacy key, and
silently skips any that do not work. Some of its calls nevertheless use a token that the sign-in has
skipped.
"""

import importlib.metadata
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from humanpref.extras import install_line
from humanpref.files import read_json
from humanpref.schema import InputError

OLDEST = "1.8.4"
"""The oldest client version known to work."""
SETTINGS = "https://www.kaggle.com/settings"
VARIABLES = ("KAGGLE_USERNAME", "KAGGLE_KEY")
LOGIN = "kaggle auth login"
LOGIN_FILE = "~/.kaggle/credentials.json"


def sign_in() -> tuple[Any, str]:
    """Sign in with the credentials that Kaggle's client chooses. Return the client's API and a
    description of these credentials.

    Raises
    ------
    InputError
        If Kaggle cannot be reached, or no credentials work.
    """
    import requests

    had_login = Path(LOGIN_FILE).expanduser().is_file()  # the client deletes a refused login
    if had_login and not _token()[1]:
        os.environ.setdefault("KAGGLE_ENABLE_OAUTH", "1")  # clients before 2.2 need this
    api = None
    try:
        # The import signs in, creates a folder for the credentials, and prints advice.
        import kaggle

        api = kaggle.api
        if not _signed_in(api):
            api.authenticate()  # again, since the import hides the reason for a failure
    except ImportError as error:
        raise InputError(
            f"this needs the Kaggle client ({error}): {install_line('kaggle')}"
        ) from None
    except (requests.exceptions.RequestException, TimeoutError, json.JSONDecodeError) as error:
        if getattr(getattr(error, "response", None), "status_code", None) not in (401, 403):
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise InputError(
                f"cannot sign in to Kaggle with {_credentials(api, had_login)} ({reason}); try "
                "later"
            ) from None
    except (SystemExit, OSError, ValueError, TypeError, KeyError, AttributeError):
        pass  # explained below
    if api is None or not _signed_in(api):
        raise InputError(_explain(api, had_login))
    return api, _credentials(api, "token" in api.config_values)


def secrets(api: Any) -> list[str]:
    """Return all of this user's credentials, whether or not they are in use."""
    values = [
        api.config_values.get("key"),
        api.config_values.get("token"),
        os.environ.get("KAGGLE_KEY"),
        _token()[0],
    ]
    with suppress(InputError, AttributeError):
        login = read_json(Path(LOGIN_FILE).expanduser())
        values += [login.get("refresh_token"), login.get("access_token")]
    return list(set(filter(None, values)))


def check_client() -> None:
    """Raise InputError if the client is missing, or so old that importing it may exit."""
    try:
        version = importlib.metadata.version("kaggle")
    except importlib.metadata.PackageNotFoundError:
        raise InputError(f"this needs the Kaggle client: {install_line('kaggle')}") from None
    from packaging.version import Version

    if Version(version) < Version(OLDEST):
        raise InputError(f"kaggle {version}: expected {OLDEST} or newer; {install_line('kaggle')}")


def _token() -> tuple[str, str]:
    """Return the access token that the client would use, and its source; both are empty if there is
    no token."""
    from kagglesdk.kaggle_env import get_access_token_from_env

    try:
        token, source = get_access_token_from_env()
    except (OSError, ValueError):  # KAGGLE_API_TOKEN may name an unreadable file
        return "", "KAGGLE_API_TOKEN"
    return token or "", "~/.kaggle/access_token" if source == "access_token" else source or ""


def _signed_in(api: Any) -> bool:
    values, (token, source) = api.config_values, _token()
    if source:
        return values.get("token") == token
    return "token" in values or {"username", "key"} <= values.keys()


def _credentials(api: Any, login: bool) -> str:
    """Return the source of the first credentials that the client tries: a variable, a file or a
    login."""
    if source := _token()[1]:
        return source
    if login:
        return LOGIN
    return " and ".join(VARIABLES) if all(map(os.environ.get, VARIABLES)) else str(_key_file(api))


def _key_file(api: Any) -> Path:
    return Path(getattr(api, "config", "~/.kaggle/kaggle.json")).expanduser()


def _explain(api: Any, had_login: bool) -> str:
    """Return a message that says what is wrong with the first credentials found, or that there are
    none."""
    if source := _token()[1]:
        return f"{source}: Kaggle does not accept this access token; create another at {SETTINGS}"
    path = _key_file(api)
    if path.is_file():
        values = read_json(path)
        if not (isinstance(values, dict) and {"username", "key"} <= values.keys()):
            return f"{path}: expected a JSON object with username and key; create one at {SETTINGS}"
    if had_login:
        return f"{LOGIN}: Kaggle no longer accepts this login; run that command again"
    present = [name for name in VARIABLES if name in os.environ]
    if len(present) == 1:
        (missing,) = set(VARIABLES) - set(present)
        return f"{present[0]} is set, but {missing} is not"
    return (
        f"no Kaggle credentials: run {LOGIN}, or create a token at {SETTINGS} and put it into "
        "KAGGLE_API_TOKEN or ~/.kaggle/access_token"
    )
