from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
import pytest
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import citykit


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


def test_it_draws_where_it_is_told_and_shows_nothing(three_cities: pd.DataFrame) -> None:
    ax = Figure().subplots()
    assert citykit.plot_biggest(three_cities, ax=ax) is ax
    assert pyplot.get_fignums() == []


def test_the_frame_is_not_changed(three_cities: pd.DataFrame) -> None:
    before = three_cities.copy(deep=True)
    citykit.plot_biggest(three_cities)
    pd.testing.assert_frame_equal(three_cities, before)


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
    assert [text.get_text() for text in ax.texts] == ["3", "1"]


def test_drawing_twice_on_the_same_axes_keeps_the_largest_on_top(three_cities: pd.DataFrame) -> None:
    ax = citykit.plot_biggest(three_cities)
    citykit.plot_biggest(three_cities, ax=ax)
    low, high = ax.get_ylim()
    assert low > high


def test_a_name_is_no_formula() -> None:
    ax = citykit.plot_biggest(pd.DataFrame({"name": [r"$\frac$", "a_b^c"], "population": [2, 1]}))
    ax.figure.canvas.draw()
    assert labels(ax)[1] == "a_b^c"


def test_a_frame_that_is_none_of_ours() -> None:
    with pytest.raises(ValueError, match="no column 'name', 'population' to draw"):
        citykit.plot_biggest(pd.DataFrame({"a": [1]}))
