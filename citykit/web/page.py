"""The page for people: the biggest cities as a table and a chart, and a form. Plain HTML, no script."""

from __future__ import annotations

import asyncio
import base64
import functools
import hashlib
import io
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Annotated, Any, NamedTuple
from urllib.parse import parse_qs, urlencode

import pandas as pd
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import ValidationError
from sqlalchemy import Column
from sqlalchemy.ext.asyncio import AsyncEngine

from citykit.cities import CITIES, COLUMNS, biggest_cities, summarize_countries
from citykit.errors import CitykitError, DuplicateCityError, InvalidFrameError
from citykit.web.answers import Answer, logged
from citykit.web.depends import EngineOf, InCountry, knows_token, soon
from citykit.web.routes import store, stored
from citykit.web.schemas import STORED_ALREADY, NewCity, required

SHOWN = 20
page = APIRouter()
_artist = ThreadPoolExecutor(1, thread_name_prefix="citykit-chart")  # matplotlib draws one at a time

_TEMPLATES = Environment(
    loader=PackageLoader("citykit", "web"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,  # in page.css, whose hash the policy names
)
_HTML = _TEMPLATES.get_template("page.html")
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
_SVG_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"


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
    country: InCountry = None,
    added: Annotated[str, Query(alias="stored")] = "",
) -> Response:
    """Show the page; `added` is the id of a city that has just been added."""
    said = ""
    if added.isascii() and added.isdecimal() and len(added) < 19:
        try:
            city = await stored(request, engine, int(added))
        except CitykitError:
            city = None  # the page itself answers the error
        said = f"Stored {_called(city)}: {city.population:,} persons." if city else ""
    return await _page(request, engine, country or None, said=said)


@page.post("/")
async def add(request: Request, engine: EngineOf) -> Response:
    """Store the city of the form, and show the page."""
    try:
        fields = parse_qs((await request.body()).decode(), max_num_fields=20)
    except ValueError:
        fields = {}
    given = {name: values[0].strip() for name, values in fields.items() if values[0].strip()}
    if request.app.state.token and not knows_token(request, given.get("token", "").encode()):
        return await _page(request, engine, status=401, wrong="The token is missing or wrong.", given=given)
    try:
        city = await store(request, engine, _new(given).model_dump())
    except ValidationError as exc:
        wrong = " ".join(f"{_FIELDS[str(each['loc'][0])].label}: {each['msg']}." for each in exc.errors())
        return await _page(request, engine, status=422, wrong=wrong, given=given)
    except InvalidFrameError as exc:
        return await _page(request, engine, status=422, wrong=str(exc), given=given)
    except DuplicateCityError:
        where = ", ".join(filter(None, (given.get(name, "") for name in ("name", "country", "region"))))
        return await _page(request, engine, status=409, wrong=f"{STORED_ALREADY}: {where}.", given=given)
    except CitykitError as exc:
        return await _page(request, engine, failed=logged(request, exc), given=given)
    return RedirectResponse(f"/?{urlencode({'stored': city.id})}", 303)


@page.get("/biggest.svg")
async def chart(request: Request, engine: EngineOf, country: InCountry = None) -> Response:
    """Draw the biggest cities; an unchanged answer of the database is not drawn again."""
    frame = await soon(request, biggest_cities(engine, SHOWN, country=country))
    rows = tuple(frame[["name", "country", "population"]].itertuples(index=False, name=None))
    svg = await asyncio.get_running_loop().run_in_executor(_artist, _drawn, rows)
    headers = {**_HEADERS, "Content-Security-Policy": _SVG_POLICY}
    return Response(svg, media_type="image/svg+xml", headers=headers)


@functools.lru_cache(maxsize=64)
def _drawn(rows: tuple[tuple[str, str, int], ...]) -> bytes:
    from matplotlib.figure import Figure

    from citykit.charts import plot_biggest

    figure = Figure(figsize=(6.2, 1.2 + 0.39 * max(len(rows), 4)), layout="constrained")
    plot_biggest(pd.DataFrame(rows, columns=["name", "country", "population"]), ax=figure.subplots())
    out = io.BytesIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def _new(given: Mapping[str, str]) -> Any:
    """Check what was typed. A number that cannot be read stays text, which the check refuses."""
    return NewCity(**{name: _typed(given[name], dtype) for name, dtype in COLUMNS.items() if name in given})


def _typed(text: str, dtype: str) -> str | int | float:
    with suppress(ValueError):
        if dtype == "int64":
            digits = text.replace(",", "").replace(" ", "")
            return int(digits) if digits.isascii() and digits.isdecimal() and len(digits) < 19 else text
        if dtype == "float64":
            return float(text) if "_" not in text else text
    return text


async def _page(
    request: Request,
    engine: AsyncEngine,
    country: str | None = None,
    *,
    status: int = 200,
    said: str = "",
    wrong: str = "",
    failed: Answer | None = None,
    given: Mapping[str, str] | None = None,
) -> HTMLResponse:
    cities = countries = None
    try:
        cities = (await soon(request, biggest_cities(engine, SHOWN, country=country))).to_dict("records")
        countries = sorted(filter(None, (await soon(request, summarize_countries(engine)))["country"]))
    except CitykitError as exc:
        # The outcome of the form goes before the failure to show cities, which says nothing of it.
        failed = failed or (None if wrong else logged(request, exc))
    headers = dict(_HEADERS)
    if failed is not None:
        status, wrong = failed.status, failed.detail
        headers |= failed.headers
    html = _HTML.render(
        said=said,
        wrong=wrong,
        cities=cities,
        countries=countries,
        country=country,
        fields=sorted(_FIELDS.values(), key=lambda field: not field.required),
        given=given or {},
        with_token=bool(request.app.state.token),
    )
    return HTMLResponse(html, status, headers)


def _called(city: Any) -> str:
    return ", ".join(filter(None, (city.name, city.country, city.region)))
