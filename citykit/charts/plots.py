"""Charts: a frame in, matplotlib Axes out.

All take ``ax=None`` (a new figure), a title and the styles of what they mainly draw, show nothing and change
no input, draw names of any script in a font that has its letters, and write ``frame.attrs["source"]`` below.
One that fails leaves no figure.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np
import pandas as pd

from citykit.charts.columns import (
    Floats,
    check,
    descending,
    in_order,
    numbers,
    populations,
    texts,
    told_apart,
)
from citykit.errors import shown_outside

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.patches import Patch

P = ParamSpec("P")

# matplotlib takes half a second to import, so the modules that draw with it wait for the first chart.


def _whole(draw: Callable[P, Axes]) -> Callable[P, Axes]:
    """Let a chart that fails close the figure that it made."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Axes:
        from matplotlib import pyplot

        before = set(pyplot.get_fignums())
        try:
            return draw(*args, **kwargs)
        except BaseException:
            for number in set(pyplot.get_fignums()) - before:
                pyplot.close(number)
            raise

    return drawn


@shown_outside
@_whole
def plot_biggest(
    frame: pd.DataFrame, *, ax: Axes | None = None, title: str | None = None, **style: Any
) -> Axes:
    """Draw the cities of a frame as horizontal bars, the largest on top, with exact populations.

    A country has the same colour in every chart. Where there are several, the six with the most bars (then
    the most persons) are coloured, and the others are grey; a legend says which. There are ten colours, safe
    for colour-blind readers; of two countries of a chart that have the same one, the second is hatched too.

    Parameters
    ----------
    frame : DataFrame, shape (n, …)
        ``name`` and ``population`` (persons; rows without one are left out), and ``country`` and ``region``
        where they are there, as `biggest_cities` returns it. Cities of one country that have one name are
        told apart by their regions. An attribution in ``frame.attrs["source"]`` is written below the bars.
        Names are cut after 40 columns, or where they take half the width.
    ax : matplotlib Axes, optional
        Where to draw. None: a new figure, high enough for n bars, up to 500. Bars without room are left out,
        the smallest first, and a note says how many.
    title : str, optional
        In plain letters (``$`` begins no formula), in lines that fit. None: no title.
    **style
        Passed to ``Axes.barh``, such as ``alpha=0.8``. With a ``color``, countries have none and no legend;
        a list, array or Series of n values follows the rows of the frame.

    Returns
    -------
    matplotlib Axes
        ``ax.figure.savefig("biggest.png")`` keeps it. It is never shown by this function.

    Raises
    ------
    ValueError
        If a column is missing or holds a value that is no number of persons.

    Warns
    -----
    UserWarning
        Once for each script that no installed font has; it says which font to install.

    Examples
    --------
    >>> ax = citykit.plot_biggest(citykit.world_cities().head(20))
    >>> ax.get_yticklabels()[0].get_text()
    'Shanghai, CN'
    """
    from citykit.charts import axes, colours

    check(frame, ["name", "population"], "country", "region")
    population = populations(frame)
    ranked = descending(population)
    is_new = ax is None
    ax, count = axes.bar_axes(ax, len(ranked))
    order = ranked[:count]
    values = population[order]
    drawn = in_order(style, order, len(frame))
    legend: list[Patch] = []
    if not drawn.keys() & {"color", "facecolor", "fc"}:
        countries = texts(frame, "country", order)
        look, legend = colours.country_colours(countries, values, ax.get_facecolor())
        drawn = look | drawn
    space = axes.bars(
        ax, told_apart(frame, order, with_country=True), values, [f"{value:,.0f}" for value in values], drawn
    )
    ax.set_xlabel("population (persons)")
    lowest = axes.bar_legend(ax, legend, values, space, "country")
    if not count:
        axes.nothing(ax, "no cities")
    remark = axes.left_out(
        len(frame),
        "cities",
        (len(ranked) - count, "smaller"),
        (len(frame) - len(ranked), "of unknown population"),
    )
    axes.note(ax, frame, lowest, remark)
    axes.add_title(ax, title, is_new=is_new)
    return ax


