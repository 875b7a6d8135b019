"""Calls to Kaggle through the installed `kaggle` client.

The client's exit codes are meaningless, so every answer is checked here. The client would wait
forever, so every call has a time limit. The client also repeats some calls that may already have
succeeded. Here, a call that changes something is sent only once; if its outcome is unknown, an
`UncertainError` tells the caller to look for the result.
"""

import base64
import contextlib
import inspect
import json
import logging
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from humanpref.kaggle.service import wire
from humanpref.kaggle.service.signin import check_client, secrets, sign_in
from humanpref.schema import InputError

logger = logging.getLogger(__name__)

CALL_SECONDS = 180
"""Time limit of an entire call, in seconds. The limit of a single read is not enough, since a body
that trickles in never reaches it."""
PIECE = 2**18
"""Number of bytes of a download that must arrive within `wire.READ_SECONDS`."""
TRIES = 6
"""Maximum number of attempts at a call."""
LONGEST_PAUSE = 300
"""Maximum pause between two attempts, in seconds. If Kaggle asks for a longer pause, the call
fails; the error message says how long it is."""
IN_USE = re.compile(r"\b(in use|already exists|already taken)\b", re.IGNORECASE)
"""A conflict (HTTP 409) with such a message is permanent; any other is temporary."""

T = TypeVar("T")


class ServiceError(InputError):
    """Kaggle did not carry out a request."""

    seconds = 0.0
    """The pause that Kaggle asked for before the next attempt."""


class RefusedError(ServiceError):
    """Kaggle refused: nothing was done, and repeating the call is useless."""


class NotThereError(RefusedError):
    """The target does not exist or belongs to someone else; Kaggle does not say which."""


class SignInError(RefusedError):
    """Kaggle does not accept the credentials, so every call will fail."""


class BusyError(ServiceError):
    """Kaggle asked to try again later: nothing was done."""


class UncertainError(ServiceError):
    """Kaggle sent no answer or an unreadable one: the request may or may not have succeeded."""


def retry(attempt: Callable[[], T]) -> T:
    """Return the result of `attempt`. While Kaggle is busy or does not answer, repeat it with
    increasing pauses.

    Raises
    ------
    ServiceError
        The error of the last attempt, or the first error for which a retry is pointless.
    """
    for tried in range(TRIES - 1):
        try:
            return attempt()
        except (BusyError, UncertainError) as error:
            pause = max(2.0**tried, error.seconds)
            if pause > LONGEST_PAUSE:
                raise
            logger.info("%s; trying again in %.0f seconds", error, pause)
            time.sleep(pause)
    return attempt()


