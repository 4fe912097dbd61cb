"""The land of the world, drawn below the dots of a map."""

from __future__ import annotations

import functools
import json
from importlib import resources
from weakref import WeakSet

import numpy as np
from matplotlib import rcParams
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.transforms import Bbox

from citykit.charts.columns import Floats

_LAND: WeakSet[Artist] = WeakSet()  # what was drawn here, by which a later call finds it
NARROWEST = 3.0  # degrees
_BELOW = 0.4  # zorder: the graticule has 0.5, dots have 1


@functools.cache
def rings() -> list[Floats]:
    """Return the closed lines around the land (degrees east, degrees north); land.json has their source."""
    text = resources.files("citykit.charts").joinpath("land.json").read_text(encoding="utf-8")
    return [np.array(ring) for polygon in json.loads(text)["coordinates"] for ring in polygon]


def draw_land(ax: Axes) -> None:
    """Draw the land within the limits of the Axes, in place of what an earlier call drew.

    Nothing is drawn over what the caller has on these Axes, which may be a better map, nor on a map of a few
    degrees: the lines leave out bays and islands, and would put harbours inland.
    """
    earlier = [each for each in ax.get_children() if each in _LAND]
    if ax.has_data() and not earlier:
        return
    for each in earlier:
        each.remove()
    (west, east), (south, north) = ax.get_xlim(), ax.get_ylim()
    box = Bbox.from_extents(west, south, east, north)
    areas, coasts = [], []
    for ring in rings() if east - west >= NARROWEST else ():
        for turn in (-360, 0, 360):  # the limits may lie beyond the antimeridian
            line = ring + np.array([turn, 0])
            if (line.max(axis=0) >= box.min).all() and (line.min(axis=0) <= box.max).all():
                areas.append(Path(line, closed=True).clip_to_bbox(box))
                coasts += _coasts(line, box)
    colour, land = rcParams["text.color"], Path.make_compound_path(*areas)
    # Added even where there is none, so that a later call knows the Axes as its own.
    _LAND.add(ax.add_artist(PathPatch(land, color=colour, alpha=0.07, linewidth=0, zorder=_BELOW)))
    # A patch too: ax.collections are the dots, of which a colour bar may be made.
    lines = Path.make_compound_path(*map(Path, coasts))
    outline = PathPatch(lines, fill=False, color=colour, alpha=0.35, linewidth=0.5, zorder=_BELOW)
    _LAND.add(ax.add_artist(outline))


def _coasts(line: Floats, box: Bbox) -> list[Floats]:
    """Return the parts of a line that are within the box, without those to the pole, which are no coast."""
    ends = np.stack([line[:-1], line[1:]])
    inside = ((ends.max(axis=0) >= box.min) & (ends.min(axis=0) <= box.max)).all(axis=1)
    kept = np.flatnonzero(inside & (ends[:, :, 1] > -90).all(axis=0))
    runs = np.split(kept, np.flatnonzero(np.diff(kept) > 1) + 1)
    return [line[run[0] : run[-1] + 2] for run in runs if len(run)]
