"""The charts of dots: sizes against ranks, and cities on a map."""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import numpy as np
from matplotlib import rcParams
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.cbook import normalize_kwargs
from matplotlib.collections import PathCollection
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from matplotlib.transforms import Bbox

from citykit.charts.axes import inches, legend_below, open_axes, persons
from citykit.charts.colours import BLUE, VERMILLION
from citykit.charts.columns import Floats
from citykit.charts.fonts import legible
from citykit.charts.land import draw_land

MANY = 5_000  # dots; more are one raster image in an SVG or PDF
SMALLEST = 0.3  # area of a dot, points²
MOST_NAMES = 60  # that are tried; those that have room are written


def ranks(ax: Axes, sizes: Floats, fit: tuple[float, float, float] | None, style: dict[str, Any]) -> None:
    """Draw sizes against ranks, their fit, and Zipf's law through the same middle."""
    count = len(sizes)
    rank = np.arange(1, count + 1)
    low, high = (sizes[-1], sizes[0]) if count else (1e3, 1e7)
    limits = _limits(
        ax, (0.8, max(count, 8) * 1.25), (low / 1.6, high * 2.5)
    )  # the fitted lines may leave them
    given: dict[str, Any] = {
        "color": BLUE,
        "marker": "o",
        "markersize": 3.5,
        "markeredgewidth": 0,
        "linestyle": "none",
    }
    given |= {"alpha": 0.7, "label": "cities", "rasterized": count > MANY}
    ax.plot(rank, sizes, **(given | normalize_kwargs(style, Line2D)))
    if fit:
        exponent, error, constant = fit
        said = f"fitted exponent {exponent:.2f} ± {error:.2f} (standard error), n = {count:,}"
        curve = np.geomspace(1, count, 200)
        ax.plot(curve, np.exp((constant - np.log(curve - 0.5)) / exponent), color=VERMILLION, label=said)
        middle = math.exp(np.log(sizes).mean() + np.log(rank).mean())
        ax.plot(curve, middle / curve, color="0.5", lw=1, ls=":", label="Zipf's law: exponent 1")
    elif count:
        ax.plot([], [], " ", label="no fit without three cities of different populations")
    ax.set(xscale="log", yscale="log", **limits)
    ax.set_xlabel("rank (1: the largest city)")
    ax.set_ylabel("population (persons)")
    _labels(ax.xaxis, lambda value, _: f"{value:,.0f}")
    _labels(ax.yaxis, persons)
    if count:
        ax.legend(loc="lower left", frameon=False, fontsize="small")


def _limits(ax: Axes, x: tuple[float, float], y: tuple[float, float]) -> dict[str, tuple[float, float]]:
    """Return limits that hold these values and all that was drawn before."""
    if ax.has_data():
        x, y = (
            (min(new[0], old[0]), max(new[1], old[1]))
            for new, old in ((x, ax.get_xlim()), (y, ax.get_ylim()))
        )
    return {"xlim": x, "ylim": y}


