"""The routes for programs: each calls one helper of citykit and answers in JSON."""

from __future__ import annotations

import asyncio
import functools
import io
import os
import re
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, aclosing
from typing import Annotated, Any, Literal

import pandas as pd
import pyarrow as pa
from fastapi import APIRouter, HTTPException, Path, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pyarrow import csv
from pydantic_core import to_json
from sqlalchemy import Row, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from citykit.cities import (
    CITIES,
    COLUMNS,
    FOUND,
    City,
    adding,
    biggest_rows,
    find_rows,
    load_cities,
    summarize_countries,
    world_countries,
)
from citykit.database import in_transaction
from citykit.errors import CitykitError, DuplicateKeyError, InvalidFrameError
from citykit.files import FileSource, Kind
from citykit.load import OnConflict, OnInvalid
from citykit.read import stream_frames
from citykit.web.answers import Answer, rejected
from citykit.web.depends import EngineOf, InCountry, Limit, Sought, root_of, soon, time_limit
from citykit.web.schemas import (
    AS_IN_JSON,
    LISTED,
    Country,
    Duplicates,
    ExactRoute,
    FoundCity,
    Health,
    Invalid,
    InvalidBody,
    ListedCity,
    NewCity,
    Report,
    StoredCity,
    documented,
)

BULK = "/cities/bulk"
KINDS: dict[str, Kind] = {  # media types of a bulk body, and their kinds of file
    "text/csv": "csv",
    "application/x-ndjson": "ndjson",
    "application/vnd.apache.parquet": "parquet",
    "application/vnd.apache.arrow.stream": "arrow stream",
}
_ROWS = {"type": "array", "items": {"$ref": "#/components/schemas/NewCity"}}
_CONTENT: dict[str, Any] = {
    kind: {
        "schema": {
            "type": "string", "minLength": 1, "contentMediaType": kind, "contentSchema": _ROWS,
            **({"format": "binary"} if kind.startswith("application/vnd.") else {}),
        }
    }
    for kind in KINDS
}  # fmt: skip
_WRITE_BYTES = 2**20

reading = APIRouter(tags=["cities"])
writing = APIRouter(tags=["cities"], route_class=ExactRoute)


def _json(content: Any) -> Response:
    return Response(to_json(content, inf_nan_mode="null"), media_type="application/json")


@reading.get(
    "/cities/biggest", response_model=list[ListedCity], responses=documented(422), response_class=JSONResponse
)
async def biggest(
    request: Request, engine: EngineOf, limit: Limit = 20, country: InCountry = None
) -> Response:
    """Return the most populated cities, largest first."""
    rows = await soon(request, biggest_rows(engine, limit, country))
    return _json([dict(zip(COLUMNS, row, strict=True)) for row in rows])


@reading.get("/cities/search", response_model=list[FoundCity], responses=documented(422))
async def search(
    request: Request,
    engine: EngineOf,
    q: Sought,
    limit: Limit = 20,
    country: InCountry = None,
) -> Response:
    """Find cities by a part of one of their names; a whole name first, then a beginning, then the rest."""
    rows = await soon(request, find_rows(engine, q, limit, country))
    return _json([dict(zip(FOUND, row, strict=True)) for row in rows])


@reading.get("/countries", response_model=list[Country], responses=documented(422))
async def countries(request: Request, engine: EngineOf) -> Response:
    """Return the number of cities and the populations of each country, the most populous first."""
    frame = await soon(request, summarize_countries(engine))
    frame.insert(1, "name", frame["country"].map(country_names()))
    return _json(frame.to_dict("records"))


@functools.cache
def country_names() -> dict[str, str]:
    """Return the names of the countries, by code."""
    return dict(world_countries()[["code", "name"]].to_numpy().tolist())


@reading.get(
    BULK,
    response_class=StreamingResponse,
    responses={
        200: {"description": "Every city", "content": {"text/csv": {}, "application/x-ndjson": {}}},
        **documented(422),
    },
)
async def export(
    request: Request,
    engine: EngineOf,
    format: Literal["csv", "ndjson"] = "csv",  # noqa: A002  as in the URL
    country: InCountry = None,
) -> StreamingResponse:
    """Stream every city, in a format that the POST of this path takes."""
    statement = select(*(CITIES.c[name] for name in COLUMNS))
    if country is not None:
        statement = statement.where(CITIES.c.country == country)
    frames: Any = stream_frames(engine, statement, chunk_rows=20_000, dtype_backend="pyarrow")
    first = await soon(request, anext(frames))  # errors come before the status line is sent

    async def chunks() -> AsyncIterator[bytes]:
        async with aclosing(frames):
            yield await asyncio.to_thread(_written, first, format, head=True)
            async for frame in frames:
                yield await asyncio.to_thread(_written, frame, format, head=False)

    kind = next(kind for kind, read in KINDS.items() if read == format)
    return StreamingResponse(chunks(), media_type=kind)


def _written(frame: pd.DataFrame, format_: str, *, head: bool) -> bytes:
    if format_ == "ndjson":
        return b"".join(to_json(row, inf_nan_mode="null") + b"\n" for row in _table(frame).to_pylist())
    out = io.BytesIO()
    csv.write_csv(_table(frame), out, csv.WriteOptions(include_header=head))
    return out.getvalue()


def _table(frame: pd.DataFrame) -> pa.Table:
    return pa.Table.from_pandas(frame, preserve_index=False)


