"""The pages for people: the biggest cities, a search, a form, and each city. Plain HTML, no script."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any, NamedTuple
from urllib.parse import parse_qs, urlencode

import pandas as pd
from fastapi import APIRouter, HTTPException, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import ValidationError
from sqlalchemy import Column, Row, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from citykit.cities import (
    CITIES,
    COLUMNS,
    FOUND,
    biggest_rows,
    country_meant,
    find_rows,
    nearest_cities,
    summarize_countries,
)
from citykit.database import in_transaction
from citykit.errors import CitykitError, DuplicateCityError, InvalidFrameError
from citykit.web.answers import Answer, logged
from citykit.web.depends import EngineOf, InCountry, knows_token, root_of, soon
from citykit.web.pictures import Rows, bars, cities_map, picture, rows_of
from citykit.web.routes import country_names, store, stored
from citykit.web.schemas import STORED_ALREADY, NewCity, required

SHOWN = 20
ON_MAP = 300  # a dot takes 800 bytes of the picture
NEIGHBOURS = 10
KEY = ("name", "country", "region")
page = APIRouter()

_TEMPLATES = Environment(
    loader=PackageLoader("citykit", "web"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,  # in page.css, whose hash the policy names
)


def _country_name(code: str) -> str:
    """Return the name of a country; one that is not stored by its code, as it is stored."""
    return country_names().get(code, code)


def _seen(name: str) -> str:
    """Return a name; the codes of its characters if none of them can be seen."""
    is_seen = any(letter.isprintable() and not letter.isspace() for letter in name)
    return name if is_seen else name.encode("unicode_escape").decode()


_TEMPLATES.globals["country_name"] = _country_name
_TEMPLATES.filters["seen"] = _seen
_HASH = base64.b64encode(
    hashlib.sha256(_TEMPLATES.get_template("page.css").render().encode()).digest()
).decode()
_HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_HASH}'; img-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    # With no-referrer, browsers send "Origin: null" for the page's own form, which the guard refuses.
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


class _Field(NamedTuple):
    """An input of the form."""

    name: str
    label: str
    required: bool
    max_length: int | None
    keyboard: str  # of a phone: HTML's inputmode
    hint: str


def _field(column: Column[Any]) -> _Field:
    type_, unit = column.type.python_type, column.info["unit"]
    return _Field(
        column.name,
        column.name.capitalize() + (f" ({unit})" if unit else ""),
        required(column),
        column.info["high"] if type_ is str else None,
        {str: "text", int: "numeric", float: "decimal"}[type_],
        str(column.info["example"]) if unit and not required(column) else "",
    )


_FIELDS = {name: _field(CITIES.c[name]) for name in COLUMNS}


@page.get("/")
async def show(
    request: Request,
    engine: EngineOf,
    country: str = "",
    q: str = "",
    added: Annotated[str, Query(alias="stored")] = "",
) -> Response:
    """Show the page; `added` is the id of a city that has just been added."""
    said = ""
    with suppress(CitykitError):  # `_page` meets the same error and answers it
        city = await _city(request, engine, added)
        said = f"Stored {_called(city)}: {city.population:,} persons." if city else ""
    asked = (("name", q), ("country", country))
    if wrong := [_why(name, text, kind) for name, text in asked if (kind := _text_error(name, text))]:
        return await _page(request, engine, status=422, wrong=wrong)
    return await _page(request, engine, country or None, q=q.strip(), said=said)


@page.post("/")
async def add(request: Request, engine: EngineOf) -> Response:
    """Store the city of the form, and show the page."""
    try:
        fields = parse_qs((await request.body()).decode(), errors="strict", max_num_fields=20)
    except UnicodeDecodeError:
        wrong = ["What was typed is not in UTF-8; nothing was stored. Send the form in UTF-8."]
        return await _page(request, engine, status=422, wrong=wrong)
    except ValueError:
        fields = {}
    given = {name: values[0].strip() for name, values in fields.items() if values[0].strip()}
    if request.app.state.token and not knows_token(request, given.get("token", "").encode()):
        wrong = ["The token is missing or wrong."]
        return await _page(request, engine, status=401, wrong=wrong, given=given)
    try:
        city = await store(request, engine, _new(given).model_dump())
    except ValidationError as exc:
        refused = {}
        for each in exc.errors():
            name = str(each["loc"][0])
            refused[name] = _why(name, given.get(name, ""), each["type"])
        return await _page(request, engine, status=422, refused=refused, given=given)
    except InvalidFrameError as exc:
        rejects = exc.rejects[["column", "reason"]].to_numpy()
        refused = {column: f"{_FIELDS[column].label}: {reason}." for column, reason in rejects}
        return await _page(request, engine, status=422, refused=refused, given=given)
    except DuplicateCityError:
        where = ", ".join(filter(None, (given.get(name, "") for name in KEY)))
        return await _page(request, engine, status=409, wrong=[f"{STORED_ALREADY}: {where}."], given=given)
    except CitykitError as exc:
        return await _page(request, engine, failed=logged(request, exc), given=given)
    return RedirectResponse(f"{root_of(request)}/?{urlencode({'stored': city.id})}", 303)


@page.get("/biggest.svg")
async def chart(
    request: Request, engine: EngineOf, country: InCountry = None, narrow: bool = False
) -> Response:
    """Draw the biggest cities as bars."""
    frame = await _biggest(request, engine, SHOWN, country)
    return await picture(bars, rows_of(frame, *KEY, "population"), narrow=narrow)


@page.get("/map.svg")
async def world(
    request: Request, engine: EngineOf, country: InCountry = None, narrow: bool = False
) -> Response:
    """Draw the biggest cities on a map."""
    return await picture(cities_map, await _on_map(request, engine, country), (), narrow=narrow)


@page.get("/city/{id}")
async def city_page(request: Request, engine: EngineOf, id: str) -> Response:  # noqa: A002  as the column
    """Show a city, and the cities nearest to it."""
    try:
        city = await _city(request, engine, id)
        if city is None:
            return _html(request, "city.html", 404, wrong=["There is no such city."], city=None)
        near, where = [], ""
        if city.latitude is not None and city.longitude is not None:
            where = _written(city.latitude, "NS") + ", " + _written(city.longitude, "EW")
            nearest = nearest_cities(engine, city.latitude, city.longitude, NEIGHBOURS + 1)
            near = await _with_ids(request, engine, await soon(request, nearest))
    except CitykitError as exc:
        said = logged(request, exc)
        return _html(request, "city.html", said.status, said.headers, wrong=[said.detail], city=None)
    others = [each for each in near if each["id"] != city.id][:NEIGHBOURS]
    return _html(request, "city.html", city=city, where=where, cities=others)


@page.get("/city/{id}/map.svg")
async def city_map(
    request: Request,
    engine: EngineOf,
    id: str,  # noqa: A002  as the column is called
    narrow: bool = False,
) -> Response:
    """Draw the biggest cities of a city's country on a map, and a ring around the city."""
    city = await _city(request, engine, id)
    if city is None or city.latitude is None or city.longitude is None:
        raise HTTPException(404, "There is no such city, or its coordinates are not stored.")
    rows = await _on_map(request, engine, city.country)
    here = (city.name, city.latitude, city.longitude, city.population)
    marked = ((city.latitude, city.longitude),)
    return await picture(cities_map, (*rows, *[here] * (here not in rows)), marked, narrow=narrow)


