"""The dependencies of the routes: the engine, the token, and a time limit for work on the pool."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Annotated, TypeVar
from urllib.parse import quote

from fastapi import Depends, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy.ext.asyncio import AsyncEngine

from citykit.cities import CITIES
from citykit.errors import DatabaseUnavailableError, did_you_mean
from citykit.web.schemas import AS_IN_JSON, Code

T = TypeVar("T")

CONNECTIONS = 10  # of the engine that the application makes; more than the cores of the server gain nothing


async def engine_of(request: Request) -> AsyncEngine:
    """Return the application's engine."""
    engine: AsyncEngine | None = request.app.state.engine
    if engine is None:
        raise DatabaseUnavailableError("The application was not started: its lifespan makes the engine.")
    return engine


EngineOf = Annotated[AsyncEngine, Depends(engine_of)]
Limit = Annotated[int, Query(ge=1, le=1000, description="How many at most."), AS_IN_JSON]
Sought = Annotated[
    str,
    Query(
        max_length=CITIES.c.name.info["high"],
        # At least one visible character; listed, as \s differs between dialects of regular expressions.
        pattern=r"^[^\x00]*[^\s\x00-\x1f\x7f-\x9f\ufeff][^\x00]*$",
        description="A part of a name; case and accents do not count.",
    ),
]
InCountry = Annotated[Code | None, Query(description="Only this country, as stored.", examples=["IS"])]


async def check_query(request: Request) -> None:
    """Refuse a parameter that the route does not have, or that is given twice."""
    known = [each.alias for each in request.scope["route"].dependant.query_params]
    given = [name for name, _ in request.query_params.multi_items()]
    unknown = [name for name in dict.fromkeys(given) if name not in known]
    problems = [
        ("query", name, f"There is no such parameter{did_you_mean(name, known)}.") for name in unknown
    ]
    problems += [
        ("query", name, "It is given more than once.")
        for name in dict.fromkeys(given)
        if name in known and given.count(name) > 1
    ]
    if problems:
        raise RequestValidationError(
            [{"type": "value_error", "loc": loc, "msg": said} for *loc, said in problems]
        )


async def authorize(
    request: Request,
    given: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))],
) -> None:
    """Refuse a request without the token."""
    if not knows_token(request, given.credentials.encode("latin-1") if given else b""):
        raise HTTPException(401, "This needs the server's bearer token.", {"WWW-Authenticate": "Bearer"})


def knows_token(request: Request, given: bytes) -> bool:
    """Compare a token with the server's, in a time that does not tell where they differ."""
    return hmac.compare_digest(given, request.app.state.token.encode())


def root_of(request: Request) -> str:
    """Return the path that the application is mounted below, as links have it; '' where it is at the top."""
    return quote(request.scope.get("root_path", "").rstrip("/"))


async def soon(request: Request, work: Awaitable[T]) -> T:
    """Await work under the application's time limit."""
    try:
        async with time_limit(request):
            return await work
    finally:
        if close := getattr(work, "close", None):  # a coroutine that never started
            close()


@asynccontextmanager
async def time_limit(request: Request) -> AsyncIterator[asyncio.Timeout]:
    """Wait for a place in the queue, and cancel the work `patience` seconds after the first of the request.

    These seconds are for all work of the request together.
    """
    seconds: float = request.app.state.patience
    if not hasattr(request.state, "citykit_deadline"):
        request.state.citykit_deadline = asyncio.get_running_loop().time() + seconds
    limit = asyncio.timeout_at(request.state.citykit_deadline)
    try:
        async with limit, queue(request):
            yield limit
    except TimeoutError as exc:
        if not limit.expired():
            raise
        raise DatabaseUnavailableError(
            f"No connection or no lock was free within {seconds:g} s; nothing was stored."
        ) from exc


def queue(request: Request) -> asyncio.Semaphore:
    """Return the semaphore of the running loop: one place for each connection of the pool, in FIFO order.

    SQLAlchemy's pool does not serve its waiters in their order: some requests would wait much longer.
    """
    state, loop = request.app.state, asyncio.get_running_loop()
    places: asyncio.Semaphore | None = state.queues.get(loop)
    if places is None:
        size = getattr(state.engine.pool, "size", int)() or CONNECTIONS
        places = state.queues[loop] = asyncio.Semaphore(size)
    return places
