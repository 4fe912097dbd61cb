"""The parts of a chart: Axes, bars, legends and notes that overlap nothing."""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import pandas as pd
from matplotlib import pyplot
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cbook import normalize_kwargs
from matplotlib.legend import Legend
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator
from matplotlib.transforms import ScaledTranslation

from citykit.charts.columns import Floats, clean
from citykit.charts.fonts import legible

# Okabe and Ito's colours, safe for colour-blind readers; black is the text's, and yellow is lost on white.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#e69f00", "#cc79a7", "#56b4e9")
BLUE, VERMILLION, *_, SKY = PALETTE
GREY = "#b0b0b0"
MOST_BARS = 1_000


def open_axes(
    ax: Axes | None, width: float, height: float, layout: Literal["constrained", "compressed"] = "constrained"
) -> Axes:
    """Return the caller's Axes, or those of a new figure (inches), with thin spines on the left and below."""
    if ax is None:
        _, ax = pyplot.subplots(figsize=(width, height), layout=layout)
    elif not isinstance(ax, Axes) or ax.name != "rectilinear":
        raise TypeError(f"ax is one plain matplotlib Axes, such as axes[0], not a {type(ax).__name__}")
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set(linewidth=0.6, alpha=0.7)
    ax.tick_params(which="both", width=0.6)
    return ax


def inches(ax: Axes) -> tuple[float, float]:
    """Return the width and height of Axes."""
    box, figure = ax.get_window_extent(), ax.get_figure(root=True)
    dpi = figure.dpi if figure else 72
    return float(box.width / dpi), float(box.height / dpi)