async def _city(request: Request, engine: AsyncEngine, given: str) -> Row[Any] | None:
    """Return the city with the id that an address gives, or None."""
    is_id = given.isascii() and given.isdecimal() and len(given) < 20 and 0 < int(given) < 2**63
    return await stored(request, engine, int(given)) if is_id else None


async def _biggest(request: Request, engine: AsyncEngine, n: int, country: str | None) -> pd.DataFrame:
    return pd.DataFrame(await soon(request, biggest_rows(engine, n, country)), columns=list(COLUMNS))


async def _on_map(request: Request, engine: AsyncEngine, country: str | None) -> Rows:
    frame = await _biggest(request, engine, ON_MAP, country)
    found = frame.dropna(subset=["latitude", "longitude"])
    return rows_of(found, "name", "latitude", "longitude", "population")


async def _with_ids(request: Request, engine: AsyncEngine, frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the cities of a frame with the ids that address their pages; None for a city that is gone."""
    columns = [CITIES.c[name] for name in KEY]
    cities: list[dict[str, Any]] = frame.to_dict("records")  # type: ignore[assignment]
    keys = [tuple(city[name] for name in KEY) for city in cities]

    async def work(connection: AsyncConnection) -> dict[tuple[str, ...], int]:
        wanted = select(*columns, CITIES.c.id).where(tuple_(*columns).in_(keys))
        return {tuple(row[:-1]): row[-1] for row in await connection.execute(wanted)}

    ids = await soon(request, in_transaction(engine, work, effect="reads")) if keys else {}
    return [{**city, "id": ids.get(key)} for key, city in zip(keys, cities, strict=True)]


def _written(degrees: float, letters: str) -> str:
    """Write a coordinate as maps do: 21.895° W."""
    return f"{abs(degrees):.3f}° {letters[degrees < 0]}"


def _new(given: Mapping[str, str]) -> Any:
    """Check what was typed. A number that cannot be read stays text, which the check refuses."""
    return NewCity(**{name: _typed(given[name], dtype) for name, dtype in COLUMNS.items() if name in given})


_WHOLE = re.compile("[0-9]+|[0-9]{1,3}(,[0-9]{3})+")  # 1,000 as the page writes it; 1,5 is no 15


def _typed(text: str, dtype: str) -> str | int | float:
    with suppress(ValueError):
        if dtype == "int64":
            return int(text.replace(",", "")) if _WHOLE.fullmatch(text) else text
        if dtype == "float64":
            return float(text) if "_" not in text else text
    return text


_WHY = {
    "int_type": "is no whole number",
    "float_type": "is no number",
    "finite_number": "is no number",
    "greater_than_equal": "is less than {low:,}",
    "less_than_equal": "is more than {high:,}",
    "string_too_long": "is too long",
}  # by pydantic's type of an error


def _why(name: str, typed: str, kind: str) -> str:
    """Say why a text that was typed for a column is refused."""
    label, info = name.capitalize(), CITIES.c[name].info
    if kind == "missing":
        return f"{label} is missing. {info['meaning']}"
    shown = "".join(letter if letter.isprintable() else "\ufffd" for letter in typed[:40])
    shown += "…" * (len(typed) > 40)
    why = _WHY.get(kind, "has a character that cannot be stored").format_map(info)
    return f"{label}: “{shown}” {why}. {info['meaning']}"


def _text_error(name: str, text: str) -> str:
    """Return pydantic's type of the error for a text that a column cannot hold, '' where it can."""
    if "\0" in text:
        return "string_pattern_mismatch"
    return "string_too_long" if len(text) > CITIES.c[name].info["high"] else ""


async def _page(
    request: Request,
    engine: AsyncEngine,
    country: str | None = None,
    *,
    q: str = "",
    status: int = 200,
    said: str = "",
    wrong: Sequence[str] = (),
    refused: Mapping[str, str] | None = None,
    failed: Answer | None = None,
    given: Mapping[str, str] | None = None,
) -> HTMLResponse:
    wrong = [*wrong, *(refused or {}).values()]
    cities = countries = meant = None
    try:
        if q:
            rows = await soon(request, find_rows(engine, q, SHOWN, country))
            found = pd.DataFrame(rows, columns=list(FOUND))
        else:
            found = await _biggest(request, engine, SHOWN, country)
        cities = await _with_ids(request, engine, found)
        stored_codes = (await soon(request, summarize_countries(engine)))["country"]
        countries = sorted(filter(None, stored_codes), key=_country_name)
        meant = country_meant(country, list(countries)) if country and not cities else None
    except CitykitError as exc:
        # What became of the form is said rather than the failure to list cities.
        failed = failed or (None if wrong else logged(request, exc))
    if failed is not None:
        status, wrong = failed.status, [failed.detail]
    return _html(
        request,
        "page.html",
        status,
        failed.headers if failed else {},
        said=said,
        wrong=wrong,
        refused=refused or {},
        cities=cities,
        countries=countries,
        country=country,
        meant=meant,
        q=q,
        longest=CITIES.c.name.info["high"],
        fields=sorted(_FIELDS.values(), key=lambda field: not field.required),
        given=given or {},
        with_token=bool(request.app.state.token),
    )


def _html(
    request: Request,
    template: str,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    **content: Any,
) -> HTMLResponse:
    content = {"root": root_of(request), "said": "", "wrong": [], **content}
    html = _TEMPLATES.get_template(template).render(content)
    return HTMLResponse(html, status, {**_HEADERS, **(headers or {})})


def _called(city: Any) -> str:
    return ", ".join(filter(None, (city.name, city.country, city.region)))
