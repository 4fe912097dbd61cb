"""The charts look as they did when somebody last looked at them.

``CITYKIT_RENEW_PICTURES=1 pytest tests/charts/test_pictures.py`` writes the pictures anew: look at each.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib import image, pyplot
from matplotlib.axes import Axes

import citykit

FOLDER = Path(__file__).parent / "pictures"
TOLERANCE = 0.01  # root mean square of the differences, where 1 is black to white


def cities() -> pd.DataFrame:
    """Forty cities along the lines of Zipf, on both sides of the antimeridian and the equator."""
    rank = np.arange(1, 41)
    frame = pd.DataFrame(
        {
            "name": [f"City {number}" for number in rank],
            "country": pd.Series(list("ABACADAEBFGH") * 4).head(40),
            "population": (9_000_000 / rank**0.9).astype(int),
            "latitude": 40 * np.sin(rank),
            "longitude": (150 + 60 * np.cos(1.7 * rank) + 180) % 360 - 180,
        }
    )
    frame.loc[39, ["population", "latitude"]] = [0, np.nan]
    frame.attrs["source"] = "made up"
    return frame


def countries() -> pd.DataFrame:
    groups = cities().groupby("country")["population"]
    frame = groups.agg(cities="size", total_population="sum", largest_population="max").reset_index()
    return frame.assign(share=frame["total_population"] / frame["total_population"].sum())


CHARTS: dict[str, Callable[[], Axes]] = {
    "biggest": lambda: citykit.plot_biggest(cities().head(12)),
    "biggest_equal": lambda: citykit.plot_biggest(cities().head(4).assign(population=7)),
    "countries": lambda: citykit.plot_countries(countries()),
    "rank_size": lambda: citykit.plot_rank_size(cities()),
    "map": lambda: citykit.plot_map(cities()),
    "map_empty": lambda: citykit.plot_map(cities().head(0)),
}


@pytest.mark.parametrize("name", CHARTS)
@pytest.mark.slow
def test_picture(name: str, tmp_path: Path) -> None:
    kept, fresh = FOLDER / f"{name}.png", tmp_path / f"{name}.png"
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # the fonts and sizes of nobody's own settings
        matplotlib.use("agg")
        CHARTS[name]().figure.savefig(fresh, dpi=60)  # type: ignore[union-attr]
        pyplot.close("all")
    if os.environ.get("CITYKIT_RENEW_PICTURES"):
        FOLDER.mkdir(exist_ok=True)
        kept.write_bytes(fresh.read_bytes())
    new, old = image.imread(fresh), image.imread(kept)
    assert new.shape == old.shape
    assert np.sqrt(np.mean((new - old) ** 2)) < TOLERANCE, __doc__
