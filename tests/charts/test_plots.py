from __future__ import annotations

import io
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

import citykit
from citykit.charts.colours import PALETTE
from citykit.charts.land import rings
from citykit.charts.plots import rank_size_fit

CHARTS = {
    "biggest": citykit.plot_biggest,
    "countries": citykit.plot_countries,
    "rank_size": citykit.plot_rank_size,
    "map": citykit.plot_map,
}
charts = pytest.mark.parametrize("name", CHARTS)


@pytest.fixture(autouse=True)
def no_figure_stays_open() -> Iterator[None]:
    yield
    pyplot.close("all")


def labels(ax: Axes) -> list[str]:
    return [label.get_text() for label in ax.get_yticklabels()]


def test_bars_are_horizontal_and_the_largest_is_on_top(three_cities: pd.DataFrame) -> None:
    ax = citykit.plot_biggest(three_cities)
    assert isinstance(ax, Axes)
    assert labels(ax) == ["London, GB", "London, CA", "Reykjavík, IS"]
    tops = [ax.transData.transform((0, bar.get_y()))[1] for bar in ax.patches]  # type: ignore[attr-defined]
    assert tops == sorted(tops, reverse=True)
    assert [bar.get_width() for bar in ax.patches] == [8_961_989, 422_324, 118_918]  # type: ignore[attr-defined]


def test_thousands_are_readable(three_cities: pd.DataFrame) -> None:
    ax = citykit.plot_biggest(three_cities)
    assert [text.get_text() for text in ax.texts] == ["8,961,989", "422,324", "118,918"]
    assert ax.xaxis.get_major_formatter()(2_000_000, 0) == "2 M"


def test_the_given_axes_are_drawn_on_and_nothing_is_shown(three_cities: pd.DataFrame) -> None:
    ax = Figure().subplots()
    assert citykit.plot_biggest(three_cities, ax=ax) is ax
    assert pyplot.get_fignums() == []


def test_the_frame_is_not_changed(three_cities: pd.DataFrame) -> None:
    before = three_cities.copy(deep=True)
    citykit.plot_biggest(three_cities)
    pd.testing.assert_frame_equal(three_cities, before)


@pytest.mark.slow
def test_the_attribution_is_on_the_chart() -> None:
    ax = citykit.plot_biggest(citykit.world_cities().head(3))
    assert any("GeoNames" in text.get_text() for text in ax.texts)


def test_no_cities_and_no_countries(three_cities: pd.DataFrame) -> None:
    assert [text.get_text() for text in citykit.plot_biggest(three_cities.head(0)).texts] == ["no cities"]
    assert labels(citykit.plot_biggest(three_cities[["name", "population"]])) == [
        "London",
        "London",
        "Reykjavík",
    ]
    unknown = three_cities.assign(country=[float("nan"), "", "CA"])
    assert labels(citykit.plot_biggest(unknown)) == ["London", "London, CA", "Reykjavík"]


@pytest.mark.parametrize("dtype", ["Int64", "int64[pyarrow]", "float64", "object"])
def test_cities_of_unknown_population_are_left_out(dtype: str) -> None:
    frame = pd.DataFrame({"name": ["a", "b", "c"], "population": pd.Series([1, None, 3], dtype=dtype)})
    ax = citykit.plot_biggest(frame.assign(country=pd.Categorical(["X", "Y", None])))
    assert labels(ax) == ["c", "a, X"]
    said = "Left out of 3 cities: 1 of unknown population"
    assert [text.get_text() for text in ax.texts] == ["3", "1", said]


def test_drawing_twice_on_the_same_axes_keeps_the_largest_on_top(three_cities: pd.DataFrame) -> None:
    ax = citykit.plot_biggest(three_cities)
    citykit.plot_biggest(three_cities, ax=ax)
    low, high = ax.get_ylim()
    assert low > high


def test_bars_of_other_cities_take_the_place_of_bars_that_are_there(three_cities: pd.DataFrame) -> None:
    ax = citykit.plot_biggest(three_cities, title="all")
    countries = pd.DataFrame({"country": ["IS"], "total_population": [1], "largest_population": [1]})
    citykit.plot_countries(countries, ax=ax)
    assert (labels(ax), ax.get_title()) == (["IS"], "all")
    citykit.plot_biggest(three_cities.tail(2), ax=ax)
    assert [bar.get_width() for bar in ax.patches] == sorted(three_cities["population"].tail(2), reverse=True)  # type: ignore[attr-defined]
    assert [text.get_text() for text in ax.texts] == ["8,961,989", "422,324"]