def persons(value: float, _: object = None) -> str:
    """Write a number of persons for an axis: 2 M; the exact numbers stand beside their bars.

    >>> [persons(value) for value in (0, 500, 20_000, 1_500_000, 2e9)]
    ['0', '500', '20 k', '1.5 M', '2 bn']
    """
    for unit, letters in ((1e9, " bn"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= unit:
            return f"{value / unit:,.4g}{letters}"
    return f"{value:.4g}"


def bar_axes(ax: Axes | None, count: int, column: str) -> Axes:
    """Return the caller's Axes, or those of a new figure that is high enough for so many bars."""
    if count > MOST_BARS:
        raise ValueError(
            f"{count:,} bars are too many to read ({MOST_BARS:,} at most); "
            f"draw the largest, such as frame.nlargest(20, {column!r})"
        )
    return open_axes(ax, 8, 1.2 + 0.28 * max(count, 2))


def bars(ax: Axes, names: list[str], values: Floats, written: list[str], style: dict[str, Any]) -> float:
    """Draw horizontal bars, the first on top, each with its name and value; return a bar's height in points.

    Where the caller's Axes are low, the letters shrink, and then every second, third, … bar is labelled.
    """
    count = len(values)
    width, height = (72 * length for length in inches(ax))  # points, as the sizes of letters are
    row = height / max(count, 1)
    size = min(10.0, max(row * 0.8, 4.0))
    step = max(math.ceil(1.25 * size / row * 0.999), 1)
    drawn = ax.barh(range(count), values, **normalize_kwargs(style, Patch))
    ax.set_yticks(range(0, count, step), names[::step], fontsize=size, **legible(names))
    ax.tick_params(axis="y", length=0)
    shown = [text if place % step == 0 else "" for place, text in enumerate(written)]
    ax.bar_label(drawn, shown, padding=3, fontsize=size * 0.85, alpha=0.8)
    ax.set_ylim(max(count, 1) - 0.4, -0.6)  # the first on top
    letter = size * 0.6
    label = max(map(len, written), default=0) * letter * 0.85 + 3
    ax.margins(x=label / max(width - max(map(len, names), default=0) * letter - label, label))
    if not values.any():
        ax.set_xlim(0, 1)
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    ax.xaxis.set_major_formatter(FuncFormatter(persons))
    return row


def bar_legend(ax: Axes, handles: list[Patch], values: Floats, row: float, title: str) -> Artist:
    """Put a legend beside the low bars where they leave room, else below; return the lowest artist."""
    if not handles:
        return ax.xaxis.label
    covered = math.ceil((len(handles) + 1.5) * 14 / row)
    if covered < len(values) and values[-covered] < 0.5 * values[0]:
        legend(ax, handles, title, loc="lower right")
        return ax.xaxis.label
    return legend_below(ax, handles, title, 36)


def legend_below(ax: Axes, handles: Sequence[Artist], title: str, points: float, **style: Any) -> Legend:
    """Put a legend so many points below the Axes, in one row where that is short."""
    figure = ax.get_figure(root=True)
    anchor = ax.transAxes + ScaledTranslation(0, -points / 72, figure.dpi_scale_trans)  # type: ignore[union-attr]
    short = sum(len(str(handle.get_label())) for handle in handles) < 40
    style |= {"loc": "upper left", "bbox_to_anchor": (0, 0), "bbox_transform": anchor, "borderaxespad": 0}
    return legend(ax, handles, title, ncols=len(handles) if short else 3, **style)


def legend(ax: Axes, handles: Sequence[Artist], title: str, **style: Any) -> Legend:
    """Draw a legend of plain names: matplotlib would parse ``$`` and drop names that begin with ``_``."""
    labels = [str(handle.get_label()) for handle in handles]
    style |= {"frameon": False, "alignment": "left", "fontsize": "small", "title_fontsize": "small"}
    made: Legend = ax.legend(handles, ["" for _ in handles], title=title, **style)
    for text, label in zip(made.get_texts(), labels, strict=True):
        text.set(text=label, **legible(labels))
    return made


def note(ax: Axes, frame: pd.DataFrame, below: Artist, remark: str = "") -> None:
    """Write the frame's attribution and a remark in small letters below the lowest artist."""
    source = frame.attrs.get("source")
    said = [remark] if remark else []
    said += textwrap.wrap(clean(f"Source: {source}", 500), 100) if source else []
    if said:
        ax.annotate(
            "\n".join(said),
            (1, 0),
            (0, -6),
            ("axes fraction", below),
            "offset points",
            annotation_clip=False,
            ha="right",
            va="top",
            fontsize="x-small",
            alpha=0.7,
            **legible(said),
        )


def nothing(ax: Axes, said: str) -> None:
    """Write in the middle of an empty chart that there is nothing to draw."""
    ax.text(0.5, 0.5, said, transform=ax.transAxes, ha="center", va="center", alpha=0.7)


def country_colours(countries: Sequence[str], values: Floats) -> tuple[list[str], list[Patch]]:
    """Return a colour for each bar, and the legend: countries of the most bars have one, the rest is grey."""
    count = Counter(countries)
    total: dict[str, float] = dict.fromkeys(count, 0.0)
    for country, value in zip(countries, values, strict=True):
        total[country] += value
    ranked = sorted(count.keys() - {""}, key=lambda country: (-count[country], -total[country], country))
    if len(count) < 2:
        return [BLUE] * len(countries), []
    colours = dict(zip(ranked, PALETTE, strict=False))
    legend = [Patch(color=colour, label=country) for country, colour in colours.items()]
    others = ranked[len(PALETTE) :] + ["unknown"] * ("" in count)
    if others:
        legend.append(Patch(color=GREY, label=others[0] if len(others) == 1 else f"{len(others)} others"))
    return [colours.get(country, GREY) for country in countries], legend


def largest_parts(ax: Axes, largest: Floats, total: Floats, row: float) -> Artist:
    """Draw the largest cities over the bars of their countries; return the lowest artist."""
    ax.barh(range(len(largest)), largest, color=BLUE)
    handles = [Patch(color=BLUE, label="largest city"), Patch(color=SKY, label="other cities")]
    return bar_legend(ax, handles, total, row, "") if len(largest) else ax.xaxis.label
