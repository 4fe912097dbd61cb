"""The page for people: the biggest cities as a table and a chart, and a form. Plain HTML, no script."""

from __future__ import annotations

import asyncio
import base64
import functools
import hashlib
import io
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from html import escape
from typing import Annotated, Any
from urllib.parse import parse_qs, urlencode

import pandas as pd
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from pydantic import ValidationError
from sqlalchemy.ext.asyncio import AsyncEngine

from citykit.cities import biggest_cities, summarize_countries
from citykit.errors import CitykitError, DuplicateCityError, InvalidFrameError
from citykit.web.answers import Answer, logged
from citykit.web.depends import EngineOf, InCountry, knows_token, soon
from citykit.web.routes import store, stored
from citykit.web.schemas import STORED_ALREADY, NewCity

SHOWN = 20
page = APIRouter()
_artist = ThreadPoolExecutor(1, thread_name_prefix="citykit-chart")  # matplotlib draws one at a time

_STYLE = """
:root { --ink: #1c2430; --soft: #5c6776; --line: #e3e7ec; --blue: #0072b2; color-scheme: light }
* { box-sizing: border-box }
body { margin: 0; background: #f6f7f9; color: var(--ink); font: 16px/1.5 system-ui, sans-serif }
main, header, footer { max-width: 76rem; margin: 0 auto; padding: 0 1.5rem }
header { padding-top: 2.25rem; padding-bottom: 1.25rem }
h1 { margin: 0; font-size: 2rem; line-height: 1.2; letter-spacing: -.02em }
h2 { margin: 0 0 1rem; font-size: 1.1rem }
header p { margin: .25rem 0 0; color: var(--soft) }
.card { background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: 1.25rem 1.5rem;
  margin: 0 0 1.5rem }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); gap: 1.5rem;
  align-items: start }
.wide { overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-size: .95rem }
th { text-align: left; font-weight: 600; color: var(--soft); font-size: .8rem }
th, td { padding: .36rem .75rem .36rem 0; border-bottom: 1px solid var(--line); overflow-wrap: anywhere }
tr:last-child td { border-bottom: 0 }
.number { text-align: right; padding-right: 0; font-variant-numeric: tabular-nums; white-space: nowrap }
td:first-child { color: var(--soft); width: 2.5rem; font-variant-numeric: tabular-nums }
img { display: block; width: 100%; height: auto }
form { display: flex; flex-wrap: wrap; gap: 1rem; align-items: end }
label { display: grid; gap: .25rem; font-size: .85rem; color: var(--soft); flex: 1 1 9rem }
.filter label { flex: 0 1 20rem }
input, select, button { font: inherit; color: inherit; padding: .5rem .7rem; border: 1px solid #c3cad3;
  border-radius: 6px; background: #fff; width: 100%; min-width: 0 }
button { width: auto; background: var(--blue); border-color: var(--blue); color: #fff; font-weight: 600;
  cursor: pointer; font-size: .85rem }
:focus-visible { outline: 3px solid #56b4e9; outline-offset: 1px }
.said { border-left: 5px solid var(--blue); padding: .8rem 1.25rem; overflow-wrap: anywhere }
.wrong { border-left-color: #d55e00 }
footer { color: var(--soft); font-size: .85rem; padding-bottom: 2rem }
a { color: var(--blue) }
"""
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_HASH}'; img-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    # With no-referrer a browser says that the page's own form comes from nowhere ("Origin: null").
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
_SVG_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"

_FIELDS = {  # of the form: what is written above, and attributes
    "name": ("Name", "required maxlength=400"),
    "population": ("Population (persons)", "required inputmode=numeric"),
    "country": ("Country (code)", "maxlength=100 placeholder=IS"),
    "region": ("Region", "maxlength=100"),
    "latitude": ("Latitude (degrees)", "inputmode=decimal placeholder=64.13548"),
    "longitude": ("Longitude (degrees)", "inputmode=decimal placeholder=-21.89541"),
}


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
            city = None  # what is wrong, the page says itself
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
        wrong = " ".join(f"{_FIELDS[str(each['loc'][0])][0]}: {each['msg']}." for each in exc.errors())
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