def test_no_two_bars_of_an_svg_have_one_id(three_cities: pd.DataFrame) -> None:
    file = io.StringIO()
    drawn_on = citykit.plot_biggest(three_cities).figure
    assert isinstance(drawn_on, Figure)
    drawn_on.savefig(file, format="svg")
    ids = re.findall(r' id="([^"]+)"', file.getvalue())
    assert len(ids) == len(set(ids)) > len(three_cities)


def test_a_name_is_no_formula() -> None:
    ax = citykit.plot_biggest(pd.DataFrame({"name": [r"$\frac$", "a_b^c"], "population": [2, 1]}))
    ax.figure.canvas.draw()
    assert labels(ax)[1] == "a_b^c"


def test_a_frame_without_the_columns_is_refused() -> None:
    with pytest.raises(ValueError, match="no column 'name', 'population' to draw"):
        citykit.plot_biggest(pd.DataFrame({"a": [1]}))


def made(n: int, **columns: Any) -> pd.DataFrame:
    """A frame with what every chart needs."""
    rank = np.arange(1, n + 1)
    frame = pd.DataFrame(
        {"name": [f"City {i}" for i in rank], "country": "XX", "population": 1_000_000 // rank}
    )
    frame = frame.assign(latitude=10.0 + rank / max(n, 1), longitude=20.0 + rank / max(n, 1))
    frame = frame.assign(total_population=frame["population"], largest_population=frame["population"] // 2)
    return frame.assign(cities=1, share=1 / max(n, 1)).assign(**columns)


def drawn(name: str, frame: pd.DataFrame, **style: Any) -> Axes:
    """Draw, also to pixels, and without a layout, which is slow; any warning is an error, as everywhere."""
    style.setdefault("ax", Figure().subplots())
    ax = CHARTS[name](frame, **style)
    FigureCanvasAgg(ax.get_figure(root=True)).draw()  # type: ignore[no-untyped-call]
    return ax


def colours(ax: Axes) -> list[str]:
    return [to_hex(bar.get_facecolor()) for bar in ax.patches]


def named(ax: Axes) -> list[Text]:
    """The cities that a map names."""
    [found] = [each for each in ax.get_children() if type(each).__name__ == "_Names"]
    return [text for text in found.findobj(Text) if text.get_visible()]


def names(ax: Axes) -> list[str]:
    return [text.get_text() for text in named(ax)]


def assert_apart(boxes: Sequence[Any]) -> None:
    assert not [pair for pair in itertools.combinations(boxes, 2) if pair[0].overlaps(pair[1])]


def legend(ax: Axes) -> list[str]:
    found = ax.get_legend()
    return [text.get_text() for text in found.get_texts()] if found else []


# What is the same for all charts.


@charts
def test_an_empty_frame_is_an_empty_chart_with_a_note(name: str) -> None:
    ax = drawn(name, made(0))
    assert ax.texts[0].get_text() == ("no countries" if name == "countries" else "no cities")
    assert drawn(name, made(0).astype(object)).texts[0].get_text().startswith("no ")


@charts
@pytest.mark.parametrize("n", [1, 2, 3, 500])
def test_few_rows_and_many(name: str, n: int) -> None:
    ax = drawn(name, made(n))
    if name in ("biggest", "countries"):
        assert len(ax.patches) >= min(n, 40)


@charts
@pytest.mark.parametrize("value", [0, 7])
@pytest.mark.slow
def test_rows_that_are_all_equal(name: str, value: int) -> None:
    equal = made(5, population=value, total_population=value, largest_population=value, share=0.2)
    for frame in (equal, made(5, latitude=1.0, longitude=180.0)):
        ax = drawn(name, frame)
        assert np.ptp(ax.get_xlim()) > 0
        assert np.ptp(ax.get_ylim()) > 0


@charts
@pytest.mark.slow
def test_the_frame_is_as_before_and_the_axes_are_the_callers(name: str) -> None:
    frame = made(5).iloc[[3, 1, 0, 2, 4]]
    frame.attrs["source"] = "me"
    before, ax = frame.copy(deep=True), Figure().subplots()
    assert CHARTS[name](frame, ax=ax) is ax
    pd.testing.assert_frame_equal(frame, before)
    assert pyplot.get_fignums() == []
    assert ax.texts[-1].get_text() == "Source: me"


@charts
@pytest.mark.slow
def test_twice_on_the_same_axes(name: str) -> None:
    ax = drawn(name, made(9))
    assert drawn(name, made(3), ax=ax) is ax


@charts
def test_missing_columns_are_named(name: str) -> None:
    columns = {
        "biggest": "'name', 'population'",
        "countries": "'country', 'total_population'",
        "rank_size": "'population'",
        "map": "'latitude', 'longitude', 'population'",
    }
    with pytest.raises(ValueError, match=rf"no column {columns[name]} to draw \(it has: a, 7\)"):
        CHARTS[name](pd.DataFrame({"a": [1], 7: [2]}))
    assert pyplot.get_fignums() == []


@charts
def test_other_things_than_frames_and_axes_are_refused(name: str) -> None:
    async def forgotten() -> None: ...

    coroutine = forgotten()
    for thing, said in ((None, "NoneType$"), ({}, "dict$"), (coroutine, "coroutine: it wants an await")):
        with pytest.raises(TypeError, match=f"of a DataFrame, not of a {said}"):
            CHARTS[name](thing)  # type: ignore[arg-type]
    coroutine.close()
    with pytest.raises(TypeError, match=r"one plain matplotlib Axes, such as axes\[0\], not a ndarray"):
        CHARTS[name](made(1), ax=Figure().subplots(2))
    with pytest.raises(TypeError, match="not a PolarAxes"):
        CHARTS[name](made(1), ax=Figure().add_subplot(projection="polar"))
    twice = pd.concat([made(2), made(2)], axis="columns")
    with pytest.raises(ValueError, match="more than one column"):
        CHARTS[name](twice)


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("population", "many", "persons"),
        ("population", -5, "persons"),
        ("population", math.inf, "persons"),
        ("population", 1e300, "persons"),
        ("latitude", 90.1, "-90 to 90"),
        ("longitude", 181, "-180 to 180"),
    ],
)
def test_values_that_cannot_be_drawn(column: str, value: object, said: str) -> None:
    frame = made(3).set_index(pd.Index(["a", "b", "c"]))
    frame[column] = pd.Series([1, value, None], index=frame.index, dtype=object)
    with pytest.raises(
        ValueError, match=rf"column '{column}' holds .*1 of 3 values, .* row label 'b': .*{said}"
    ):
        citykit.plot_map(frame)