def _labels(axis: Axis, write: Any) -> None:
    """Label a logarithmic axis at 1, 10, 100, and also at 2 and 5 where its range is small."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1.0,) if high / low > 1000 else (1.0, 2.0, 5.0), numticks=15))
    axis.set_major_formatter(FuncFormatter(write))
    axis.set_minor_formatter(NullFormatter())


def map_axes(ax: Axes | None, latitude: Floats, longitude: Floats) -> tuple[Axes, Floats]:
    """Return Axes with a graticule around these places, and their longitudes, which run on without a gap."""
    longitude, west, east = _window(longitude)
    south, north = (latitude.min(), latitude.max()) if len(latitude) else (-60.0, 80.0)
    south, north = _padded(south, north, -90, 90)
    if east - west < 360:
        west, east = _padded(west, east, -540, 540)
    stretch = 1 / max(math.cos(math.radians((south + north) / 2)), 0.1)
    shape = (north - south) * stretch / (east - west)
    if shape > 1.3:  # widen a strip: Chile gets some ocean, a row of cities some north and south
        more = (east - west) * (shape / 1.3 - 1) / 2
        west, east, shape = west - more, east + more, 1.3
    elif shape < 0.3:
        more = (north - south) * (0.3 / shape - 1) / 2
        south, north, shape = south - more, north + more, 0.3
    width = min(9, 8 / shape)
    ax = open_axes(ax, width, (width - 0.6) * shape + 1.2, "compressed")
    if not ax.has_data():
        ax.set_aspect(stretch)
    ax.set(axisbelow=True, **_limits(ax, (west, east), (south, north)))
    steps = [1, 2, 5, 10] if east - west < 40 else [1, 1.5, 3, 6, 10]
    for axis, letters, length in zip((ax.xaxis, ax.yaxis), ("EW", "NS"), inches(ax), strict=True):
        axis.set_major_locator(MaxNLocator(max(int(length / 0.6), 2), steps=steps))
        axis.set_major_formatter(FuncFormatter(functools.partial(_degrees, letters)))
    draw_land(ax)
    ax.grid(color=rcParams["text.color"], alpha=0.12, linewidth=0.6)
    ax.spines[:].set(visible=True, linewidth=0.6, alpha=0.5)
    ax.tick_params(length=0, labelsize="small")
    return ax, longitude


def _padded(low: float, high: float, lowest: float, highest: float) -> tuple[float, float]:
    pad = max(0.05 * (high - low), 0.25)
    return max(low - pad, lowest), min(high + pad, highest)


def _window(longitude: Floats) -> tuple[Floats, float, float]:
    """Return longitudes that run on over the antimeridian where that is shorter, and the ends of the map."""
    if not len(longitude):
        return longitude, -180.0, 180.0
    around = np.sort(longitude)
    gaps = np.diff(around, append=around[0] + 360)
    widest = int(gaps.argmax())
    if gaps[widest] >= 180:
        west = float(around[(widest + 1) % len(around)])
        return (longitude - west) % 360 + west, west, west + 360 - float(gaps[widest])
    if gaps[-1] >= 120:
        return longitude, float(around[0]), float(around[-1])
    return longitude, -180.0, 180.0


def _degrees(letters: str, value: float, _: object = None) -> str:
    value = (value + 180) % 360 - 180 if letters == "EW" and abs(value) > 180 else value
    return f"{abs(value):.6g}°{letters[int(value < 0)] if value % 180 else ''}"


def dots(
    ax: Axes, longitude: Floats, latitude: Floats, population: Floats, style: dict[str, Any]
) -> tuple[PathCollection, Artist]:
    """Draw dots whose areas (points²) are in proportion to populations; return them and the lowest artist."""
    largest = float(population.max(initial=0)) or 1.0
    unit = (
        min(max(12_000 / math.sqrt(len(population) or 1), 150), 600)
        * min(inches(ax)[0] / 8, 1) ** 2
        / largest
    )
    area = np.maximum(population * unit, SMALLEST if population.any() else 9)
    # Fainter if there are very many, so that dense places show.
    alpha = min(max(0.6 * math.sqrt(50_000 / (len(population) or 1)), 0.2), 0.6)
    given: dict[str, Any] = {"alpha": alpha, "rasterized": len(population) > MANY}
    style = normalize_kwargs(style, PathCollection)
    if not style.keys() & {"c", "color", "facecolor"}:
        given["color"] = BLUE
    if "s" not in style:
        given["s"] = area
    if "marker" not in style:
        given["edgecolor"] = ax.get_facecolor()
    drawn = ax.scatter(longitude, latitude, **(given | style))
    if not style.keys() & {"marker", "linewidth"}:  # a thin rim keeps large dots apart
        rims = np.where(drawn.get_sizes() > 9, 0.4, 0)
        drawn.set_linewidth(rims.tolist())  # scatter() is slow with one for each dot
    if "s" in style or not population.any():
        return drawn, ax.xaxis.label
    look: dict[str, Any] = {
        "alpha": drawn.get_alpha(),
        "color": drawn.get_facecolor()[0],
        "markeredgewidth": 0,
    }
    handles = [
        Line2D([], [], ls="none", marker="o", label=persons(size), markersize=math.sqrt(size * unit), **look)
        for size in _round_sizes(largest)
    ]
    below = legend_below(ax, handles, "population (persons)", 20, handleheight=math.sqrt(largest * unit) / 7)
    return drawn, below


class _Names(Artist):
    """The names of the largest cities beside their dots.

    Which ones have room is found at each draw, when the size and the limits of the Axes are known.
    """

    def __init__(self, ax: Axes, names: list[str], dots: PathCollection) -> None:
        super().__init__()
        self.set_zorder(3)  # as all text
        self.set_in_layout(False)
        halo = withStroke(linewidth=2, foreground=ax.get_facecolor())
        look: dict[str, Any] = {"fontsize": "small", "path_effects": [halo], **legible(names)}
        self._dots = dots
        self._texts = [Text(text=name, visible=False, **look) for name in names]
        for text in self._texts:
            text.set_figure(ax.get_figure())  # type: ignore[arg-type]

    def get_children(self) -> list[Artist]:
        """Return the texts of all names; those that were drawn are visible."""
        return list(self._texts)

    def draw(self, renderer: Any) -> None:
        """Write the names that overlap neither others, nor the dots of larger cities, nor the frame."""
        assert self.axes is not None  # noqa: S101  for the type checker
        frame = self.axes.get_window_extent(renderer)
        most = max(int(frame.width * frame.height / renderer.points_to_pixels(72) ** 2 / 1.5), 1)
        spots = self.axes.transData.transform(np.asarray(self._dots.get_offsets())[: len(self._texts)])
        areas = np.resize(self._dots.get_sizes(), len(spots))
        every = [each for each in self.axes.get_children() if isinstance(each, _Names)]
        earlier = itertools.takewhile(lambda each: each is not self, every)  # of other calls on these Axes
        written = itertools.chain.from_iterable(each.get_children() for each in earlier)
        taken = [text.get_window_extent(renderer) for text in written if text.get_visible()]
        for text, (x, y), area in zip(self._texts, spots, areas, strict=True):
            text.set_visible(most > 0 and text.get_text() != "")
            radius = renderer.points_to_pixels(math.sqrt(area) / 2)
            gap = radius + renderer.points_to_pixels(2)
            dot = Bbox.from_extents(x - radius, y - radius, x + radius, y + radius)
            for across, up in ((1, 0), (-1, 0), (0, 1), (0, -1)) if text.get_visible() else ():
                text.set(
                    position=(x + across * gap, y + up * gap),
                    ha=("right", "center", "left")[across + 1],
                    va=("top", "center", "bottom")[up + 1],
                )
                box = text.get_window_extent(renderer)
                inside = frame.x0 < box.x0 and box.x1 < frame.x1 and frame.y0 < box.y0 and box.y1 < frame.y1
                if inside and not box.count_overlaps(taken):
                    text.draw(renderer)
                    taken.append(box.padded(renderer.points_to_pixels(3)))
                    most -= 1
                    break
            else:
                text.set_visible(False)
            taken.append(dot)


def add_names(ax: Axes, names: list[str], dots: PathCollection) -> None:
    """Write the names of the first cities beside their dots, as many as have room."""
    ax.add_artist(_Names(ax, names, dots))


def _round_sizes(largest: float) -> list[float]:
    """Return at most three round sizes, falling: the largest of 1, 2, 5, 10, …, and every second below."""
    steps = [digit * 10.0**power for power in range(13) for digit in (1, 2, 5)]
    return [step for step in steps if step <= largest][:-6:-2]
