"""The parts of a chart: Axes, bars, legends, the title and notes that overlap nothing."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any, Literal
from weakref import WeakSet

import pandas as pd
from matplotlib import pyplot
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cbook import normalize_kwargs
from matplotlib.font_manager import FontProperties
from matplotlib.legend import Legend
from matplotlib.patches import Patch
from matplotlib.textpath import text_to_path
from matplotlib.ticker import FuncFormatter, MaxNLocator
from matplotlib.transforms import ScaledTranslation

from citykit.charts.colours import BLUE
from citykit.charts.columns import Floats, clean
from citykit.charts.fonts import legible

MOST_BARS = 500  # of a new figure, which grows with them: more would be too high at 300 dots per inch
LOWEST_BAR = 6.0  # points, with letters of 4.8
_BARS: WeakSet[Patch] = WeakSet()  # the bars that were drawn here, as far as they are still there


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


def bar_axes(ax: Axes | None, count: int) -> tuple[Axes, int]:
    """Return the caller's Axes, or those of a new high figure, and how many bars they have room for.

    Axes that have such bars already are cleared, but for their title: those bars would have the names of
    these.
    """
    if ax is None:
        count = min(count, MOST_BARS)
        return open_axes(None, 8, 1.2 + 0.28 * max(count, 2)), count
    if isinstance(ax, Axes) and not _BARS.isdisjoint(ax.patches):
        said, font, formulas = ax.get_title(), ax.title.get_fontproperties(), ax.title.get_parse_math()
        ax.clear()
        ax.set_title(said, fontproperties=font, parse_math=formulas)
    ax = open_axes(ax, 0, 0)
    return ax, min(count, MOST_BARS, max(int(72 * inches(ax)[1] / LOWEST_BAR), 1))


def bars(
    ax: Axes, names: list[str], values: Floats, written: list[str], style: dict[str, Any]
) -> tuple[float, float]:
    """Draw horizontal bars, the first on top, with their names and values.

    Returns the height of a bar and the width that the longest bar has (points).
    """
    count = len(values)
    width, height = (72 * length for length in inches(ax))  # points, as the sizes of letters are
    row = height / max(count, 1)
    size = min(10.0, row * 0.8)
    look: dict[str, Any] = {"fontsize": size, **legible(names)}
    figure = ax.get_figure(root=True)
    if figure is not None and len(figure.axes) == 1 and figure.get_layout_engine():
        whole = figure.bbox.width * 72 / figure.dpi  # the layout gives it all to the names and the bars
        names = [_shortened(name, 0.5 * whole, look) for name in names]
        width = whole - max((width_of(name, look) for name in names), default=0) - 20
    drawn = ax.barh(range(count), values, **normalize_kwargs(style, Patch))
    _BARS.update(drawn)
    ax.set_yticks(range(count), names, **look)
    ax.tick_params(axis="y", length=0)
    for label in ax.bar_label(drawn, written, padding=3, fontsize=size * 0.85, alpha=0.8):
        label.set_in_layout(False)  # they are within the Axes, and hundreds would be measured several times
    ax.set_ylim(max(count, 1) - 0.4, -0.6)  # the first on top
    longest = max(map(len, written), default=0) * size * 0.6 * 0.85 + 3
    room = max(width - longest, 0.3 * width)
    ax.margins(x=longest / room)
    if not values.any():
        ax.set_xlim(0, 1)
    ax.xaxis.set_major_locator(MaxNLocator(min(max(int(width / 45), 1), 6), steps=[1, 2, 2.5, 5, 10]))
    ax.xaxis.set_major_formatter(FuncFormatter(persons))
    return row, room


def _shortened(name: str, room: float, look: dict[str, Any]) -> str:
    """Return a name that is no wider (points) than there is room, cut with an ellipsis."""
    columns, shown = len(name), name
    while columns > 2 and width_of(shown, look) > room:
        columns -= 1
        shown = name[:columns].rstrip() + "…"
    return shown


def bar_legend(
    ax: Axes, handles: list[Patch], values: Floats, space: tuple[float, float], title: str
) -> Artist:
    """Put a legend beside the low bars where they leave room, else below; return the lowest artist."""
    if not handles:
        return ax.xaxis.label
    row, room = space
    covered = math.ceil((len(handles) + 1.5) * 14 / row)
    wanted = 40 + 5 * max(len(str(handle.get_label())) for handle in handles)
    if covered < len(values) and room * (1 - values[-covered] / (values[0] or 1)) > wanted:
        legend(ax, handles, title, loc="lower right")
        return ax.xaxis.label
    return legend_below(ax, handles, title, 36)


def legend_below(ax: Axes, handles: Sequence[Artist], title: str, points: float, **style: Any) -> Legend:
    """Put a legend so many points below the Axes, in as many columns as have room."""
    figure = ax.get_figure(root=True)
    anchor = ax.transAxes + ScaledTranslation(0, -points / 72, figure.dpi_scale_trans)  # type: ignore[union-attr]
    letters = [len(str(handle.get_label())) for handle in handles]
    fitting = int(72 * inches(ax)[0] / (50 + 5 * max(letters)))
    columns = max(min(fitting, len(handles) if sum(letters) < 40 else 3), 1)
    style |= {"loc": "upper left", "bbox_to_anchor": (0, 0), "bbox_transform": anchor, "borderaxespad": 0}
    return legend(ax, handles, title, ncols=columns, **style)


def legend(ax: Axes, handles: Sequence[Artist], title: str, **style: Any) -> Legend:
    """Draw a legend of plain names: matplotlib would parse ``$`` and drop names that begin with ``_``."""
    labels = [str(handle.get_label()) for handle in handles]
    style |= {"frameon": False, "alignment": "left", "fontsize": "small", "title_fontsize": "small"}
    made: Legend = ax.legend(handles, ["" for _ in handles], title=title, **style)
    look = legible(labels)
    for text, label in zip(made.get_texts(), labels, strict=True):
        text.set(text=label, **look)
    return made


def note(ax: Axes, frame: pd.DataFrame, below: Artist, remark: str = "") -> None:
    """Write the frame's attribution and a remark in small letters below the lowest artist."""
    source = frame.attrs.get("source")
    said = [remark] if remark else []
    said += [clean(f"Source: {source}", 500)] if source else []
    if said:
        look: dict[str, Any] = {"fontsize": "x-small", **legible(said)}
        ax.annotate(
            folded("\n".join(said), _room(ax, 1), look),
            (1, 0),
            (0, -6),
            ("axes fraction", below),
            "offset points",
            annotation_clip=False,
            ha="right",
            va="top",
            alpha=0.7,
            **look,
        )