@pytest.mark.parametrize("values", [[True, False], [1j, 2], pd.to_datetime(["2020", "2021"])])
def test_dtypes_that_are_no_numbers(values: Any) -> None:
    with pytest.raises(ValueError, match="column 'population' is of dtype"):
        citykit.plot_rank_size(pd.DataFrame({"population": values}))


@charts
@pytest.mark.parametrize("dtype", ["Int64", "int64[pyarrow]", "float64", "object", "decimal", "category"])
def test_numbers_of_any_dtype(name: str, dtype: str) -> None:
    frame = made(4)
    for column in ("population", "total_population"):
        values = frame[column].map(Decimal) if dtype == "decimal" else frame[column].astype(dtype)  # type: ignore[call-overload]
        frame[column] = values
    ax = CHARTS[name](frame, ax=Figure().subplots())
    assert [*ax.patches, *ax.lines, *ax.collections]


TITLES = [
    "Cities", "two\nlines", "The very long title of a chart " * 10, "x" * 300, "東京" * 150,
    "$a_1$ \\frac $", "", " ", "a\0b\tc", "\ud800", "%s {} <b>",
]  # fmt: skip


@charts
@pytest.mark.filterwarnings("ignore:No installed font has")
@pytest.mark.parametrize("title", TITLES)
@pytest.mark.slow
def test_a_title_is_within_the_figure_and_above_the_axes(name: str, title: str) -> None:
    for ax in (
        CHARTS[name](made(3), title=title),
        CHARTS[name](made(3), title=title, ax=Figure(figsize=(8, 8)).subplots(2, 2)[0, 0]),
    ):
        figure = ax.get_figure(root=True)
        assert figure is not None
        figure.canvas.draw()
        box = ax.title.get_window_extent()
        if title.strip():
            assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
            assert ax.get_window_extent().y1 < box.y0 < box.y1 <= figure.bbox.y1
            if len(figure.axes) > 1:
                assert box.width <= ax.get_window_extent().width
        said = "".join(ax.get_title().split())
        wanted = "".join(title.replace("\0", "").replace("\ud800", "\ufffd").split())
        if len(figure.axes) > 1 and said.endswith("…"):  # no layout engine makes room for more
            assert wanted.startswith(said[:-1])
            assert ax.get_title().count("\n") >= 2
        else:
            assert said == wanted


