"""The Kaggle client, held to its word: answers are read, every wait is bounded, and nothing that it
prints gets out.

The installed `kaggle` does the talking. What it leaves to its caller is here: its exit codes say
nothing, so each answer is read; it waits for ever, so each call has a time limit; it repeats some
calls that may have been done already, so what changes something is sent once, and the caller finds
out (`UncertainError`) that it has to look.
"""

import base64
import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from humanpref.kaggle.service import wire
from humanpref.kaggle.service.signin import secrets, sign_in
from humanpref.schema import InputError

logger = logging.getLogger(__name__)

CALL_SECONDS = 180
"""At most so long for a whole call: a body that trickles never runs into the limit of one read."""
PIECE = 2**18
"""Bytes of a download that must come within `wire.READ_SECONDS`."""
TRIES = 6
"""How often a call that changes nothing is made before it is given up."""
LONGEST_PAUSE = 300
"""Seconds; a service that asks for more is not waited for."""


class ServiceError(InputError):
    """Kaggle did not do what it was asked for. `seconds`: after so many it wants to be asked again,
    where it said so."""

    seconds = 0.0


class RefusedError(ServiceError):
    """Kaggle said no: nothing was done, and asking again is of no use."""


class NotThereError(RefusedError):
    """What was asked for does not exist, or is not this user's: Kaggle does not tell one from the
    other."""


class SignInError(RefusedError):
    """Kaggle does not know the credentials: no call will do any better."""


class BusyError(ServiceError):
    """Kaggle asked to come back later: nothing was done."""


class UncertainError(ServiceError):
    """No answer, or an answer that says nothing: what was asked for may have been done or not."""


class NoAnswerError(UncertainError):
    """Kaggle cannot be reached, or answers nothing."""


def pause_after(attempt: int, error: ServiceError) -> float:
    """Seconds to wait after the failure of try `attempt`, from 0; raises the error itself where
    there is to be no other try."""
    pause = max(2.0**attempt, error.seconds)
    if attempt == TRIES - 1 or pause > LONGEST_PAUSE:
        raise error from None
    return pause


class Client:
    """Kaggle's service as the user whose credentials are in place. Works in the main thread only
    (it uses the alarm signal).

    Raises
    ------
    InputError
        If the client is not installed, or there is no sign-in that works.
    """

    def __init__(self) -> None:
        with wire.guarded(CALL_SECONDS):
            self.api, self._way = sign_in()
        # With this argument the client prints every request, the credentials among the headers.
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
        """The text in one line, not too long, and without the credentials, should a service have
        repeated them."""
        line = " ".join(str(text).split())
        for secret in self._secrets:
            line = line.replace(secret, "***")
        return line if len(line) <= 500 else f"{line[:497]}..."

    def refuse_secrets(self, path: Path) -> None:
        """Raise InputError if the file holds this user's credentials; only files that a person may
        have written are read."""
        if path.stat().st_size < 2**20:
            content = path.read_bytes()
            if any(secret.encode() in content for secret in self._secrets):
                raise InputError(
                    f"{path}: holds your Kaggle key; take it out before anything is uploaded"
                )

    def call(
        self, what: str, method: Callable[..., Any], *values: Any, seconds: float | None = None
    ) -> Any:
        """Make a call once, and say in our words what became of it: refused is only what was not
        sent, or what Kaggle says."""
        import requests

        try:
            with wire.guarded(seconds or CALL_SECONDS) as went:
                return method(*values)
        except InputError:
            raise
        except requests.exceptions.HTTPError as error:
            raise self._judged(error.response, what, error) from None
        except (requests.exceptions.RequestException, OSError) as error:
            raise NoAnswerError(
                f"{what}: no answer from Kaggle ({type(error).__name__}: {self.clean(error)})"
            ) from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if not went.used:
                raise RefusedError(
                    f"{what}: the client does not send this: {self.clean(error)}"
                ) from None
            if went.response is not None and went.response.status_code >= 400:
                raise self._judged(went.response, what, error) from None
            # What the client's own reading of an answer ends in, if the answer is not what it
            # expects.
            raise UncertainError(
                f"{what}: Kaggle's answer cannot be read ({type(error).__name__}: "
                f"{self.clean(error)})"
            ) from None

    def read(self, what: str, method: Callable[..., Any], *values: Any) -> Any:
        """A call that changes nothing, and so may be made again."""
        return self._retry(lambda: self.call(what, method, *values))

    def find(self, what: str, method: Callable[..., Any], *values: Any) -> Any | None:
        """The same; None for what is not there."""
        with contextlib.suppress(NotThereError):
            return self.read(what, method, *values)
        return None

    def told(self, what: str, method: Callable[..., Any], *values: Any) -> Any | None:
        """The answer to a call that can be done without; None where Kaggle does not tell."""

        def ask() -> Any | None:
            try:
                return self.call(what, method, *values)
            except (NoAnswerError, SignInError):
                raise
            except ServiceError:
                return None

        return self._retry(ask)

    def pages(self, what: str, method: Callable[[Any], Any], asked: Any) -> Iterator[Any]:
        """Every page of a list, each read when it is wanted."""
        asked.page_size = 100
        while True:
            answer = self.read(what, method, asked)
            yield answer
            if answer.next_page_token in (None, "", asked.page_token):
                return
            asked.page_token = answer.next_page_token

    def download(self, what: str, path: Path, start: Callable[[], Any]) -> None:
        """Write what `start` begins to fetch to a file, piece by piece."""

        def fetch() -> None:
            pieces = self.call(what, start).iter_content(PIECE)
            with open(path, "wb") as file:
                while piece := self.call(what, next, pieces, b"", seconds=wire.READ_SECONDS):
                    file.write(piece)

        self._retry(fetch)

    def reason(self, error: Any) -> str:
        """The words of an error, which Kaggle gives as text or as an object."""
        return self.clean(
            error.get("message") or error.get("error") or "" if isinstance(error, dict) else error
        )

    def _retry(self, call: Callable[[], Any]) -> Any:
        for attempt in range(TRIES):
            try:
                return call()
            except (BusyError, UncertainError) as error:
                pause = pause_after(attempt, error)
                logger.info("%s; again in %.0f seconds", error, pause)
                time.sleep(pause)
        raise AssertionError("the last try returns or raises")

    def _judged(self, response: Any, what: str, error: Exception) -> ServiceError:
        """What an HTTP error means for whoever asked."""
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
            # The client takes the code in the body for the error, whatever the status is.
            code = int(body.get("code", code)) if readable else code
        text = f"{what}: {(readable and self.reason(body)) or self.clean(error)} (HTTP {code})"
        if code == 401:
            return SignInError(f"{text}: Kaggle does not know these credentials ({self._way})")
        if code < 500 and code not in (408, 409, 429):
            if not readable and content:
                # A page, from whatever stands between.
                return UncertainError(text)
            return NotThereError(text) if code in (403, 404) else RefusedError(text)
        judged = (BusyError if code == 429 else UncertainError)(text)
        with contextlib.suppress(KeyError, ValueError, InvalidHeader):
            judged.seconds = Retry().parse_retry_after(response.headers["Retry-After"])
        return judged


def request(kind: Callable[[], Any], **values: Any) -> Any:
    """A request of the client's with these values; None leaves one out."""
    made = kind()
    for name, value in values.items():
        if value is not None:
            setattr(made, name, value)
    return made