@shown_outside
@_whole
def plot_countries(
    frame: pd.DataFrame, *, ax: Axes | None = None, title: str | None = None, **style: Any
) -> Axes:
    """Draw countries as horizontal bars, the most populated on top, with the part that the largest city has.

    Parameters
    ----------
    frame : DataFrame, shape (n, …)
        ``country`` and ``total_population`` (persons; rows without one are left out), and where they are
        there ``largest_population`` (persons, of the country's largest city: the dark part of its bar) and
        ``share`` (of the population of all countries, 0 to 1: written as a percentage), as
        `summarize_countries` returns it. Where there is a ``country_name``, it is written in place of the
        code. A country that is ``''`` is written as unknown.
    ax : matplotlib Axes, optional
        Where to draw. None: a new figure, high enough for n bars, up to 500. Bars without room are left out,
        the smallest first, and a note says how many.
    title : str, optional
        In plain letters (``$`` begins no formula), in lines that fit. None: no title.
    **style
        Passed to ``Axes.barh`` for the bars of the countries, such as ``color="0.8"``; a list, array or
        Series of n values follows the rows of the frame.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        If a column is missing or holds a value that is no such number.

    Warns
    -----
    UserWarning
        Once for each script that no installed font has; it says which font to install.

    Examples
    --------
    >>> frame = pandas.DataFrame({"country": ["IS", "FO"], "total_population": [310_000, 41_000]})
    >>> ax = citykit.plot_countries(frame)
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['IS', 'FO']
    >>> names = citykit.world_countries().set_index("code")["name"]
    >>> ax = citykit.plot_countries(frame.assign(country_name=frame["country"].map(names)))
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['Iceland', 'Faroe Islands']
    """
    from citykit.charts import axes, colours

    check(frame, ["country", "total_population"], "largest_population", "share", "country_name")
    total = populations(frame, "total_population")
    largest = populations(frame, "largest_population") if "largest_population" in frame else None
    share = numbers(frame, "share", 0, 1 + 1e-9, "shares, 0 to 1") if "share" in frame else total * np.nan
    ranked = descending(total)
    is_new = ax is None
    ax, count = axes.bar_axes(ax, len(ranked))
    order = ranked[:count]
    codes, names = texts(frame, "country", order), texts(frame, "country_name", order)
    labels = [name or code or "unknown" for name, code in zip(names, codes, strict=True)]
    drawn = {"color": colours.SKY} | in_order(style, order, len(frame))
    written = [f"{total[i]:,.0f}" + ("" if math.isnan(share[i]) else f" ({share[i]:.1%})") for i in order]
    space = axes.bars(ax, labels, total[order], written, drawn)
    ax.set_xlabel("population of the cities (persons)")
    lowest: Artist = ax.xaxis.label
    if largest is not None:
        lowest = axes.largest_parts(ax, largest[order], total[order], space)
    if not count:
        axes.nothing(ax, "no countries")
    remark = axes.left_out(
        len(frame),
        "countries",
        (len(ranked) - count, "smaller"),
        (len(frame) - len(ranked), "of unknown population"),
    )
    axes.note(ax, frame, lowest, remark)
    axes.add_title(ax, title, is_new=is_new)
    return ax


@shown_outside
@_whole
def plot_rank_size(
    frame: pd.DataFrame, *, ax: Axes | None = None, title: str | None = None, **style: Any
) -> Axes:
    """Draw populations against their ranks, both logarithmic, with the fitted exponent of the rank-size rule.

    The line is the least-squares fit of ``log(rank - 1/2) = constant - exponent · log(population)``; the
    half makes the exponent nearly unbiased, and its standard error is ``exponent · sqrt(2 / n)`` (X. Gabaix
    and R. Ibragimov, "Rank - 1/2: A Simple Way to Improve the OLS Estimation of Tail Exponents", Journal of
    Business & Economic Statistics 29, 2011). Zipf's law is the exponent 1: the second city has half the
    population of the first, the third a third. The rule is one of large cities: fit the head of a
    frame, such as ``frame.head(1_000)``, rather than all of it.

    Parameters
    ----------
    frame : DataFrame, shape (n, …)
        ``population`` (persons). Rows without one, or with 0, which no logarithmic axis has, are left out,
        and a note says how many.
    ax : matplotlib Axes, optional
        Where to draw. None: a new figure.
    title : str, optional
        In plain letters (``$`` begins no formula), in lines that fit. None: no title.
    **style
        Passed to ``Axes.plot`` for the cities, such as ``marker="x"`` or ``color="0.5"``.

    Returns
    -------
    matplotlib Axes
        The legend has the exponent, its standard error and the number of cities. Without three cities of
        two different populations there is no fit, and the legend says so.

    Raises
    ------
    ValueError
        If the column is missing or holds a value that is no number of persons.

    Examples
    --------
    >>> ax = citykit.plot_rank_size(citykit.world_cities().head(1_000))
    >>> print(ax.get_legend().get_texts()[1].get_text())
    fitted exponent 1.40 ± 0.06 (standard error), n = 1,000
    """
    from citykit.charts import axes, points

    check(frame, ["population"])
    population = populations(frame)
    sizes = population[descending(population)]
    sizes = sizes[sizes > 0]
    is_new = ax is None
    ax = axes.open_axes(ax, 7, 5)
    points.ranks(ax, sizes, rank_size_fit(sizes), style)
    if not len(sizes):
        axes.nothing(ax, "no cities")
    remark = axes.left_out(len(frame), "cities", (len(frame) - len(sizes), "of unknown or no population"))
    axes.note(ax, frame, ax.xaxis.label, remark)
    axes.add_title(ax, title, is_new=is_new)
    return ax