@charts
def test_a_title_is_as_given_and_no_formula(name: str) -> None:
    ax = drawn(name, made(3), title="Costs of $5 and $6")
    assert ax.get_title() == "Costs of $5 and $6"
    assert not ax.title.get_parse_math()
    CHARTS[name](made(3), ax=ax)
    assert ax.get_title() == "Costs of $5 and $6"  # None leaves what is there


@charts
@pytest.mark.slow
def test_a_long_title_makes_the_figure_higher_and_not_the_chart_lower(name: str) -> None:
    heights = []
    for title in ("short", "long words " * 30):
        ax = CHARTS[name](made(2), title=title)
        ax.figure.canvas.draw()
        heights.append(ax.get_window_extent().height)
    assert heights[1] == pytest.approx(heights[0], rel=0.1)


@charts
@pytest.mark.parametrize(
    "broken",
    [
        {"frame": pd.DataFrame({"a": [1]})},
        {"frame": made(3, population="many", total_population="many")},
        {"frame": None},
        {"color": "no such colour"},
        {"no_such_style": 1},
        {"title": 3j, "color": "no such colour"},
    ],
    ids=str,
)
def test_a_chart_that_fails_leaves_no_figure(name: str, broken: dict[str, Any]) -> None:
    mine = pyplot.figure()
    with pytest.raises((ValueError, TypeError, AttributeError)):
        CHARTS[name](**({"frame": made(3)} | broken))
    assert pyplot.get_fignums() == [mine.number]
    assert pyplot.gcf() is mine


@charts
def test_an_interrupted_chart_leaves_no_figure(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Axes, "annotate", interrupt)
    frame = made(3)
    frame.attrs["source"] = "me"
    with pytest.raises(KeyboardInterrupt):
        CHARTS[name](frame)
    assert pyplot.get_fignums() == []


@charts
@pytest.mark.parametrize("size", [(1.5, 1), (3, 2), (30, 20)])
@pytest.mark.slow
def test_any_size_of_figure(name: str, size: tuple[float, float]) -> None:
    frame = made(40, country=list("ABCDEFGH") * 5)
    frame.attrs["source"] = "a source of some length, (c) somebody, 2026"
    drawn(name, frame, ax=Figure(figsize=size).subplots(), title="A title of a few words")


# Bars.


def test_the_most_frequent_countries_have_a_colour_and_the_rest_is_grey() -> None:
    frame = made(12, country=list("ABACADAEBFGH"))
    ax = drawn("biggest", frame)
    assert legend(ax) == ["A", "B", "C", "D", "E", "F", "2 others"]
    by_country = dict(zip(frame["country"], colours(ax), strict=True))
    assert by_country["G"] == by_country["H"] == "#b0b0b0"
    looks = {(to_hex(bar.get_facecolor()), bar.get_hatch() or "") for bar in ax.patches}
    assert len(looks) == 7
    assert colours(ax)[0] == colours(ax)[2]


@pytest.mark.slow
def test_a_country_has_its_colour_in_every_chart() -> None:
    codes = ["CN", "IN", "US", "BR", "RU", "IS", "FO", "DE", "TR", "Freedonia", "Ελλάς"]
    alone = {code: colours(drawn("biggest", made(2, country=code)))[0] for code in codes}
    for turn in range(len(codes)):
        some = (codes[turn:] + codes[:turn])[:6]
        together = colours(drawn("biggest", made(6, country=some)))
        assert together == [alone[code] for code in some]
    assert alone["CN"] == "#0072b2"  # by its code alone: in every process