def _new(given: Mapping[str, str]) -> NewCity:
    """Check what was typed; a thing that is no number is left for the check to refuse."""
    values: dict[str, Any] = {name: given[name] for name in _FIELDS if name in given}
    typed = values.get("population", "").replace(",", "").replace(" ", "")
    if typed.isascii() and typed.isdecimal() and len(typed) < 19:
        values["population"] = int(typed)
    return NewCity(**values)


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
    try:
        biggest = await soon(request, biggest_cities(engine, SHOWN, country=country))
        countries = await soon(request, summarize_countries(engine))
        content = _filter(countries, country) + _cities(biggest, country)
    except CitykitError as exc:
        content = ""
        # What became of the form goes before: that this page has no table says nothing of it.
        failed = failed or (None if wrong else logged(request, exc))
    headers = dict(_HEADERS)
    if failed is not None:
        status, wrong = failed.status, failed.detail
        headers |= failed.headers
    notes = (("said", said), ("said wrong", wrong))
    noted = "".join(f'<p role=status class="card {kind}">{escape(text)}</p>' for kind, text in notes if text)
    form = _form(given or {}, with_token=bool(request.app.state.token))
    return HTMLResponse(_framed(noted + content + form), status, headers)


def _framed(content: str) -> str:
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8><title>Cities</title>"
        f'<meta name=viewport content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>'
        "<body><header><h1>Cities</h1><p>The most populated ones that are stored here.</p></header>"
        f"<main>{content}</main><footer>The cities that <code>citykit seed</code> stores are "
        '<a href="https://www.geonames.org" rel=noreferrer>GeoNames</a>, CC BY 4.0. For programs: '
        '<a href="/docs">the API</a>.</footer></body></html>'
    )


def _filter(countries: pd.DataFrame, country: str | None) -> str:
    known = sorted(countries["country"])
    options = "".join(
        f'<option value="{escape(code)}"{" selected" if code == country else ""}>{escape(code)}</option>'
        for code in known
        if code
    )
    return (
        '<section class="card filter"><form method=get action="/"><label>Country<select name=country>'
        f'<option value="">All countries</option>{options}</select></label>'
        "<button>Show</button></form></section>"
    )


def _cities(frame: pd.DataFrame, country: str | None) -> str:
    where = f" of {escape(country)}" if country else ""
    if frame.empty:
        return f"<section class=card><h2>The biggest cities{where}</h2><p>None are stored.</p></section>"
    rows = "".join(
        f"<tr><td>{rank}</td><td>{escape(str(row.name))}</td><td>{escape(str(row.country))}</td>"
        f"<td>{escape(str(row.region))}</td><td class=number>{row.population:,}</td></tr>"
        for rank, row in enumerate(frame.itertuples(index=False), 1)
    )
    source = "/biggest.svg" + (f"?{urlencode({'country': country})}" if country else "")
    return (
        f"<div class=two><section class='card wide'><h2>The biggest cities{where}</h2><table><thead><tr>"
        "<th></th><th>City</th><th>Country</th><th>Region</th><th class=number>Population</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></section><section class=card><h2>As a chart</h2>"
        f'<img src="{escape(source)}" alt="The same as horizontal bars"></section></div>'
    )


def _form(given: Mapping[str, str], *, with_token: bool) -> str:
    inputs = "".join(
        f'<label>{label}<input name={name} value="{escape(given.get(name, ""))}" {attributes}></label>'
        for name, (label, attributes) in _FIELDS.items()
    )
    if with_token:
        inputs += "<label>Token<input name=token type=password required autocomplete=off></label>"
    return (
        '<section class=card><h2>Add a city</h2><form method=post action="/" autocomplete=off>'
        f"{inputs}<button>Add</button></form></section>"
    )


def _called(city: Any) -> str:
    return ", ".join(filter(None, (city.name, city.country, city.region)))
