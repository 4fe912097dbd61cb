"""What a route is given: the engine, a turn at the pool; and who may write."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Annotated, TypeVar

from fastapi import Depends, HTTPException, Query, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy.ext.asyncio import AsyncEngine

from citykit.cities import CITIES
from citykit.errors import DatabaseUnavailableError
from citykit.web.schemas import Code

T = TypeVar("T")

CONNECTIONS = 10  # of an engine of our own; more than a server has cores gain nothing


async def engine_of(request: Request) -> AsyncEngine:
    """Return the application's engine."""
    engine: AsyncEngine | None = request.app.state.engine
    if engine is None:
        raise DatabaseUnavailableError("The application was not started: its lifespan makes the engine.")
    return engine


EngineOf = Annotated[AsyncEngine, Depends(engine_of)]
Limit = Annotated[int, Query(ge=1, le=1000, description="How many at most.")]
Sought = Annotated[
    str,
    Query(
        max_length=CITIES.c.name.info["high"],
        # At least one character that is visible, whichever dialect of regular expressions reads \s.
        pattern=r"^[^\x00]*[^\s\x00-\x1f\x7f-\x9f\ufeff][^\x00]*$",
        description="A part of a name; case and accents do not count.",
    ),
]
InCountry = Annotated[Code | None, Query(description="Only this one, spelled as stored.", examples=["IS"])]


async def authorize(
    request: Request,
    given: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))],
) -> None:
    """Refuse who does not have the token."""
    if not knows_token(request, given.credentials.encode("latin-1") if given else b""):
        raise HTTPException(401, "This needs the server's bearer token.", {"WWW-Authenticate": "Bearer"})


def knows_token(request: Request, given: bytes) -> bool:
    """Tell whether a token is the server's, in a time that does not depend on where it differs."""
    return hmac.compare_digest(given, request.app.state.token.encode())


async def soon(request: Request, work: Awaitable[T]) -> T:
    """Wait for what should take milliseconds, though not for ever."""
    try:
        async with patience(request):
            return await work
    finally:
        if close := getattr(work, "close", None):  # a coroutine whose turn never came
            close()


@asynccontextmanager
async def patience(request: Request) -> AsyncIterator[asyncio.Timeout]:
    """Give a turn at the pool, and end the work in it after a while: a pool may be empty, a table locked."""
    seconds: float = request.app.state.patience
    limit = asyncio.timeout(seconds)
    try:
        async with limit, turns(request):
            yield limit
    except TimeoutError as exc:
        if not limit.expired():
            raise
        raise DatabaseUnavailableError(
            f"No connection or no lock was to be had within {seconds:g} s; nothing was stored."
        ) from exc


def turns(request: Request) -> asyncio.Semaphore:
    """Return what lets as many through as there are connections, and all others in their order.

    SQLAlchemy's pool has no queue in order of arrival: some requests would wait much longer than others.
    """
    state, loop = request.app.state, asyncio.get_running_loop()
    turns: asyncio.Semaphore | None = state.turns.get(loop)
    if turns is None:
        size = getattr(state.engine.pool, "size", int)() or CONNECTIONS
        turns = state.turns[loop] = asyncio.Semaphore(size)
    return turns
