"""What the web application says: its schemas, its refusals, and which of them each route can give."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Annotated, Any, NamedTuple

import pandas as pd
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints
from sqlalchemy.exc import DBAPIError

from citykit.errors import (
    CitykitError,
    DatabaseUnavailableError,
    DuplicateCityError,
    InvalidFrameError,
    MissingTableError,
)
from citykit.server_errors import sqlstate

READING = ("GET", "HEAD", "OPTIONS")  # the methods that change nothing
RETRY_AFTER = {"Retry-After": "5"}
LISTED = 100  # rejects and keys that an answer lists at most
STORED_ALREADY = "The city is already stored"
_LOOK = "look before you send it again."
_IN_DOUBT = (
    "What was sent may have been stored: the connection to the database was lost while it was being "
    f"committed; {_LOOK}"
)
_FAILED = "The server failed; its log says how."
_WITHOUT_NUL = r"^[^\x00]*$"  # which PostgreSQL's text cannot hold

Name = Annotated[str, StringConstraints(min_length=1, max_length=400, pattern=_WITHOUT_NUL)]
Code = Annotated[str, StringConstraints(max_length=100, pattern=_WITHOUT_NUL)]
Persons = Annotated[int, Field(strict=True, ge=0, le=2**31 - 1, description="Persons.")]
Latitude = Annotated[float | None, Field(ge=-90, le=90, allow_inf_nan=False, description="Degrees.")]
Longitude = Annotated[float | None, Field(ge=-180, le=180, allow_inf_nan=False, description="Degrees.")]

_REYKJAVIK: dict[str, JsonValue] = {
    "name": "Reykjavík",
    "country": "IS",
    "region": "39",
    "population": 118918,
    "latitude": 64.13548,
    "longitude": -21.89541,
}


class NewCity(BaseModel):
    """A city to be stored."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [_REYKJAVIK]})

    name: Name
    population: Persons
    country: Code = ""
    region: Code = ""
    latitude: Latitude = None
    longitude: Longitude = None


class ListedCity(BaseModel):
    """A city in a list."""

    model_config = ConfigDict(json_schema_extra={"examples": [_REYKJAVIK]})

    name: str
    country: str
    region: str
    population: int
    latitude: float | None
    longitude: float | None


class StoredCity(ListedCity):
    """A city as stored."""

    model_config = ConfigDict(from_attributes=True, json_schema_extra={"examples": [{"id": 1, **_REYKJAVIK}]})

    id: int


class Country(BaseModel):
    """What there is in a country; the share (0 to 1) is of the population of all cities."""

    country: str
    cities: int
    total_population: int
    largest_population: int
    share: float


class Reject(BaseModel):
    """A value that cannot be stored: the row's number from 0, or null where the whole column is wrong."""

    row: int | None
    column: str
    value: str | int | float | bool | None
    reason: str


class Report(BaseModel):
    """What a bulk load did."""

    inserted: int
    updated: int
    skipped: int
    seconds: float
    plan: str
    rejects: list[Reject] = Field(description=f"The first {LISTED}.")
    rejects_total: int


class Problem(BaseModel):
    """Why a request was refused."""

    detail: str


class Failure(BaseModel):
    """Why a request could not be answered, and whether it may have changed something all the same."""

    detail: str
    in_doubt: bool = Field(
        description="True: what was sent may or may not have been stored. False: nothing was stored."
    )


class BadField(BaseModel):
    """Which part of a request is wrong, and why."""

    loc: list[str | int]
    msg: str
    type: str


class Invalid(BaseModel):
    """What is wrong with a request."""

    detail: list[BadField]


class InvalidBody(BaseModel):
    """What is wrong with the rows of a body."""

    detail: str
    rejects: list[Reject] = Field(description=f"The first {LISTED}.")
    rejects_total: int


class Duplicates(BaseModel):
    """Which cities are already there."""

    detail: str
    keys: list[list[str]] = Field(description=f"Name, country, region; the first {LISTED}.")
    keys_total: int


class Health(BaseModel):
    """That the database answers."""

    status: str


_MEANINGS = {
    400: "The request cannot be read, or the server is not called by that name",
    401: "The bearer token is missing or wrong",
    403: "A browser sends this for a page of another site",
    404: "There is no such city",
    408: "The body stopped coming",
    409: STORED_ALREADY,
    413: "The body is too large",
    415: "The body is of no known kind",
    422: "Something is invalid",
    500: "The server or its database is not set up for this, or failed: asking again does not help",
    503: "The database is busy or does not answer: Retry-After says when to ask again. Where it is absent, "
    "in_doubt is true: look first whether what was sent has been stored",
}


def documented(*statuses: int, **models: Any) -> dict[int | str, dict[str, Any]]:
    """Return the answers of a route beside its success, for OpenAPI; `models` (``_422=…``) go first."""
    usual = {422: Invalid, 500: Failure, 503: Failure}
    found: dict[int | str, dict[str, Any]] = {}
    for status in (400, *statuses, 500, 503):
        model = models.get(f"_{status}", usual.get(status, Problem))
        found[status] = {"description": _MEANINGS[status], "model": model}
    found[503]["headers"] = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
    return found


def invalid(*problems: tuple[Sequence[str | int], str], kind: str = "value_error") -> JSONResponse:
    """Return the answer that names what is wrong: where it is, and what was expected."""
    detail = [{"loc": _place(loc), "msg": msg, "type": kind} for loc, msg in problems]
    return JSONResponse({"detail": detail}, 422)