@pytest.mark.slow
def test_countries_of_one_colour_are_told_apart_and_the_legend_shows_how() -> None:
    every = [f"{a}{b}" for a in "QX" for b in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"]
    by_colour: dict[str, list[str]] = {}
    for code in every:
        by_colour.setdefault(colours(drawn("biggest", made(1, country=code)))[0], []).append(code)
    same = max(by_colour.values(), key=len)[:6]
    assert len(same) == 6
    ax = drawn("biggest", made(6, country=same))
    looks = [(bar.get_facecolor(), bar.get_hatch()) for bar in ax.patches]
    assert len(set(looks)) == 6
    found = ax.get_legend()
    assert found is not None
    assert [(patch.get_facecolor(), patch.get_hatch()) for patch in found.get_patches()] == looks


def seen(colour: str, matrix: Any) -> Any:
    """CIELAB of a colour as it is seen through a matrix on linear light."""
    light = np.array([c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)])
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    part = np.array(to_xyz) @ np.clip(np.array(matrix) @ light, 0, 1) / [0.9505, 1, 1.089]
    x, y, z = np.where(part > 0.008856, np.cbrt(part), 7.787 * part + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize(
    "matrix",  # G. Machado, M. Oliveira and L. Fernandes, IEEE TVCG 15 (2009), severity 1.0
    [
        np.eye(3),
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    ],
    ids=["trichromat", "protanope", "deuteranope"],
)
def test_no_two_colours_look_more_alike_than_those_of_okabe_and_ito(matrix: Any) -> None:
    def nearest(palette: Sequence[str]) -> float:
        points = [seen(colour, matrix) for colour in palette]
        return min(float(np.linalg.norm(a - b)) for a, b in itertools.combinations(points, 2))

    assert len(PALETTE) == 10
    assert nearest(PALETTE) > 17.5  # of the six: 17.9 to a protanope or deuteranope


@pytest.mark.slow
def test_cities_of_one_name_are_told_apart() -> None:
    repeated = {"name": ["Paris"] * 3 + ["Rome"] * 2, "country": ["FR", "US", "US", "IT", "US"]}
    with_region = made(5, **repeated, region=["11", "TX", "TN", "07", "GA"])
    assert labels(drawn("biggest", with_region)) == [
        "Paris, FR", "Paris, TX, US", "Paris, TN, US", "Rome, IT", "Rome, US",
    ]  # fmt: skip
    without = with_region.drop(columns="country")
    assert labels(drawn("biggest", without)) == [
        "Paris, 11",
        "Paris, TX",
        "Paris, TN",
        "Rome, 07",
        "Rome, GA",
    ]
    assert labels(drawn("biggest", made(5, **repeated)))[1:3] == ["Paris, US"] * 2  # nothing tells them apart
    on_map = with_region.assign(latitude=[48.9, 33.7, 36.3, 41.9, 34.3], longitude=[2.3, -95, -88, 12.5, -85])
    assert set(names(drawn("map", on_map))) <= set(labels(drawn("biggest", with_region)))


def test_one_country_and_unknown_ones() -> None:
    assert legend(drawn("biggest", made(3))) == []
    ax = drawn("biggest", made(3, country=["A", None, ""]))
    assert legend(ax) == ["A", "unknown"]
    assert colours(ax)[1:] == ["#b0b0b0", "#b0b0b0"]


def test_styles_go_to_the_bars_and_follow_the_rows() -> None:
    frame = made(3, country=["A", "B", "C"]).iloc[::-1]
    ax = drawn("biggest", frame, color=["red", "lime", "blue"], lw=2)
    assert colours(ax) == ["#0000ff", "#00ff00", "#ff0000"]
    assert ax.patches[0].get_linewidth() == 2
    assert legend(ax) == []
    assert colours(drawn("biggest", frame, color=[1.0, 0.0, 0.0])) == ["#ff0000"] * 3  # one colour
    assert colours(drawn("countries", frame, fc="lime"))[0] == "#00ff00"


def test_long_names_are_cut_and_lines_are_one() -> None:
    ax = drawn("biggest", made(3, name=["x" * 400, "a\nb\t\0c", "東" * 100]).head(2))
    assert labels(ax) == ["x" * 39 + "…, XX", "a b c, XX"]


@pytest.mark.parametrize(("name", "things"), [("biggest", "cities"), ("countries", "countries")])
@pytest.mark.parametrize("rows", [40, 300, 5_000])
@pytest.mark.slow
def test_bars_without_room_are_left_out_and_counted(name: str, things: str, rows: int) -> None:
    frame = made(rows).sample(frac=1, random_state=1)
    ax = drawn(name, frame.drop(columns="largest_population"), ax=Figure(figsize=(6, 4)).subplots())
    count = len(ax.patches)
    assert 30 < count < 40
    assert [bar.get_width() for bar in ax.patches] == frame["population"].nlargest(count).to_list()  # type: ignore[attr-defined]
    assert ax.texts[-1].get_text() == f"Left out of {rows:,} {things}: {rows - count:,} smaller"
    assert_apart([label.get_window_extent() for label in ax.get_yticklabels()])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["biggest", "countries"])
def test_a_new_figure_has_room_for_500_bars(name: str) -> None:
    ax = CHARTS[name](made(501).drop(columns="largest_population"))
    assert len(ax.patches) == 500
    assert ax.texts[-1].get_text().endswith(": 1 smaller")
    assert ax.yaxis.get_ticklabels()[0].get_fontsize() == 10