class Client:
    """A connection to Kaggle as the signed-in user. It uses the alarm signal and so works only in
    the main thread.

    Raises
    ------
    InputError
        If the `kaggle` client is not installed or the user cannot sign in.
    """

    def __init__(self) -> None:
        check_client()
        with wire.guarded(CALL_SECONDS):
            self.api, self._way = sign_in()
        # With these arguments, the client would print every request, including the credentials.
        self.api.args = [word for word in self.api.args if word not in ("--verbose", "-v")]
        values = self.api.config_values
        self.user: str = values.get("username", "")
        self._secrets = secrets(self.api)
        if "key" in values:
            self._secrets.append(base64.b64encode(f"{self.user}:{values['key']}".encode()).decode())
        sdk = self.api.build_kaggle_client()
        self.datasets = sdk.datasets.dataset_api_client
        self.kernels = sdk.kernels.kernels_api_client
        self.competitions = sdk.competitions.competition_api_client

    def clean(self, text: object) -> str:
        """Return the text as one line of at most 500 characters, with credentials masked. If `text`
        is an error object from Kaggle, its message is used."""
        if isinstance(text, dict):
            text = text.get("message") or text.get("error") or ""
        line = self.mask(" ".join(str(text).split()))
        return line if len(line) <= 500 else f"{line[:497]}..."

    def mask(self, text: str) -> str:
        """Return the text with credentials masked."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def refuse_secrets(self, path: Path) -> None:
        """Raise InputError if the file contains this user's credentials. Only files under 1 MiB are
        read, since larger ones are not written by hand."""
        if path.stat().st_size < 2**20:
            content = path.read_bytes()
            if any(secret.encode() in content for secret in self._secrets):
                raise InputError(
                    f"{path}: contains your Kaggle key; remove it before uploading anything"
                )

    def run(self, what: str, call: Callable[[], T], seconds: float | None = None) -> T:
        """Run `call` once, within a time limit, and translate its errors.

        Parameters
        ----------
        what : str
            The subject of the call; every error message starts with it.
        call : callable
            A function that sends a request through the client.
        seconds : float, optional
            The time limit; by default `CALL_SECONDS`.

        Raises
        ------
        ServiceError
            `RefusedError` only if nothing was sent or Kaggle refused; `UncertainError` if the
            request may have succeeded.
        """
        import requests

        try:
            with wire.guarded(seconds or CALL_SECONDS) as traffic:
                return call()
        except InputError:
            raise
        except requests.exceptions.HTTPError as error:
            raise self._http_error(error.response, what, error) from None
        except (requests.exceptions.RequestException, OSError) as error:
            raise UncertainError(
                f"{what}: no answer from Kaggle ({type(error).__name__}: {self.clean(error)})"
            ) from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            # The client raises these for requests that it does not send and for answers that it
            # cannot read.
            if not traffic.used:
                raise RefusedError(
                    f"{what}: the client refuses to send this: {self.clean(error)}"
                ) from None
            if traffic.response is not None and traffic.response.status_code >= 400:
                raise self._http_error(traffic.response, what, error) from None
            raise UncertainError(
                f"{what}: Kaggle's answer cannot be read ({type(error).__name__}: "
                f"{self.clean(error)})"
            ) from None

    def call(self, what: str, method: Callable[[Any], Any], **values: Any) -> Any:
        """Send a request with these values to one of the service's methods, without retrying, and
        return the answer."""
        request = request_for(method, **values)
        return self.run(what, lambda: method(request))

    def read(self, what: str, method: Callable[[Any], Any], **values: Any) -> Any:
        """Like `call`, but with retries, which are safe only for calls that change nothing."""
        return retry(lambda: self.call(what, method, **values))

    def find(self, what: str, method: Callable[[Any], Any], **values: Any) -> Any | None:
        """Like `read`, but return None if the target does not exist."""
        with contextlib.suppress(NotThereError):
            return self.read(what, method, **values)
        return None

    def ask(self, what: str, method: Callable[[Any], Any], **values: Any) -> Any | None:
        """Like `call`, but for an answer that is not essential: if the call fails, log a warning
        and return None. Only a failed sign-in is raised."""
        try:
            return self.call(what, method, **values)
        except SignInError:
            raise
        except ServiceError as error:
            logger.warning("%s", error)
            return None

    def pages(self, what: str, method: Callable[[Any], Any], **values: Any) -> Iterator[Any]:
        """Yield the pages of a list one by one."""
        token = None
        while True:
            answer = self.read(what, method, page_size=100, page_token=token, **values)
            yield answer
            if answer.next_page_token in (None, "", token):
                return
            token = answer.next_page_token

    def download(self, what: str, path: Path, start: Callable[[], Any]) -> None:
        """Write the body of the response returned by `start` to a file, piece by piece."""

        def fetch() -> None:
            pieces = self.run(what, start).iter_content(PIECE)
            with open(path, "wb") as file:
                while piece := self.run(what, lambda: next(pieces, b""), wire.READ_SECONDS):
                    file.write(piece)

        retry(fetch)

    def _http_error(self, response: Any, what: str, error: Exception) -> ServiceError:
        """Return the error for a response with an error status."""
        from urllib3.exceptions import InvalidHeader
        from urllib3.util import Retry

        content, body = b"", None
        with contextlib.suppress(OSError, ValueError):
            content = response.content
            body = json.loads(content)
        readable = isinstance(body, dict)
        if readable and isinstance(body.get("error"), dict):
            body = body["error"]
        code = response.status_code
        with contextlib.suppress(ValueError, TypeError):
            # The client uses the code in the body, regardless of the HTTP status.
            code = int(body.get("code", code)) if readable else code
        text = f"{what}: {(readable and self.clean(body)) or self.clean(error)} (HTTP {code})"
        if code == 401:
            return SignInError(f"{text}: Kaggle does not accept these credentials ({self._way})")
        passing = code in (408, 429) or (code == 409 and not IN_USE.search(text))
        if code < 500 and not passing:
            if content and not readable:
                return UncertainError(text)  # a page from a proxy, not an answer from Kaggle
            return (NotThereError if code in (403, 404) else RefusedError)(text)
        translated = (BusyError if code == 429 else UncertainError)(text)
        with contextlib.suppress(KeyError, ValueError, InvalidHeader):
            seconds = Retry().parse_retry_after(response.headers["Retry-After"])
            if seconds > LONGEST_PAUSE:
                translated = type(translated)(f"{text}; Kaggle asks to wait {seconds:.0f} seconds")
            translated.seconds = seconds
        return translated


def request_for(method: Callable[[Any], Any], **values: Any) -> Any:
    """Build a request of the type that the method expects, with its fields set to these values."""
    (parameter,) = inspect.signature(method).parameters.values()
    return fill(parameter.annotation(), **values)


def fill(message: Any, **values: Any) -> Any:
    """Set a message's fields, skipping values that are None, and return the message."""
    for name, value in values.items():
        if value is not None:
            setattr(message, name, value)
    return message
