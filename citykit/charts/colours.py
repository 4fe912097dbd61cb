"""The colours of charts. A country has the same one in every chart."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

from matplotlib.patches import Patch

from citykit.charts.columns import Floats

# Six are Okabe and Ito's (black is the text's, and yellow is lost on white). The other four were chosen so
# that no two of the ten look more alike than two of the six, also to eyes without red or green cones.
PALETTE = (
    "#0072b2", "#d55e00", "#009e73", "#e69f00", "#cc79a7",
    "#56b4e9", "#992222", "#99cc77", "#664466", "#bb7744",
)  # fmt: skip
BLUE, VERMILLION, *_ = PALETTE
SKY = PALETTE[5]
GREY = "#b0b0b0"
MOST_COLOURS = 6  # in one chart
_HATCHES = ("", "////", "....", "xxxx", "----", "||||")  # of countries that have one colour in one chart
# Countries that often share a chart have different colours: each line has one country for each colour.
_COUNTRIES = (
    "CN PK IN CD TR NG US BR JP MX",
    "RU ES IT NL RO FR DE PL UA GB",
    "EG ZA ET ID KR VN BD PH KE TH",
    "CA AR CO PE VE CL GH TZ EC DZ",
    "IS SE NO FI SA IR AU BE DK PT",
)
_PLACES = {country: place for line in _COUNTRIES for place, country in enumerate(line.split())}


def colour_of(country: str) -> str:
    """Return the colour of a country: by its code or name alone, so that every chart has the same."""
    return PALETTE[_PLACES.get(country, zlib.crc32(country.encode()) % len(PALETTE))]


def country_colours(
    countries: Sequence[str], values: Floats, background: Any
) -> tuple[dict[str, Any], list[Patch]]:
    """Return the styles of the bars (colours for the countries with most bars, else grey), and the legend.

    Where two countries of a chart have the same colour, the second one is hatched too.
    """
    count = Counter(countries)
    total: dict[str, float] = dict.fromkeys(count, 0.0)
    for country, value in zip(countries, values, strict=True):
        total[country] += value
    ranked = sorted(count.keys() - {""}, key=lambda country: (-count[country], -total[country], country))
    if not ranked:
        return {"color": BLUE}, []
    used: Counter[str] = Counter()
    looks: dict[str, tuple[str, str]] = {}
    for country in ranked[:MOST_COLOURS]:
        colour = colour_of(country)
        looks[country] = colour, _HATCHES[used[colour]]
        used[colour] += 1
    legend = [
        Patch(facecolor=colour, hatch=hatch, hatchcolor=background, label=country)
        for country, (colour, hatch) in looks.items()
    ]
    others = ranked[MOST_COLOURS:] + ["unknown"] * ("" in count)
    if others:
        legend.append(Patch(facecolor=GREY, label=others[0] if len(others) == 1 else f"{len(others)} others"))
    colours, hatches = zip(*(looks.get(country, (GREY, "")) for country in countries), strict=True)
    style = {"color": colours, "hatch": hatches, "hatchcolor": background}
    return style, legend if len(count) > 1 else []
