"""Charts: a frame in, matplotlib Axes out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_biggest(frame: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the cities of a frame as horizontal bars, the largest on top.

    Parameters
    ----------
    frame : DataFrame, shape (n, …)
        ``name`` and ``population`` (persons; rows without one are left out), and ``country`` where there
        is one, as `biggest_cities` returns it. An attribution in ``frame.attrs["source"]`` is written
        below the bars.
    ax : matplotlib Axes, optional
        Where to draw. None: a new figure, high enough for n bars.

    Returns
    -------
    matplotlib Axes
        ``ax.figure.savefig("biggest.png")`` keeps it. It is never shown by this function.

    Examples
    --------
    >>> ax = citykit.plot_biggest(citykit.world_cities().head(20))
    >>> ax.get_yticklabels()[0].get_text()
    'Shanghai, CN'
    """
    from matplotlib.ticker import EngFormatter, MaxNLocator

    missing = {"name", "population"} - set(frame.columns)
    if missing:
        raise ValueError(f"the frame has no column {', '.join(map(repr, sorted(missing)))} to draw")
    ordered = frame.dropna(subset=["population"])
    ordered = ordered.assign(population=pd.to_numeric(ordered["population"]).astype("int64"))
    ordered = ordered.sort_values("population", ascending=False, kind="stable")
    if ax is None:
        from matplotlib import pyplot

        _, ax = pyplot.subplots(figsize=(8, 1.2 + 0.28 * max(len(ordered), 4)), layout="constrained")
    places = range(len(ordered))
    names = ordered["name"].astype(object)
    if "country" in ordered:
        countries = ordered["country"].astype(object)
        names = names.where(countries.isna() | (countries == ""), names + ", " + countries)
    labels = [str(name).replace("$", r"\$") for name in names]  # $ would begin a formula
    bars = ax.barh(places, ordered["population"], color="#0072b2")
    ax.bar_label(bars, [f"{value:,}" for value in ordered["population"]], padding=3, fontsize="small")
    ax.set_yticks(places, labels)
    ax.set_ylim(max(len(ordered), 1) - 0.4, -0.6)  # the largest on top
    ax.set_xlabel("population (persons)")
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.xaxis.set_major_formatter(EngFormatter())  # 20 M: the exact number is beside its bar
    ax.margins(x=0.2)
    ax.spines[["top", "right"]].set_visible(False)
    if not len(ordered):
        ax.text(0.5, 0.5, "no cities", transform=ax.transAxes, ha="center", va="center", color="0.4")
    if source := frame.attrs.get("source"):
        note = ax.annotate(
            f"Source: {source}".replace("$", r"\$"), (1, 0), (0, -34), "axes fraction", "offset points"
        )
        note.set(ha="right", va="top", fontsize="x-small", color="0.4")
    return ax
