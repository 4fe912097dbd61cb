"""The schemas of what the web application takes and says, and which refusals each route can give."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints

LISTED = 100  # rejects and keys that an answer lists at most
STORED_ALREADY = "The city is already stored"
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