@pytest.mark.parametrize("n", [4, 20])
@pytest.mark.slow
def test_nothing_overlaps(n: int) -> None:
    frame = made(n, country=[f"C{i % 7}" for i in range(n)], population=10_000_000)
    frame.attrs["source"] = "me"
    for ax in (
        citykit.plot_biggest(frame),
        citykit.plot_biggest(frame.assign(population=2.0 ** -np.arange(n))),
    ):
        ax.figure.canvas.draw()
        found = ax.get_legend()
        assert found is not None
        inside = ax.figure.bbox.bounds
        boxes = [text.get_window_extent() for text in (*ax.texts, ax.xaxis.label)]
        boxes += [bar.get_window_extent() for bar in ax.patches]
        box = found.get_window_extent()
        assert not any(box.overlaps(other) for other in boxes)
        assert box.y0 > inside[1]
        assert ax.texts[-1].get_window_extent().y0 > inside[1]


def test_countries_show_their_largest_city_and_their_share() -> None:
    ax = drawn("countries", made(3, country=["A", "B", None], share=[0.5, None, 0.25]))
    assert labels(ax) == ["A", "B", "unknown"]
    assert [text.get_text() for text in ax.texts] == ["1,000,000 (50.0%)", "500,000", "333,333 (25.0%)"]
    widths = [bar.get_width() for bar in ax.patches]  # type: ignore[attr-defined]
    assert widths == [1_000_000, 500_000, 333_333, 500_000, 250_000, 166_666]
    assert legend(ax) == ["largest city", "other cities"]
    only = drawn("countries", made(3)[["country", "total_population"]])
    assert (len(only.patches), legend(only)) == (3, [])


@pytest.mark.parametrize(
    ("style", "colour"), [({}, "#56b4e9"), ({"color": "0.8"}, "#cccccc"), ({"fc": "lime"}, "#00ff00")]
)
def test_the_legend_of_countries_has_the_colours_of_the_bars(style: dict[str, str], colour: str) -> None:
    found = drawn("countries", made(3), **style).get_legend()
    assert found is not None
    assert [to_hex(patch.get_facecolor()) for patch in found.get_patches()] == ["#0072b2", colour]


# Ranks.


def test_the_exponent_is_that_of_gabaix_and_ibragimov() -> None:
    sizes = np.array([90.0, 41.0, 33.0, 20.0, 19.0])
    fit = rank_size_fit(sizes)
    assert fit is not None
    slope, constant = np.polyfit(np.log(sizes), np.log(np.arange(1, 6) - 0.5), 1)
    assert fit == pytest.approx((-slope, -slope * math.sqrt(2 / 5), constant))


def test_the_fit_finds_a_known_exponent_within_its_standard_error() -> None:
    sizes = np.random.default_rng(1).pareto(1.3, 4_000) + 1
    fit = rank_size_fit(np.sort(sizes)[::-1])
    assert fit is not None
    exponent, error, _ = fit
    assert abs(exponent - 1.3) < 2 * error
    assert error == pytest.approx(exponent * math.sqrt(2 / 4_000))


def test_ranks_are_drawn_against_sizes_with_the_fit() -> None:
    ax = drawn("rank_size", made(50).sample(frac=1, random_state=1), marker="x", c="red")
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    cities, line, zipf = ax.lines
    assert np.asarray(cities.get_xdata()).tolist() == list(range(1, 51))
    assert np.asarray(cities.get_ydata()).tolist() == made(50)["population"].to_list()
    assert (cities.get_marker(), cities.get_color()) == ("x", "red")
    x, y = np.asarray(zipf.get_xdata()), np.asarray(zipf.get_ydata())
    assert y * x == pytest.approx(y[0] * x[0])
    assert legend(ax)[1:] == [line.get_label(), "Zipf's law: exponent 1"]
    assert str(line.get_label()).endswith("(standard error), n = 50")


def test_populations_of_zero_are_left_out_and_counted() -> None:
    ax = drawn("rank_size", made(5, population=[5, 0, None, 3, 2]))
    assert np.asarray(ax.lines[0].get_ydata()).tolist() == [5, 3, 2]
    assert ax.texts[0].get_text() == "Left out of 5 cities: 2 of unknown or no population"


@pytest.mark.parametrize("populations", [[5], [5, 4], [5, 5, 5]])
def test_no_fit_without_a_slope(populations: list[int]) -> None:
    ax = drawn("rank_size", pd.DataFrame({"population": populations}))
    assert legend(ax) == ["cities", "no fit without three cities of different populations"]


# The map.