def rank_size_fit(sizes: Floats) -> tuple[float, float, float] | None:
    """Return Gabaix and Ibragimov's exponent, its standard error and the constant; None without a slope.

    Parameters
    ----------
    sizes : ndarray, shape (n,)
        Positive, largest first.
    """
    if len(sizes) < 3 or sizes[0] == sizes[-1]:
        return None
    x, y = np.log(sizes), np.log(np.arange(1, len(sizes) + 1) - 0.5)
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())
    return -slope, -slope * math.sqrt(2 / len(sizes)), float(y.mean() - slope * x.mean())


@shown_outside
@_whole
def plot_map(frame: pd.DataFrame, *, ax: Axes | None = None, title: str | None = None, **style: Any) -> Axes:
    """Draw cities where they are, the area of each dot in proportion to its population.

    The projection is equirectangular, true to scale on the middle parallel of what is drawn, with a plain
    graticule in degrees. The largest dots are drawn first, so that small ones stay visible. Cities on both
    sides of the antimeridian (Fiji) stay together. Below the dots are the coast lines of Natural Earth, which
    are made for maps of the world (1:110,000,000): a map of a few degrees shows them coarse, and one of less
    than 3 degrees has none. On Axes that have something of yours they are not drawn.

    Parameters
    ----------
    frame : DataFrame, shape (n, …)
        ``latitude`` and ``longitude`` (degrees, -90 to 90 and -180 to 180; rows without them are left out,
        and a note says how many) and ``population`` (persons). Dots have a smallest size, which cities of
        unknown or no population have too. Where there is a ``name``, the largest cities are named, as many
        as have room.
    ax : matplotlib Axes, optional
        Where to draw. None: a new figure in the shape of the map.
    title : str, optional
        In plain letters (``$`` begins no formula), in lines that fit. None: no title.
    **style
        Passed to ``Axes.scatter``, such as ``color="black"`` or ``s=2``, which makes all dots the same. A
        list, array or Series of n values, such as ``c=frame["population"]``, follows the rows of the frame.
        More than 5,000 dots are a picture within SVG and PDF unless ``rasterized=False``.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        If a column is missing or holds a value that is no such number.

    Examples
    --------
    >>> ax = citykit.plot_map(citykit.world_cities(100_000))
    >>> ax.get_xticklabels()[0].get_text()
    '180°'
    """
    from citykit.charts import axes, points

    check(frame, ["latitude", "longitude", "population"], "name", "country", "region")
    latitude = numbers(frame, "latitude", -90, 90, "degrees north, -90 to 90")
    longitude = numbers(frame, "longitude", -180, 180, "degrees east, -180 to 180")
    population = np.nan_to_num(populations(frame))
    order = descending(np.where(np.isnan(latitude) | np.isnan(longitude), np.nan, population))
    latitude, longitude, population = latitude[order], longitude[order], population[order]
    is_new = ax is None
    ax, east = points.map_axes(ax, latitude, longitude)
    drawn, lowest = points.dots(ax, east, latitude, population, in_order(style, order, len(frame)))
    if "name" in frame:
        largest = told_apart(frame, order[: points.MOST_NAMES], with_country=False)
        points.add_names(ax, largest, drawn)
    if not len(order):
        axes.nothing(ax, "no cities")
    remark = axes.left_out(len(frame), "cities", (len(frame) - len(order), "without coordinates"))
    axes.note(ax, frame, lowest, remark)
    axes.add_title(ax, title, is_new=is_new)
    return ax
