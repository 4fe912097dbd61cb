"""The web application: cities over HTTP, by the package's own helpers."""

from __future__ import annotations

import os
import weakref
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncEngine

from citykit import __version__
from citykit.database import connect
from citykit.errors import MissingDependencyError

try:
    from fastapi import Depends, FastAPI
    from fastapi.middleware import Middleware

    from citykit.web import answers, depends, docs, page, routes, schemas
    from citykit.web.guard import Guard
except ModuleNotFoundError as exc:
    raise MissingDependencyError(
        f"The web application needs {exc.name}, which is not installed: pip install 'citykit[web]'"
    ) from exc

PATIENCE = 10.0  # seconds; a route takes milliseconds when nothing is wrong
MAX_BODY_BYTES = 2**30


def create_app(
    engine: AsyncEngine | None = None,
    *,
    max_body_bytes: int = MAX_BODY_BYTES,
    patience: float = PATIENCE,
    allowed_hosts: Collection[str] = (),
) -> FastAPI:
    """Make the web application: JSON routes, a page at ``/``, and ``/docs``.

    Where the environment variable ``CITYKIT_TOKEN`` is set, every route that writes requires it as a bearer
    token.

    Parameters
    ----------
    engine : AsyncEngine, optional
        It stays the caller's, who disposes of it. None: `connect` makes one when the application starts,
        which is disposed of when it ends.
    max_body_bytes : int
        The largest body that ``POST /cities/bulk`` takes; those of the other routes may have 64 KiB.
    patience : float
        Seconds after which a request gives up waiting for a connection or a lock, and is answered with 503.
        A bulk load waits as long as its engine says: ``pool_timeout`` for a connection and the execution
        option ``citykit_lock_timeout`` for a lock, both in seconds (in an engine made here: `patience`).
    allowed_hosts : collection of str
        The host names under which the server may be called; empty: any.

    Returns
    -------
    fastapi.FastAPI
        For any ASGI server; ``citykit serve`` runs it on uvicorn.

    Raises
    ------
    MissingDependencyError
        On import, without ``pip install 'citykit[web]'``.
    ValueError
        If `patience` is not above 0, or more than an hour.

    Examples
    --------
    >>> from citykit.web import create_app
    >>> app = create_app(engine)
    >>> sorted(app.openapi()["paths"])[:4]
    ['/cities/', '/cities/biggest', '/cities/bulk', '/cities/search']
    """
    if not 0 < patience <= 3600:
        raise ValueError(f"patience is a number of seconds above 0, at most 3,600, not {patience!r}")

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        made = None
        if engine is None:
            made = await connect(
                lock_timeout=patience, pool_size=depends.CONNECTIONS, max_overflow=0, pool_timeout=patience
            )
            app.state.engine = made
        try:
            yield
        finally:
            if made is not None:
                app.state.engine = None
                await made.dispose()

    guard = Middleware(
        Guard, bulk_path=routes.BULK, max_body_bytes=max_body_bytes, allowed_hosts=allowed_hosts
    )
    app = FastAPI(
        title="citykit",
        version=__version__,
        description="Cities: the biggest, by name, by country; one to add, or many.",
        lifespan=lifespan,
        middleware=[guard],
        docs_url=None,  # FastAPI's pages load scripts from another host
        redoc_url=None,
    )
    app.state.token = os.environ.get("CITYKIT_TOKEN", "")
    app.state.patience = patience
    app.state.queues = weakref.WeakKeyDictionary()  # by event loop
    app.state.engine = engine
    protected = bool(app.state.token)
    checked = [Depends(depends.check_query)]
    app.include_router(routes.reading, dependencies=checked)
    app.include_router(
        routes.writing,
        dependencies=[Depends(depends.authorize), *checked] if protected else checked,
        responses=schemas.documented(401) if protected else {},
    )
    app.include_router(page.page, include_in_schema=False)
    app.include_router(docs.docs, include_in_schema=False)
    answers.answer_errors(app)
    return app
