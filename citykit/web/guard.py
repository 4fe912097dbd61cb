"""What stands before the web application: hosts, sizes and senders of requests, and clients that go away."""

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

SMALL_BODY = 64 * 2**10  # of everything but a bulk load
WATCH_AFTER = 0.2  # seconds, so that the many short requests pay nothing for it
SLOW_BODY = 30.0  # seconds in which nothing of a body is sent or taken
LINGER = 2.0  # seconds for which the rest of a body is read that nobody wants


class Guard:
    """Refuses what the application need not see, and cancels a request (and so its query) with its client.

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
        self._allowed_hosts = frozenset(allowed_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        client = _Client(receive, send, self._limit(scope))
        if scope["method"] in READING:
            client.has_sent_all()
        try:
            await (self._refusal(scope) or self._app)(scope, client.receive, client.send)
        except asyncio.CancelledError:
            if not client.took_back_cancellation():
                raise
        except ClientDisconnect:
            pass  # in the midst of its body: nobody is there to be answered
        except Exception as exc:
            if client.is_answered:
                raise  # the server cuts the connection, by which the client knows that this is not all
            logging.getLogger("citykit").exception("%s %r failed", scope["method"], scope["path"])
            failed = answer(exc, writes=scope["method"] not in READING).as_json()
            failed.headers["Connection"] = "close"  # nobody knows what it was left with
            await failed(scope, client.receive, client.send)
        finally:
            client.forget()

    def _limit(self, scope: Scope) -> int:
        return self._max_body_bytes if scope["path"] == self._bulk_path else SMALL_BODY

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        if not self._allowed_hosts and scope["method"] in READING:
            return None
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self._allowed_hosts and _name(host) not in self._allowed_hosts:
            return _refused(400, "This server is not called by that name.")
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
    """The other end of one request: what it sends is counted, and that it goes away is noticed."""

    def __init__(self, receive: Receive, send: Send, limit: int) -> None:
        self._receive = receive
        self._send = send
        self._limit = limit
        self._received = 0
        self._sent_all = False
        self.is_answered = False  # or has begun to be
        self._gone = asyncio.Event()
        self._task = asyncio.current_task()
        self._timer: asyncio.TimerHandle | None = None
        self._watcher: asyncio.Task[None] | None = None

    async def receive(self) -> Message:
        """Return the next part of the body, or that the client has gone."""
        if self._sent_all:
            await self._gone.wait()
            return {"type": "http.disconnect"}
        try:
            async with asyncio.timeout(SLOW_BODY):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(408, f"Nothing of the body came for {SLOW_BODY:g} s.") from None
        self._received += len(message.get("body", b""))
        if self._received > self._limit:
            raise HTTPException(413, too_large(self._limit))
        if message["type"] == "http.request" and not message.get("more_body"):
            self.has_sent_all()
        return message

    async def send(self, message: Message) -> None:
        """Send a part of the answer; a client that does not take it for long has gone."""
        if message["type"] == "http.response.start":
            self.is_answered = True
            if not self._sent_all:  # what is still to come of this body would be taken for a request
                MutableHeaders(scope=message)["Connection"] = "close"
        if not message.get("more_body") and (message["type"] != "http.response.body" or self._sent_all):
            await self._send(message)
            return
        waiting = asyncio.get_running_loop().call_later(SLOW_BODY, self._hang_up)
        try:
            await self._send({**message, "more_body": True})
            if not message.get("more_body"):
                await self._linger()
                await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            waiting.cancel()

    async def _linger(self) -> None:
        """Read what still comes of the body: to close before would take the answer back on its way."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER):
                while (await self._receive()).get("more_body"):
                    pass

    def has_sent_all(self) -> None:
        """From here on nothing but its going away can come."""
        self._sent_all = True
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
        """Tell whether the request was cancelled for its client alone, which is no error then."""
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
