"""ASGI middleware: refuses requests by host, origin and size, and notices clients that disconnect."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from citykit.web.answers import READING, answer

SMALL_BODY = 64 * 2**10  # bytes; for all requests but a bulk load
WATCH_AFTER = 0.2  # seconds; short requests are done before and start no watcher
SLOW_BODY = 30.0  # seconds without a byte of a body from the client, or of an answer to it
LINGER = 2.0  # seconds in which the rest of a refused body is read and dropped


class Guard:
    """Refuses requests by host, origin and size; cancels a request and its statement with its client.

    Parameters
    ----------
    app : ASGI application
    bulk_path : str
        Where bodies of up to `max_body_bytes` are taken; elsewhere 64 KiB.
    max_body_bytes : int
    allowed_hosts : collection of str
        The names under which the server may be called; empty: any. On loopback they keep a web page from
        reaching it under a name of its own (DNS rebinding).
    """

    def __init__(
        self, app: ASGIApp, *, bulk_path: str, max_body_bytes: int, allowed_hosts: Collection[str] = ()
    ) -> None:
        self._app = app
        self._bulk_path = bulk_path
        self._max_body_bytes = max_body_bytes
        self._allowed_hosts = frozenset(host.lower() for host in allowed_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        client = _Client(receive, send, self._limit(scope))
        if scope["method"] in READING:
            client.body_ended()
        # HEAD is answered as GET is; ASGI servers leave the body out.
        asked = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
        try:
            await (self._refusal(scope) or self._app)(asked, client.receive, client.send)
        except asyncio.CancelledError:
            if not client.took_back_cancellation():
                raise
        except ClientDisconnect:
            pass  # it left while it sent its body: no answer can reach it
        except Exception as exc:
            if client.is_answered:
                raise  # uvicorn closes the connection, by which the client sees that the answer is incomplete
            logging.getLogger("citykit").exception("%s %r failed", scope["method"], scope["path"])
            failed = answer(exc, writes=scope["method"] not in READING).as_json()
            failed.headers["Connection"] = "close"  # the error may have left the body half read
            await failed(scope, client.receive, client.send)
        finally:
            client.forget()

    def _limit(self, scope: Scope) -> int:
        path = scope["path"].removeprefix(scope.get("root_path", ""))  # as Starlette mounts
        return self._max_body_bytes if path == self._bulk_path else SMALL_BODY

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        if not self._allowed_hosts and scope["method"] in READING:
            return None
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self._allowed_hosts and _name(host) not in self._allowed_hosts:
            return _refused(400, "The Host header is none of this server's names.")
        if scope["method"] in READING:
            return None
        if _is_foreign(headers, host):
            return _refused(403, "Another site's page may not change anything here.")
        limit = self._limit(scope)
        length = headers.get("content-length", "")
        if length.isdecimal() and (len(length) > 18 or int(length) > limit):
            return _refused(413, too_large(limit))
        return None


class _Client:
    """The client of one request: counts the bytes of its body and watches for its disconnect."""

    def __init__(self, receive: Receive, send: Send, limit: int) -> None:
        self._receive = receive
        self._send = send
        self._limit = limit
        self._received = 0
        self._body_has_ended = False
        self.is_answered = False  # the status line was sent
        self._gone = asyncio.Event()
        self._task = asyncio.current_task()
        self._timer: asyncio.TimerHandle | None = None
        self._watcher: asyncio.Task[None] | None = None

    async def receive(self) -> Message:
        """Return the next message: a part of the body, or the disconnect."""
        if self._body_has_ended:
            await self._gone.wait()
            return {"type": "http.disconnect"}
        try:
            async with asyncio.timeout(SLOW_BODY):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(408, f"No part of the body came for {SLOW_BODY:g} s.") from None
        self._received += len(message.get("body", b""))
        if self._received > self._limit:
            raise HTTPException(413, too_large(self._limit))
        if message["type"] == "http.request" and not message.get("more_body"):
            self.body_ended()
        return message

    async def send(self, message: Message) -> None:
        """Send a part of the answer; a client that takes none for `SLOW_BODY` seconds is given up."""
        if message["type"] == "http.response.start":
            self.is_answered = True
            if not self._body_has_ended:  # the rest of the body would be parsed as the next request
                MutableHeaders(scope=message)["Connection"] = "close"
        waiting = asyncio.get_running_loop().call_later(SLOW_BODY, self._hang_up)
        try:
            if self._body_has_ended or message["type"] != "http.response.body" or message.get("more_body"):
                await self._send(message)
            else:
                await self._send({**message, "more_body": True})
                await self._linger()
                await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            waiting.cancel()

    async def _linger(self) -> None:
        """Read and drop the rest of the body: a close before its end (TCP RST) can destroy the answer."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER):
                while (await self._receive()).get("more_body"):
                    pass

    def body_ended(self) -> None:
        """Watch for the disconnect: after the body, no other message can come."""
        self._body_has_ended = True
        self._timer = asyncio.get_running_loop().call_later(WATCH_AFTER, self._begin_to_watch)

    def _begin_to_watch(self) -> None:
        self._watcher = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._hang_up()

    def _hang_up(self) -> None:
        self._gone.set()
        if self._task is not None:
            self._task.cancel()

    def took_back_cancellation(self) -> bool:
        """Tell whether only the disconnect cancelled the request; that cancellation is undone."""
        return self._gone.is_set() and self._task is not None and self._task.uncancel() == 0

    def forget(self) -> None:
        """Stop watching."""
        if self._timer is not None:
            self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()


def too_large(limit: int) -> str:
    """Say that a body is too large."""
    return f"The body is larger than {limit:,} bytes; nothing was stored."


def _refused(status: int, said: str) -> JSONResponse:
    return JSONResponse({"detail": said}, status)


def _is_foreign(headers: Headers, host: str) -> bool:
    """Tell whether a browser sends this for a page of another site; other programs send neither header."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site not in ("same-origin", "none")
    origin = headers.get("origin")
    if origin is None:
        return False
    with contextlib.suppress(ValueError):
        return urlsplit(origin).netloc.lower() != host.lower()
    return True


def _name(host: str) -> str:
    """Return a host without its port."""
    with contextlib.suppress(ValueError):
        return urlsplit(f"//{host}").hostname or ""
    return ""