def rejected(rejects: pd.DataFrame) -> dict[str, Any]:
    """Return bad values as an answer lists them."""
    listed = [
        {"row": _row(row), "column": column, "value": _plain(value), "reason": reason}
        for row, column, value, reason in rejects.head(LISTED).itertuples(index=False, name=None)
    ]
    return {"rejects": listed, "rejects_total": len(rejects)}


def _row(label: object) -> int | None:
    return int(label) if isinstance(label, Integral) else None


def _plain(value: object) -> str | int | float | bool | None:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Integral):
        return int(value) if abs(int(value)) < 2**53 else "a very large number"
    if isinstance(value, Real) and math.isfinite(value):
        return float(value)
    return _legible(str(value)[:200])


def _legible(text: str) -> str:
    """Return a text as UTF-8 can say it."""
    return text.encode(errors="backslashreplace").decode()


def _place(loc: Sequence[str | int]) -> list[str | int]:
    return [_legible(part) if isinstance(part, str) else part for part in loc]


class Answer(NamedTuple):
    """What is said of an error over HTTP. No SQL, path, password or class is in it."""

    status: int
    detail: str
    in_doubt: bool = False

    @property
    def headers(self) -> dict[str, str]:
        """Those that tell a client whether to ask again."""
        return RETRY_AFTER if self.status == 503 and not self.in_doubt else {}

    def as_json(self) -> JSONResponse:
        """Return it as programs get it."""
        return JSONResponse({"detail": self.detail, "in_doubt": self.in_doubt}, self.status, self.headers)


# What passes by itself, by SQLSTATE: lost connections, deadlocks, resources, locks, cancels and shutdowns.
_PASSES = ("08", "40", "53", "55P", "57")
_LASTS = {  # and what does not, by SQLSTATE or its class
    "25006": "The database may only be read: nothing can be stored.",
    "28": "The database does not let this server in: its user or password is refused.",
    "3D": "The database that this server was given does not exist.",
    "42": "The table of cities in the database is not as this server needs it; the server's log says more.",
    "42501": "This server's database user has no right to do this.",
}


def answer(exc: BaseException, *, writes: bool) -> Answer:
    """Return what is said of an error, for programs and for the page alike.

    `writes` tells whether the request was to store something: where nobody thought of an error, that may
    have been done before it.
    """
    code = _code(exc)
    if isinstance(exc, DatabaseUnavailableError) and exc.in_doubt and writes:
        return Answer(503, _IN_DOUBT, in_doubt=True)
    if isinstance(exc, MissingTableError):
        return Answer(500, "The table of cities does not exist yet: citykit init creates it.")
    if isinstance(exc, DBAPIError) and code.startswith(("22", "23")):
        return Answer(422, "The database cannot store such a value.")
    passes = exc.transient if isinstance(exc, DatabaseUnavailableError) else code.startswith(_PASSES)
    if isinstance(exc, CitykitError) and passes:
        return Answer(503, "The database is busy or does not answer. Try again in a moment.")
    if isinstance(exc, CitykitError) or code:  # the server's refusal, also that of a COMMIT, undoes all
        said = _LASTS.get(code) or _LASTS.get(code[:2])
        return Answer(500, said or "The database cannot do this; the server's log says why.")
    if writes:
        return Answer(500, f"{_FAILED} What was sent may have been stored: {_LOOK}", in_doubt=True)
    return Answer(500, _FAILED)


def _code(exc: BaseException) -> str:
    """Return the SQLSTATE from which an error comes, or nothing."""
    cause: BaseException | None = exc
    while cause is not None:
        if code := sqlstate(cause):
            return code
        cause = cause.__cause__
    return ""


def answer_errors(app: FastAPI) -> None:
    """Answer each error that can be foreseen with its status and a sentence."""
    for kind in (CitykitError, DBAPIError):
        app.add_exception_handler(kind, _failure)
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(InvalidFrameError, _invalid_frame)
    app.add_exception_handler(DuplicateCityError, _duplicate)


async def _invalid_request(_: Request, exc: Exception) -> JSONResponse:
    # Without the inputs themselves, which may be anything: large, secret, or no text at all.
    errors: Sequence[Any] = getattr(exc, "errors", list)()
    detail = [
        {"loc": _place(each["loc"]), "msg": _legible(each["msg"]), "type": each["type"]} for each in errors
    ]
    return JSONResponse({"detail": detail}, 422)


async def _invalid_frame(_: Request, exc: Exception) -> JSONResponse:
    rejects: pd.DataFrame = getattr(exc, "rejects")  # noqa: B009  registered for this class alone
    return invalid(
        *((("body", str(column)), str(reason)) for column, reason in rejects[["column", "reason"]].to_numpy())
    )


async def _duplicate(_: Request, __: Exception) -> JSONResponse:
    return JSONResponse({"detail": STORED_ALREADY}, 409)


async def _failure(request: Request, exc: Exception) -> JSONResponse:
    said = logged(request, exc)
    return invalid((("body",), said.detail)) if said.status == 422 else said.as_json()


def logged(request: Request, exc: Exception) -> Answer:
    """Return what is said of an error to the client; to the log it is written as it is, in one line."""
    said = answer(exc, writes=request.method not in READING)
    if said.status != 422:
        text = " ".join(f"{type(exc).__name__}: {getattr(exc, 'orig', None) or exc}".split())
        logging.getLogger("citykit").warning("%s %s: %s", request.method, request.url.path, text)
    return said