@reading.get("/cities/{id}", response_model=StoredCity, responses=documented(404, 422))
async def city_by_id(
    request: Request,
    engine: EngineOf,
    id: Annotated[int, Path(ge=1, le=2**63 - 1), AS_IN_JSON],  # noqa: A002  as the column is called
) -> Any:
    """Return one city."""
    city = await stored(request, engine, id)
    if city is None:
        raise HTTPException(404, "There is no such city.")
    return city


async def stored(request: Request, engine: AsyncEngine, id_: int) -> Row[Any] | None:
    """Return the city with an id, or None."""

    async def work(connection: AsyncConnection) -> Row[Any] | None:
        return (await connection.execute(select(CITIES).where(CITIES.c.id == id_))).one_or_none()

    async with time_limit(request):
        return await in_transaction(engine, work, effect="reads")


@reading.get("/healthz", response_model=Health, responses=documented(422), tags=["server"])
async def health(request: Request, engine: EngineOf) -> Health:
    """Tell whether the database answers a query; this says nothing of rights, nor of the table."""
    async with time_limit(request):
        await in_transaction(engine, lambda connection: connection.scalar(select(1)), effect="reads")
    return Health(status="ok")


@writing.post(
    "/cities/", status_code=201, response_model=StoredCity, responses=documented(403, 408, 409, 413, 422)
)
async def add(request: Request, response: Response, engine: EngineOf, city: NewCity) -> City:
    """Store one city."""
    added = await store(request, engine, city.model_dump())
    response.headers["Location"] = f"{root_of(request)}/cities/{added.id}"
    return added


async def store(request: Request, engine: AsyncEngine, values: dict[str, Any]) -> City:
    """Store a city and commit."""
    add = adding(engine, values)
    async with time_limit(request) as limit:

        async def work(connection: AsyncConnection) -> City:
            city = await add(connection)
            limit.reschedule(None)  # a COMMIT that is cancelled leaves its outcome unknown
            return city

        return await in_transaction(engine, work, repeatable=lambda: True)


@writing.post(
    BULK,
    response_model=Report,
    responses=documented(403, 408, 409, 413, 415, 422, _409=Duplicates, _422=Invalid | InvalidBody),
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "Rows whose columns are the fields of NewCity: CSV with a header line "
            "(`name,country,population`), a JSON object on each line, a Parquet file, or an Arrow stream.",
            "content": _CONTENT,
        }
    },
)
async def load(
    request: Request, engine: EngineOf, on_conflict: OnConflict = "error", on_invalid: OnInvalid = "error"
) -> Response:
    """Store the cities of a CSV, NDJSON, Parquet or Arrow stream body: all of them or none."""
    kind = KINDS.get(request.headers.get("content-type", "").partition(";")[0].strip().lower())
    if kind is None or request.headers.get("content-encoding", "identity") != "identity":
        raise HTTPException(415, f"The body must be one of {', '.join(KINDS)}, without a content encoding.")
    # To a file first: else a slow client would hold a transaction and its locks.
    with ExitStack() as stack:
        try:
            # Closed within the try: that writes its last bytes, and fails, too, where the disk is full.
            with tempfile.NamedTemporaryFile(prefix="citykit-", delete=False) as file:
                stack.callback(os.unlink, file.name)
                await _spool(request, file)
        except OSError:
            return Answer(503, "The disk has no room for the body. Try again later.").as_json()
        try:
            report = await load_cities(
                engine, _rows(file.name, kind), on_conflict=on_conflict, on_invalid=on_invalid, progress=False
            )
        except _UnreadableError as exc:
            return JSONResponse({"detail": str(exc), "rejects": [], "rejects_total": 0}, 422)
        except InvalidFrameError as exc:
            body = {"detail": _for_http(str(exc)), **rejected(exc.rejects)}
            return Response(to_json(body, inf_nan_mode="null"), 422, media_type="application/json")
        except DuplicateKeyError as exc:
            return JSONResponse(
                {"detail": str(exc), "keys": exc.keys[:LISTED], "keys_total": len(exc.keys)}, 409
            )
        finally:
            pa.default_memory_pool().release_unused()  # else Arrow keeps the memory for the next body
    names = ("inserted", "updated", "skipped", "seconds", "plan", "left_out")
    return _json({**{name: getattr(report, name) for name in names}, **rejected(report.rejects)})


# Arguments of `load_cities` that HTTP lacks, with the names in them as JSON has them.
_RENAME = re.compile(r'\brename=\{((?:"(?:[^"\\]|\\.)*"(?:: |, )?)+)\}')
_COLUMNS = re.compile(r'\bcolumns=\[((?:"(?:[^"\\]|\\.)*"(?:, )?)+)\]')


def _for_http(said: str) -> str:
    """Return what a load says of its rows, with what to do to the body in place of what to type in Python."""
    said = re.sub(r" ?See citykit\.last_rejects\(\) for all(; |\.)", " ", said).strip()
    said = _RENAME.sub(lambda found: "rename " + found[1].replace('": "', '" to "') + " in the body", said)
    return _COLUMNS.sub(r"keep only \1 in the body", said)


class _UnreadableError(Exception):
    """The body cannot be parsed as its media type."""


def _rows(path: str, kind: Kind) -> Iterator[Any]:
    try:
        yield from FileSource(path, kind=kind, called="The body")
    except CitykitError as exc:
        raise _UnreadableError(str(exc)) from exc


async def _spool(request: Request, file: Any) -> None:
    waiting = bytearray()
    async for part in request.stream():
        waiting += part
        if len(waiting) >= _WRITE_BYTES:
            await asyncio.to_thread(file.write, bytes(waiting))
            waiting.clear()
    file.write(waiting)