def test_areas_are_in_proportion_and_the_largest_is_drawn_first() -> None:
    ax = drawn("map", made(4, population=[10_000, 40_000, 80_000, None]))
    [points] = ax.collections
    sizes = points.get_sizes()  # type: ignore[attr-defined]
    assert sizes[0] / sizes[1] == pytest.approx(2)
    assert sizes[1] / sizes[2] == pytest.approx(4)
    assert 0 < sizes[3] < 1
    assert np.asarray(points.get_offsets())[:, 1] == pytest.approx([10.75, 10.5, 10.25, 11])
    assert legend(ax) == ["50 k", "10 k", "2 k"]


def test_cities_without_coordinates_are_left_out_and_counted() -> None:
    ax = drawn("map", made(3, latitude=[1.0, None, 2.0], longitude=[1.0, 1.0, None]))
    assert len(ax.collections[0].get_offsets()) == 1  # type: ignore[arg-type]
    assert ax.texts[0].get_text() == "Left out of 3 cities: 2 without coordinates"


def test_cities_on_both_sides_of_the_antimeridian_stay_together() -> None:
    ax = drawn("map", made(3, longitude=[178.0, -179.0, 180.0]))
    west, east = ax.get_xlim()
    assert east - west < 5
    assert {"179°E", "180°", "179°W"} <= {label.get_text() for label in ax.get_xticklabels()}


@pytest.mark.slow
def test_the_whole_world_is_drawn_whole_and_true_to_scale_in_the_middle() -> None:
    ax = drawn("map", made(3, longitude=[-130.0, 0.0, 120.0], latitude=[-40.0, 0.0, 70.0]))
    assert ax.get_xlim() == (-180, 180)
    assert {"180°", "0°", "120°W"} <= {label.get_text() for label in ax.get_xticklabels()}
    south, north = ax.get_ylim()
    assert ax.get_aspect() == pytest.approx(1 / math.cos(math.radians((south + north) / 2)))


@pytest.mark.parametrize("span", [0.0, 2.0, 60.0])
def test_the_legend_and_the_notes_are_within_the_figure_and_below_the_map(span: float) -> None:
    frame = made(8, longitude=np.linspace(0, 100, 8), latitude=[None, *np.linspace(0, span, 7)])
    frame.attrs["source"] = "me"
    ax = citykit.plot_map(frame)
    ax.figure.canvas.draw()
    found = ax.get_legend()
    assert found is not None
    note, box = ax.texts[0].get_window_extent(), found.get_window_extent()
    assert 0 < note.y0 < note.y1 < box.y0 < box.y1 < ax.get_window_extent().y0


def test_styles_go_to_the_dots_and_follow_the_rows() -> None:
    frame = made(3).iloc[::-1]
    ax = drawn("map", frame, c=frame["population"], s=9, marker="^")
    assert list(ax.collections[0].get_array()) == [1_000_000, 500_000, 333_333]  # type: ignore[arg-type]
    assert list(ax.collections[0].get_sizes()) == [9]  # type: ignore[attr-defined]
    assert legend(ax) == []
    drawn("map", frame, marker="x", color="red", lw=1)


@pytest.mark.slow
def test_a_map_of_many_cities_in_svg_is_small(tmp_path: Any) -> None:
    ax = citykit.plot_map(made(50_000))
    ax.figure.savefig(tmp_path / "map.svg")  # type: ignore[union-attr]
    assert (tmp_path / "map.svg").stat().st_size < 500_000


def land(ax: Axes) -> list[Any]:
    return [each for each in ax.get_children() if each.get_zorder() == 0.4]


def test_land_is_below_the_dots_and_the_graticule() -> None:
    ax = drawn("map", made(3, longitude=[-130.0, 0.0, 120.0], latitude=[-40.0, 0.0, 70.0]))
    area, coast = land(ax)
    [dots] = ax.collections
    assert max(area.get_zorder(), coast.get_zorder()) < ax.xaxis.get_zorder() < dots.get_zorder()
    assert ax.get_xlim() == (-180, 180)  # the land does not widen the map


PLACES = {  # south, north, west, east, in degrees
    "the world": (-55, 70, -170, 170),
    "across the antimeridian": (-45, -10, 165, -165),
    "Europe": (36, 60, -10, 30),
    "the north pole": (75, 90, -180, 180),
    "the south pole": (-90, -65, -180, 180),
    "an ocean": (-45, -40, -120, -110),
}


