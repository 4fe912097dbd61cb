"""The pictures of the page: charts as SVG, in letters as large as the page's."""

from __future__ import annotations

import asyncio
import functools
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pandas as pd
from fastapi import Response
from matplotlib.figure import Figure

from citykit.charts import plot_biggest, plot_map

_CARD = {False: 524, True: 324}  # CSS pixels that the page has for a picture, and on a narrow screen
_LETTERS = 15.2 / (10 * 96 / 72)  # letters of the page's tables over matplotlib's of 10 points (CSS pixels)
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
_artist = ThreadPoolExecutor(1, thread_name_prefix="citykit-chart")  # matplotlib draws one at a time

Rows = tuple[tuple[Any, ...], ...]


def rows_of(frame: pd.DataFrame, *columns: str) -> Rows:
    """Return columns of a frame as tuples, which can be hashed: pictures are cached by them."""
    return tuple(frame[list(columns)].itertuples(index=False, name=None))


async def picture(draw: Callable[..., bytes], *drawn: Rows, narrow: bool) -> Response:
    """Answer with a picture. Unchanged rows are not drawn again."""
    svg = await asyncio.get_running_loop().run_in_executor(_artist, functools.partial(draw, *drawn, narrow))
    return Response(svg, media_type="image/svg+xml", headers=_HEADERS)


@functools.lru_cache(maxsize=64)
def bars(cities: Rows, narrow: bool) -> bytes:
    """Draw cities (name, country, region, population) as bars."""
    frame = pd.DataFrame(cities, columns=["name", "country", "region", "population"])
    figure = Figure(figsize=(_width(narrow), 1.2 + 0.3 * max(len(frame), 4)), layout="constrained")
    plot_biggest(frame, ax=figure.subplots())
    return _svg(figure)


@functools.lru_cache(maxsize=64)
def cities_map(cities: Rows, marked: Rows, narrow: bool) -> bytes:
    """Draw cities (name, latitude, longitude, population) on a map, and rings around places on it."""
    frame = pd.DataFrame(cities, columns=["name", "latitude", "longitude", "population"])
    width = _width(narrow)
    figure = Figure(figsize=(width, 1.3 * width + 1.2), layout="compressed")  # as high as any map
    ax = plot_map(frame, ax=figure.subplots())
    west = ax.get_xlim()[0]
    ring: dict[str, Any] = {"markersize": 14, "markerfacecolor": "none", "markeredgewidth": 2}
    for latitude, longitude in marked:
        east = (longitude - west) % 360 + west  # the map may run on over the antimeridian
        ax.plot(east, latitude, "o", color="#d55e00", **ring)
    return _svg(figure, bbox_inches="tight", pad_inches=0.05)


def _width(narrow: bool) -> float:
    return _CARD[narrow] / 96 / _LETTERS


def _svg(figure: Figure, **how: Any) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="svg", metadata={"Date": None}, **how)
    return out.getvalue()
