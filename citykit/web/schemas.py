"""The schemas of requests and answers, and the statuses that routes document."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Coroutine
from decimal import Decimal
from typing import Annotated, Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, BeforeValidator, Field, StringConstraints, create_model
from pydantic_core import PydanticCustomError
from sqlalchemy import Column

from citykit.cities import CITIES, COLUMNS

LISTED = 100  # rejects and keys that an answer lists at most
STORED_ALREADY = "The city is already stored"
_WHOLE = re.compile(r"-?(?:0|[1-9][0-9]*)")
_WITHOUT_NUL = r"^[^\x00]*$"  # PostgreSQL's text cannot hold a NUL


class ExactRequest(Request):
    """A request whose JSON loses nothing.

    Its numbers are decimals: a float would round 0.99999999999999999 to 1. An object with a field twice, of
    which Python would drop the first, is an error.
    """

    async def json(self) -> Any:
        """Return the body."""
        return json.loads(await self.body(), parse_float=Decimal, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise json.JSONDecodeError(f"the field {twice[:100]!r} is there twice", "", 0)
    return made


class ExactRoute(APIRoute):
    """A route that reads its body as an `ExactRequest`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers a request."""
        answer = super().get_route_handler()

        async def answer_exactly(request: Request) -> Response:
            return await answer(ExactRequest(request.scope, request.receive))

        return answer_exactly


def _as_in_json(value: object) -> object:
    if isinstance(value, str) and not _WHOLE.fullmatch(value):
        raise PydanticCustomError("int_parsing", "It must be a whole number, written in digits alone")
    return value


# Stands behind the limits of each whole number in a path or a query: pydantic alone would take 1_0, 1.0, +1
# and blanks, too, which OpenAPI does not allow.
AS_IN_JSON = BeforeValidator(_as_in_json)


def _as_integer(value: object) -> object:
    """Return an int for a number without a fraction: 2900.0 and 29e2 are integers in JSON Schema."""
    # The range first: int() of 1e999999999 would take hours.
    if isinstance(value, Decimal) and -(2**63) < value < 2**63 and value == value.to_integral_value():
        return int(value)
    return value


def _as_double(value: object) -> object:
    return float(value) if isinstance(value, Decimal) else value


def taken(column: Column[Any]) -> Any:
    """Return the type of a column in a request, with its limits in the words of JSON Schema."""
    low, high, meaning = (column.info[word] for word in ("low", "high", "meaning"))
    type_ = column.type.python_type
    if type_ is str:
        limits = StringConstraints(strict=True, min_length=low, max_length=high, pattern=_WITHOUT_NUL)
        return Annotated[str, limits, Field(description=meaning)]
    convert = BeforeValidator(_as_integer if type_ is int else _as_double)
    finite = {} if type_ is int else {"allow_inf_nan": False}
    number = Annotated[type_, Field(strict=True, ge=low, le=high, **finite)]  # type: ignore[valid-type]
    return Annotated[number | None if column.nullable else number, convert, Field(description=meaning)]


_EXAMPLE = {name: CITIES.c[name].info["example"] for name in COLUMNS}


def _city(name: str, doc: str, type_of: Callable[[Column[Any]], Any], **settings: Any) -> Any:
    """Make a schema whose fields are the columns of the table."""
    fields: Any = {column: type_of(CITIES.c[column]) for column in COLUMNS}
    config: Any = {"json_schema_extra": {"examples": [_EXAMPLE]}, **settings}
    return create_model(name, __doc__=doc, __config__=config, **fields)


def _of_request(column: Column[Any]) -> Any:
    default = column.info["missing"] if column.server_default is not None else None
    return taken(column), ... if required(column) else default


def _of_answer(column: Column[Any]) -> Any:
    type_ = column.type.python_type
    return type_ | None if column.nullable else type_


def required(column: Column[Any]) -> bool:
    """Tell whether a new city needs a value in a column."""
    return column.server_default is None and not column.nullable


Code = taken(CITIES.c.country)
NewCity = _city("NewCity", "A city to be stored.", _of_request, extra="forbid")
ListedCity = _city("ListedCity", "A city in a list.", _of_answer, from_attributes=True)
FoundCity: Any = create_model(
    "FoundCity", __doc__="A city, and which of its names matched.", __base__=ListedCity, matched=str
)
StoredCity: Any = create_model("StoredCity", __doc__="A city as stored.", __base__=ListedCity, id=int)


class Country(BaseModel):
    """The cities of a country in numbers; the share (0 to 1) is of the population of all cities."""

    country: str
    name: str | None = Field(description="In English; null for a country that is not spelled by its code.")
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
    """The result of a bulk load."""

    inserted: int
    updated: int
    skipped: int
    seconds: float
    plan: str
    left_out: list[str] = Field(description="Columns that were not loaded: the database fills them.")
    rejects: list[Reject] = Field(description=f"The first {LISTED}.")
    rejects_total: int


class Problem(BaseModel):
    """The reason why a request was refused."""

    detail: str


class Failure(BaseModel):
    """A failure of the server, and whether the request may have changed something all the same."""

    detail: str
    in_doubt: bool = Field(
        description="True: what was sent may or may not have been stored. False: nothing was stored."
    )


class BadField(BaseModel):
    """A part of a request that is wrong, and the reason."""

    loc: list[str | int]
    msg: str
    type: str


class Invalid(BaseModel):
    """The parts of a request that are wrong."""

    detail: list[BadField]


class InvalidBody(BaseModel):
    """The values of a body that cannot be stored."""

    detail: str
    rejects: list[Reject] = Field(description=f"The first {LISTED}.")
    rejects_total: int


class Duplicates(BaseModel):
    """The cities of a body that are already stored."""

    detail: str
    keys: list[list[str]] = Field(description=f"Name, country, region; the first {LISTED}.")
    keys_total: int


class Health(BaseModel):
    """The state of the database: it answers."""

    status: str


_MEANINGS = {
    400: "The request cannot be read, or its Host header is none of the server's names",
    401: "The bearer token is missing or wrong",
    403: "A page of another site has sent the request",
    404: "There is no such city",
    405: "The path does not have this method",
    408: "The body stopped coming",
    409: STORED_ALREADY,
    413: "The body is too large",
    415: "The media type of the body is not supported",
    422: "A part of the request is invalid",
    500: "The server or its database is not set up for this, or failed: asking again does not help",
    503: "The database is busy or does not answer: Retry-After says when to ask again. Where it is absent, "
    "in_doubt is true: look first whether what was sent has been stored",
}

_HEADERS = {
    401: ("WWW-Authenticate", "Bearer.", "string"),
    405: ("Allow", "The methods of the path.", "string"),
    503: ("Retry-After", "Seconds.", "integer"),
}


def documented(*statuses: int, **models: Any) -> dict[int | str, dict[str, Any]]:
    """Return the errors of a route for OpenAPI; `models` (``_422=…``) replace the usual schemas."""
    usual = {422: Invalid, 500: Failure, 503: Failure}
    found: dict[int | str, dict[str, Any]] = {}
    for status in (400, *statuses, 405, 500, 503):
        model = models.get(f"_{status}", usual.get(status, Problem))
        found[status] = {"description": _MEANINGS[status], "model": model}
        if status in _HEADERS:
            name, described, type_ = _HEADERS[status]
            found[status]["headers"] = {name: {"description": described, "schema": {"type": type_}}}
    return found