def left_out(total: int, things: str, *reasons: tuple[int, str]) -> str:
    """Say how many rows are not drawn, and why.

    >>> left_out(5_000, "cities", (4_500, "smaller"), (0, "without coordinates"))
    'Left out of 5,000 cities: 4,500 smaller'
    """
    said = ", ".join(f"{count:,} {why}" for count, why in reasons if count)
    return f"Left out of {total:,} {things}: {said}" if said else ""


def add_title(ax: Axes, title: str | None, *, is_new: bool) -> None:
    """Write a title over finished Axes, in lines that fit; each after the first makes a new figure higher.

    Where no layout engine makes room, what does not fit is cut.
    """
    if title is None:
        return
    figure = ax.get_figure(root=True)
    assert figure is not None  # noqa: S101  for the type checker
    layout, scale = figure.get_layout_engine(), 72 / figure.dpi
    said = "\n".join(clean(line, 1_000) for line in str(title).split("\n"))
    size = float(ax.title.get_fontsize())
    look: dict[str, Any] = {"fontsize": size, "fontweight": ax.title.get_fontweight(), **legible([said])}
    if layout and width_of(said, look) > 0.4 * figure.bbox.width * scale:
        layout.execute(figure)  # labels may leave the Axes little width
    lines = folded(said, _room(ax, 0.5), look).split("\n")
    line = 1.3 * size
    if layout is None:
        above = (figure.bbox.height - ax.get_window_extent().y1) * scale - 0.5 * line
        most = max(int(above / line), 1)
        lines = lines if len(lines) <= most else [*lines[: most - 1], lines[most - 1][:-1] + "…"]
    ax.set_title("\n".join(lines), **look)
    if is_new:
        figure.set_figheight(figure.get_figheight() + (len(lines) - 1) * line / 72)


def _room(ax: Axes, anchor: float) -> float:
    """Return how wide (points) a text may be that is anchored at this part of the Axes' width.

    It may be wider than the Axes where nothing is beside them.
    """
    figure = ax.get_figure(root=True)
    assert figure is not None  # noqa: S101  for the type checker
    box, scale = ax.get_window_extent(), 0.94 * 72 / figure.dpi  # on a screen, letters are a little wider
    if len(figure.axes) > 1:
        return float(box.width * scale)
    left = box.x0 + anchor * box.width
    return float(left if anchor == 1 else 2 * min(left, figure.bbox.width - left)) * scale


def width_of(text: str, look: dict[str, Any]) -> float:
    """Return the width (points) of the longest line of a text."""
    weight = look.get("fontweight", "normal")
    font = FontProperties(family=look["fontfamily"], size=look["fontsize"], weight=weight)
    lines = text.split("\n")
    return max(text_to_path.get_text_width_height_descent(line, font, False)[0] for line in lines)


def folded(text: str, room: float, look: dict[str, Any]) -> str:
    """Return a text with more line breaks, so that no line is wider (points) than there is room."""
    lines, columns = text, len(text)
    while columns > 1 and width_of(lines, look) > room:
        columns = columns * 15 // 16
        lines = "\n".join("\n".join(textwrap.wrap(line, columns)) for line in text.split("\n"))
    return lines


def nothing(ax: Axes, said: str) -> None:
    """Write in the middle of an empty chart that there is nothing to draw."""
    ax.text(0.5, 0.5, said, transform=ax.transAxes, ha="center", va="center", alpha=0.7)


def largest_parts(ax: Axes, largest: Floats, total: Floats, space: tuple[float, float]) -> Artist:
    """Draw the largest cities over the bars of their countries; return the lowest artist."""
    if not len(largest):
        return ax.xaxis.label
    others = ax.patches[-len(largest)].get_facecolor()  # the caller may have given a colour
    ax.barh(range(len(largest)), largest, color=BLUE)
    handles = [Patch(color=BLUE, label="largest city"), Patch(color=others, label="other cities")]
    return bar_legend(ax, handles, total, space, "")
