"""A judge over HTTP: a page at `GET /`, `POST /judge` for one pair or many, `GET /health`.

Every request is answered, or its connection is closed after a time limit. The size of a body, the
number of pairs and the waiting time are limited. An error is `{"error": "..."}` with a status of
4xx or 5xx. (If a request is not HTTP, uvicorn itself refuses it, in plain text.) The judge runs in
a separate thread, so that the server can answer `/health` while the judge is busy.
"""

import asyncio
import ipaddress
import json
import logging
import socket
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from humanpref.files import unique
from humanpref.interfaces.judge import Judge
from humanpref.interfaces.serve_page import page_routes
from humanpref.schema import CLASSES, TEXT_COLUMNS, InputError
from humanpref.version import __version__

# Each connection ends after one request, so that `_Protocol` has to time only the first.
_HEADERS = {"Connection": "close", "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}


@dataclass(frozen=True)
class Limits:
    """The limits of one request.

    Attributes
    ----------
    body_bytes : int
        Maximum size of a body. A larger body is refused, but first it is read and discarded, up to
        16 times this size, so that the client is ready to read the answer.
    pairs : int
        Maximum number of pairs.
    request_seconds : float
        Maximum time for the headers of a request to arrive, and then again for its body.
    judge_seconds : float
        Maximum time from a complete request to its judgement, including the time that it waits for
        other requests.
    """

    body_bytes: int = 4 * 1024 * 1024
    pairs: int = 256
    request_seconds: float = 10.0
    judge_seconds: float = 120.0


def application(
    judge: Judge, name: str = "packaged", host: str = "127.0.0.1", limits: Limits | None = None
) -> Starlette:
    """Return the ASGI application that serves a judge.

    A pair is an object with `prompt`, `response_a` and `response_b`: three strings, each a single
    turn, or three lists of turns (strings, or messages with `role` and `content`). Strings are
    taken as they are, even if they look like JSON. The answer to one object is the content of its
    `Judgement`. The answer to a list is a list of objects with `winner`, `p_a`, `p_b` and `p_tie`,
    in the same order. If one pair in the list has messages, all pairs must.

    Parameters
    ----------
    judge : Judge
        The model, from `humanpref.load`.
    name : str
        The name of the model, for `/health` and the page.
    host : str
        The name of the server. Requests are refused unless their `Host` is this name, `localhost`
        or an IP address, so that no web page can reach a local server under the page's own name
        (DNS rebinding).
    limits : Limits, optional
        By default, those of `Limits()`.

    Examples
    --------
    >>> import humanpref
    >>> [route.path for route in application(humanpref.load()).routes]
    ['/judge', '/health', '/', '/page.css', '/page.js']
    """
    limits = limits or Limits()
    about = getattr(judge.model, "about", "")
    pool = ThreadPoolExecutor(1, thread_name_prefix="judge")

    async def judged(request: Request) -> JSONResponse:
        content = await _content(request)
        several = isinstance(content, list)
        pairs = _pairs(content if several else [content], limits, several)
        work = _several if several else _one
        job = pool.submit(work, judge, pairs)
        running = asyncio.wrap_future(job)
        leaving = asyncio.create_task(_disconnected(request))
        tasks = {running, leaving}
        first = asyncio.FIRST_COMPLETED
        done, _ = await asyncio.wait(tasks, timeout=limits.judge_seconds, return_when=first)
        leaving.cancel()
        if running not in done:
            # Drop the job if it has not begun, so that other requests do not wait for it.
            job.cancel()
            message = f"no judgement within {limits.judge_seconds:g} s; send fewer pairs at a time"
            raise HTTPException(503, message)
        try:
            return _reply(running.result())
        except InputError as error:
            raise HTTPException(422, " ".join(str(error).split())) from None

    async def health(_: Request) -> JSONResponse:
        return _reply({"status": "ok", "model": name, "version": __version__})

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        pool.shutdown(wait=False, cancel_futures=True)

    app = Starlette(
        routes=[
            Route("/judge", judged, methods=["POST"]),
            Route("/health", health, methods=["GET"]),
            *page_routes(name, about, _HEADERS),
        ],
        middleware=[Middleware(_Complete, host=host, limits=limits)],
        exception_handlers={HTTPException: _refused, Exception: _failed},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    return app


def serve(listener: socket.socket, app: ASGIApp) -> None:
    """Serve an application until SIGINT or SIGTERM. Then let the running requests finish, but wait
    no longer than 10 seconds.

    Parameters
    ----------
    listener : socket
        A bound socket, from `listen`.
    app : ASGI application
        From `application`.
    """
    # The readers log what they find in a file and warn of empty prompts. Here, they would do so for
    # every request. uvicorn would warn of every request that is not HTTP.
    logging.getLogger("humanpref.data").setLevel(logging.ERROR)
    config = uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=10,
    )
    uvicorn.Server(config).run(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to an address.

    Raises
    ------
    InputError
        If the address is empty, is not of this machine, or is in use.
    """
    if not host:
        raise InputError("option --host: expected an address, got an empty string")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot listen on {host}, port {port}: {reason}") from None


def is_loopback(address: str) -> bool:
    """Return whether only this machine can reach an IP address.

    Examples
    --------
    >>> [is_loopback(address) for address in ("127.0.0.1", "::1", "0.0.0.0", "192.168.0.7")]
    [True, True, False, False]
    """
    return ipaddress.ip_address(address).is_loopback


async def _content(request: Request) -> Any:
    """Return the JSON content of a request's body."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # Other sites' pages may send forms and plain text without asking, but not JSON.
        raise HTTPException(415, f"Content-Type: expected application/json, got {kind!r}")
    try:
        return json.loads(await request.body(), object_pairs_hook=unique, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"the body is not JSON: {error}") from None


async def _disconnected(request: Request) -> None:
    """Wait until the client of a complete request has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is not a JSON number")


async def _body(request: Request, limits: Limits) -> bytes:
    """Return the body of a request once it has arrived."""
    body, size = bytearray(), 0
    try:
        async with asyncio.timeout(limits.request_seconds):
            async for chunk in request.stream():
                size += len(chunk)
                if size <= limits.body_bytes:
                    body += chunk
                elif size > 16 * limits.body_bytes:
                    break
    except TimeoutError:
        message = f"the body did not arrive within {limits.request_seconds:g} s"
        raise HTTPException(408, message) from None
    except ClientDisconnect:
        raise HTTPException(400, "the connection ended before the body was complete") from None
    if size > limits.body_bytes:
        raise HTTPException(413, f"the body is larger than {limits.body_bytes} bytes")
    return bytes(body)


def _pairs(rows: list[Any], limits: Limits, several: bool) -> list[dict[str, Any]]:
    """Return the pairs of a request, each text as a list of turns."""
    if len(rows) > limits.pairs:
        raise HTTPException(413, f"expected at most {limits.pairs} pairs, got {len(rows)}")
    pairs = []
    for number, row in enumerate(rows, start=1):
        where = f"row {number}: " if several else ""
        if not isinstance(row, dict) or set(row) != set(TEXT_COLUMNS):
            got = str(sorted(row))[:200] if isinstance(row, dict) else type(row).__name__
            raise HTTPException(
                422, f"{where}expected an object with {', '.join(TEXT_COLUMNS)}, got {got}"
            )
        kinds = {type(row[column]) for column in TEXT_COLUMNS}
        if kinds not in ({str}, {list}):
            names = sorted(kind.__name__ for kind in kinds)
            raise HTTPException(
                422, f"{where}expected three strings or three lists of turns, got {names}"
            )
        wrap = kinds == {str}
        pairs.append({column: [row[column]] if wrap else row[column] for column in TEXT_COLUMNS})
    return pairs


def _one(judge: Judge, pairs: list[dict[str, Any]]) -> dict[str, Any]:
    return judge.judge(*(pairs[0][column] for column in TEXT_COLUMNS)).to_dict()


def _several(judge: Judge, pairs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    names = ("p_a", "p_b", "p_tie")
    return [
        {"winner": CLASSES[max(range(len(row)), key=row.__getitem__)]}
        | dict(zip(names, row, strict=True))
        for row in judge.judge_many(pairs).tolist()
    ]


def _reply(content: Any, status: int = 200, headers: Any = None) -> JSONResponse:
    return JSONResponse(content, status, {**_HEADERS, **(headers or {})})


async def _refused(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return _reply({"error": error.detail}, error.status_code, error.headers)


async def _failed(_: Request, error: Exception) -> JSONResponse:
    """Answer a request that failed because of a bug; the traceback goes to the log."""
    return _reply({"error": f"internal error: {type(error).__name__}"}, 500)


class _Complete:
    """Passes a request to the application once it is complete. Refuses a request whose `Host` is
    not this server.

    The body is read before anything is refused, because a client that is still sending when its
    connection is closed gets no answer.
    """

    def __init__(self, app: ASGIApp, host: str, limits: Limits) -> None:
        self._app, self._names, self._limits = app, {host.lower(), "localhost"}, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            body = await _body(request, self._limits)
            if not self._knows(given := request.headers.get("host")):
                raise HTTPException(421, f"Host: {given!r} is not this server")
        except HTTPException as error:
            await (await _refused(request, error))(scope, receive, send)
            return

        arrived: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def complete() -> Message:
            return arrived.pop() if arrived else await receive()

        await self._app(scope, complete, send)

    def _knows(self, given: str | None) -> bool:
        try:
            name = urlsplit(f"//{given or ''}").hostname or ""
            return name in self._names or bool(ipaddress.ip_address(name))
        except ValueError:
            return False


class _Protocol(H11Protocol):
    """Closes a connection if its headers do not arrive in time. uvicorn has no such limit."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.loop.call_later(Limits().request_seconds, self._close_unless_asked)

    def _close_unless_asked(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.close()