@pytest.mark.parametrize("place", PLACES)
def test_land_is_cut_at_the_limits_and_has_no_edge_along_the_antimeridian(place: str) -> None:
    south, north, west, east = PLACES[place]
    frame = made(4, latitude=[south, south, north, north], longitude=[west, east, west, east])
    ax = drawn("map", frame)
    (x0, x1), (y0, y1) = ax.get_xlim(), ax.get_ylim()
    area, coast = land(ax)
    points = area.get_path().vertices
    assert (place == "an ocean") == (len(points) == 0) == (len(coast.get_path().vertices) == 0)
    if place == "an ocean":
        return
    assert points[:, 0].min() >= x0 - 1e-9 <= x1 + 1e-9 >= points[:, 0].max()
    assert points[:, 1].min() >= y0 - 1e-9 <= y1 + 1e-9 >= points[:, 1].max()
    for line in coast.get_path().to_polygons(closed_only=False):
        step = np.abs(np.diff(line, axis=0))
        assert step[:, 0].max() < 20  # no line around the world
        assert line[:, 1].min() > -90


@pytest.mark.parametrize("first", [9.0, 1.0])
def test_land_is_drawn_once_and_anew_for_wider_limits(first: float) -> None:
    ax = drawn("map", made(3, longitude=[0.0, 1.0, first], latitude=[40.0, 41.0, 41.0]))
    before = land(ax)
    drawn("map", made(3, longitude=[100.0, 1.0, 9.0], latitude=[40.0, 41.0, 50.0]), ax=ax)
    assert len(land(ax)) == len(before) == 2
    assert not set(land(ax)) & set(before)
    assert len(land(ax)[0].get_path().vertices) > 100


def test_land_is_not_drawn_over_a_map_of_the_caller_nor_on_one_of_a_city() -> None:
    ax = Figure().subplots()
    ax.plot([0, 10], [40, 50])
    assert land(drawn("map", made(3, longitude=[0.0, 1.0, 9.0], latitude=[40.0, 41.0, 50.0]), ax=ax)) == []
    area, coast = land(drawn("map", made(3)))
    assert len(area.get_path().vertices) == len(coast.get_path().vertices) == 0


def test_the_outlines_are_those_of_the_world() -> None:
    """Areas as on a plate carrée, in square degrees; London and Sydney are on land, oceans are not."""

    def inside(longitude: float, latitude: float) -> bool:
        count = 0
        for ring in rings():
            for (x0, y0), (x1, y1) in itertools.pairwise(ring):
                if (y0 > latitude) != (y1 > latitude):
                    count += longitude < x0 + (latitude - y0) / (y1 - y0) * (x1 - x0)
        return count % 2 == 1

    assert all(np.array_equal(ring[0], ring[-1]) for ring in rings())
    assert all(inside(*place) for place in [(-1, 52), (147, -33), (-100, 40), (100, 60), (0, -89)])
    assert not any(inside(*place) for place in [(-30, 40), (80, -30), (-150, 10), (51, 42), (0, 89.9)])


@pytest.mark.slow
def test_the_largest_cities_are_named_without_overlaps_at_every_size() -> None:
    frame = citykit.world_cities(1_000_000)
    for size in ((1.5, 1), (4, 3), (9, 5), (20, 12)):
        ax = drawn("map", frame, ax=Figure(figsize=size).subplots())
        boxes = [text.get_window_extent() for text in named(ax)]
        assert_apart(boxes)
        box = ax.get_window_extent()
        assert all(box.contains(each.x0, each.y0) and box.contains(each.x1, each.y1) for each in boxes)
        if size == (9, 5):
            assert names(ax)[0] == "Shanghai"
            assert 8 <= len(boxes) <= 30
        assert len(boxes) <= 60


@pytest.mark.slow
def test_names_have_room_after_the_limits_change_and_on_twice_used_axes() -> None:
    frame = citykit.world_cities(3_000_000)
    ax = drawn("map", frame.head(60))
    few = names(ax)
    ax.set(xlim=(100, 125), ylim=(20, 45))
    ax.figure.canvas.draw()
    assert "Shanghai" in names(ax)
    assert set(names(ax)) - set(few)
    twice = drawn("map", frame.head(30))
    CHARTS["map"](frame.iloc[30:60], ax=twice)
    twice.figure.canvas.draw()
    texts = [each.findobj(Text) for each in twice.get_children() if type(each).__name__ == "_Names"]
    assert_apart([text.get_window_extent() for part in texts for text in part if text.get_visible()])


def test_a_map_without_names_has_none_and_missing_names_are_left_out() -> None:
    ax = drawn("map", made(9).drop(columns="name"))
    assert not [each for each in ax.get_children() if type(each).__name__ == "_Names"]
    assert names(drawn("map", made(2, name=[None, "b"]))) == ["b"]
    assert names(drawn("map", made(0))) == []
