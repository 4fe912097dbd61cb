"""Other names of cities: stored with them, and found by them."""

from __future__ import annotations

import asyncio
import unicodedata
from collections.abc import AsyncIterator, Iterator
from typing import Any, get_args

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

import citykit
from citykit.cities.search import find_other_statement, letters_of, part_statement
from tests.cities.test_store import VALUES, Model, Policy
from tests.support.database import scalar, stored

COLUMNS = ["name", "country", "region", "population", "latitude", "longitude", "matched"]
DTYPES = ["str", "str", "str", "int64", "float64", "float64", "str"]


async def names_stored(engine: AsyncEngine) -> dict[tuple[str, ...], list[str]]:
    """The other names of the cities that are stored, by their keys."""
    sql = (
        "SELECT name, country, region, other_names FROM cities JOIN city_names USING (name, country, region)"
    )
    async with engine.connect() as connection:
        return {tuple(row[:3]): row[3] for row in await connection.execute(text(sql))}


async def found(bind: citykit.Bind, part: str, n: int = 20, **where: Any) -> list[tuple[str, str]]:
    frame = await citykit.find_cities(bind, part, n, **where)
    assert frame.columns.tolist() == COLUMNS
    assert [str(dtype) for dtype in frame.dtypes] == DTYPES
    return list(zip(frame["name"], frame["matched"], strict=True))


# Found by them


@pytest.fixture(params=[True, False], ids=["with the indexes", "without the indexes"])
async def large_cities(
    request: pytest.FixtureRequest, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> AsyncEngine:
    if request.param:
        monkeypatch.setattr("citykit.cities.search._LARGE_BYTES", 0)
    await citykit.load_cities(engine, citykit.world_cities(900_000))
    return engine


KNOWN_AS = [
    ("Wien", "Vienna", "Wien"),
    ("WIEN", "Vienna", "Wien"),
    ("München", "Munich", "München"),
    ("mu\u0308nchen", "Munich", "Munchen"),
    ("Napoli", "Naples", "Napoli"),
    ("bombay", "Mumbai", "Bombay"),
    ("Kiev", "Kyiv", "Kiev"),
    ("Peking", "Beijing", "Peking"),
    ("nyc", "New York City", "NYC"),
    ("東京", "Tokyo", "東京"),
    ("МОСКВА", "Moscow", "Москва"),  # noqa: RUF001
    ("القاهرة", "Cairo", "القاهرة"),
    ("İSTANBUL", "Istanbul", "Istanbul"),
]


async def test_a_city_is_found_by_the_name_that_people_know(large_cities: AsyncEngine) -> None:
    if await scalar(large_cities, "SHOW server_encoding") != "UTF8":
        pytest.skip("the encoding has no such names; without CITYKIT_TEST_URL it does: pytest")
    for part, name, matched in KNOWN_AS:
        first, how = (await found(large_cities, part))[0]
        assert first == name, part
        assert unicodedata.normalize("NFC", how) == unicodedata.normalize("NFC", matched), part


def folded(name: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKD", name.lower()) if not unicodedata.combining(c))


def ranked(name: str, part: str) -> int:
    """0: it is the part. 1: it begins with it. 2: it contains it. 3: it does not."""
    name, part = folded(name), folded(part)
    return 0 if name == part else 1 if name.startswith(part) else 2 if part in name else 3


LOWER = str.maketrans("AB", "ab")
LETTERS = st.text("abÄя1%_\\ '", min_size=1, max_size=4)
CITIES = st.lists(
    st.tuples(LETTERS, st.sampled_from(["", "X"]), st.integers(0, 3), st.lists(LETTERS, max_size=4)),
    max_size=8,
    unique_by=lambda city: city[:2],
)


QUESTIONS = st.lists(
    st.tuples(LETTERS.filter(str.strip), st.integers(1, 6), st.sampled_from([None, "X"])),
    min_size=1, max_size=6,
)  # fmt: skip


@settings(max_examples=30)
@example([("1", "", 0, ["a1", "aÄ"])], [("Ä", 1, None)])
@given(CITIES, QUESTIONS)
async def test_exact_comes_before_beginning_before_part_whichever_name_it_is(
    engine: AsyncEngine,
    cities: list[tuple[str, str, int, list[str]]],
    questions: list[tuple[str, int, str | None]],
) -> None:
    if await scalar(engine, "SHOW server_encoding") != "UTF8":
        pytest.skip("the encoding has no such names; without CITYKIT_TEST_URL it does: pytest")
    async with engine.begin() as connection:
        await connection.execute(text("TRUNCATE cities, city_names"))
    frame = pd.DataFrame(cities, columns=["name", "country", "population", "other_names"])
    await citykit.load_cities(engine, frame.astype({"other_names": object}))
    for asked, n, country in questions:
        expected, part = [], asked.strip()
        for name, where, population, others in cities:
            every = [name, *others]
            ranks = [ranked(each, part) for each in every]
            if min(ranks) < 3 and country in (None, where):
                best = [each for each, rank in zip(every, ranks, strict=True) if rank == min(ranks)]
                if name != best[0]:  # of the other names, one that is spelled alike
                    best.sort(key=lambda each: part.translate(LOWER) not in each.translate(LOWER))
                expected.append((min(ranks), -population, name, where, best[0]))
        answer = await citykit.find_cities(engine, asked, n, country=country)
        got = list(zip(answer["name"], answer["country"], answer["matched"], strict=True))
        assert got == [(name, where, matched) for _, _, name, where, matched in sorted(expected)[:n]]


def many(count: int) -> pd.DataFrame:
    """Cities with two other names each, which of 30 in 60 begin alike."""
    frame = pd.DataFrame({"name": [f"city {i}" for i in range(count)], "population": range(count)})
    return named(frame, *([f"Ort {i}", f"Sankt {i}" if i % 60 < 30 else f"город {i}"] for i in range(count)))


def named(frame: pd.DataFrame, *names: Any) -> pd.DataFrame:
    """Give each row its list of other names."""
    return frame.assign(other_names=pd.Series(list(names), index=frame.index, dtype=object))


async def test_an_index_answers_for_other_names_and_nothing_scans_them(engine: AsyncEngine) -> None:
    await citykit.load_cities(engine, many(20_000))
    assert await found(engine, "ort 12345") == [("city 12345", "Ort 12345")]
    assert await scalar(engine, "SELECT to_regclass('city_names_by_name') IS NOT NULL")
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(text("VACUUM ANALYZE cities, city_names"))
        for part in ("ort 12345", "sankt 1234", "x7", "qwert", "город 7777"):
            values = tuple((await connection.exec_driver_sql(part_statement("UTF8"), (part,))).one())
            sql = f"EXPLAIN ANALYZE {find_other_statement('UTF8', letters_of(values[2]))}"
            args = (values[2], 20, values[1], part)
            rows = [row[0] for row in await connection.exec_driver_sql(sql, args)]
            scans = [row for row in rows if "Seq Scan" in row and "never executed" not in row]
            assert not scans, (part, rows)


async def test_of_many_that_match_the_largest_are_found(engine: AsyncEngine) -> None:
    frame = many(6_000)
    frame.loc[[5, 17], "other_names"] = pd.Series([["SANKT", "x"], ["y", "Neu-Sankt"]], index=[5, 17])
    await citykit.load_cities(engine, frame.sample(frac=1, random_state=1))
    begun = [("city 5969", "Sankt 5969"), ("city 5968", "Sankt 5968"), ("city 5967", "Sankt 5967")]
    assert await found(engine, "sankt", 3) == [("city 5", "SANKT"), *begun[:2]]
    assert await found(engine, "sa", 3) == begun
    assert await found(engine, "ankt", 3) == begun
    every = await found(engine, "sankt", 6_000)
    assert (len(every), every[-1]) == (3_000, ("city 17", "Neu-Sankt"))


async def test_one_country_alone_is_searched(engine: AsyncEngine) -> None:
    rows = [("Vienna", "AT", 5, ["Wien"]), ("Vienna", "US", 1, ["Wien"]), ("Wiener Neustadt", "AT", 2, None)]
    frame = pd.DataFrame(rows, columns=["name", "country", "population", "other_names"])
    await citykit.load_cities(engine, frame)
    assert await found(engine, "wien", country="US") == [("Vienna", "Wien")]
    assert await found(engine, "wien", country="AT") == [
        ("Vienna", "Wien"), ("Wiener Neustadt", "Wiener Neustadt"),
    ]  # fmt: skip
    for country, error in ((5, TypeError), ("\0", ValueError)):
        with pytest.raises(error, match="country"):
            await found(engine, "wien", country=country)


# Stored with the cities


class NamesModel(Model):
    """The rule in plain Python, for rows that have other names as well."""

    def add(self, row: dict[str, Any], policy: Policy) -> None:
        super().add({**row, "other_names": row["other_names"] or []} if "other_names" in row else row, policy)
        for each in self.rows.values():
            each.setdefault("other_names", [])


@st.composite
def loads(draw: st.DrawFn) -> list[dict[str, Any]]:
    optional = draw(
        st.lists(st.sampled_from(["country", "latitude", "other_names", "other_names"]), unique=True)
    )
    values = {**VALUES, "other_names": st.sampled_from([None, [], ["x"], ["x", "y"]])}
    row = {name: values[name] for name in ("name", "population", *optional)}
    return draw(st.lists(st.fixed_dictionaries(row), min_size=1, max_size=8))


STEPS = st.lists(st.tuples(loads(), st.sampled_from(get_args(Policy)), st.booleans()), min_size=1, max_size=4)


@settings(max_examples=50)
@given(STEPS)
async def test_loading_with_other_names_equals_adding_the_rows_one_by_one(
    engine: AsyncEngine, steps: list[tuple[list[dict[str, Any]], Policy, bool]]
) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("TRUNCATE cities, city_names"))
    model = NamesModel()
    for rows, policy, streamed in steps:
        after = NamesModel(model.rows)
        for row in rows:
            after.add(row, policy)
        frame = pd.DataFrame(rows)
        source: Any = iter([frame[:3], frame[3:]]) if streamed else frame
        if after.duplicates:
            with pytest.raises(citykit.DuplicateCityError):
                await citykit.load_cities(engine, source, on_conflict=policy)
        else:
            report = await citykit.load_cities(engine, source, on_conflict=policy)
            assert {word: getattr(report, word) for word in after.counts} == after.counts
            model = after
        names = {key: row.pop("other_names") for key, row in NamesModel(model.rows).rows.items()}
        assert await names_stored(engine) == {key: value for key, value in names.items() if value}
        rest = {
            key: tuple(v for n, v in row.items() if n != "other_names") for key, row in model.rows.items()
        }
        assert await stored(engine) == rest


@pytest.mark.parametrize("policy", get_args(Policy))
async def test_a_large_load_of_other_names_is_one_of_a_few(engine: AsyncEngine, policy: Policy) -> None:
    frame = many(30_000)
    assert (await citykit.load_cities(engine, frame)).inserted == 30_000
    await found(engine, "sankt")  # makes the index
    changed = named(frame[::2], *[["neu"]] * 15_000)
    changed.loc[changed.index % 4 == 0, "population"] = 7
    changed.loc[4, "population"] = 4
    if policy == "error":
        with pytest.raises(citykit.DuplicateCityError):
            await citykit.load_cities(engine, changed)
        assert len(await found(engine, "sankt", 20)) == 20  # the index is there again
    else:
        report = await citykit.load_cities(engine, changed, on_conflict=policy)
        assert report.updated == (15_000 if policy == "update" else 0)
        assert report.inserted == 0
    names = await names_stored(engine)
    assert len(names) == 30_000
    assert list(names.values()).count(["neu"]) == (15_000 if policy == "update" else 0)
    assert len(await found(engine, "neu", 20)) == (20 if policy == "update" else 0)


async def test_names_of_a_city_that_is_gone_are_not_those_of_a_new_one(engine: AsyncEngine) -> None:
    frame = named(pd.DataFrame({"name": ["a", "b", "c"], "population": 1}), ["x"], ["y"], ["z"])
    await citykit.load_cities(engine, frame)
    async with engine.begin() as connection:
        await connection.execute(text("DELETE FROM cities"))
    assert await found(engine, "x") == []
    for policy in get_args(Policy):
        new = named(frame, ["new"], [], None)
        assert (await citykit.load_cities(engine, new, on_conflict=policy)).inserted == 3
        assert await names_stored(engine) == {("a", "", ""): ["new"]}
        async with engine.begin() as connection:
            await connection.execute(text("DELETE FROM cities"))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("Wien", 'not a list such as ["a", "b"]'), (5, "not a list"), (["Wien", None], "element 1 missing"),
        (["Wien", ""], "element 1 empty"), (["x" * 401], "element 0 longer than 400 characters"),
        (["W\0en"], "element 0 with a NUL character"), (["\ud800"], "element 0 with a lone surrogate"),
        ([5], "element 0 not text"), ([["Wien"]], "element 0 not text"),
    ],
)  # fmt: skip
async def test_a_bad_list_of_other_names_is_a_reject_of_its_row(
    engine: AsyncEngine, value: Any, reason: str
) -> None:
    frame = pd.DataFrame({"name": ["a", "b"], "population": 1, "other_names": [["x"], value]}, index=[7, 8])
    with pytest.raises(citykit.InvalidFrameError, match=r"row label 8[^\n]*nothing was loaded") as caught:
        await citykit.load_cities(engine, frame)
    assert caught.value.rejects[["row", "column"]].to_numpy().tolist() == [[8, "other_names"]]
    assert caught.value.rejects["reason"][0].startswith(reason)
    assert await stored(engine) == {}
    with pytest.raises(citykit.InvalidFrameError, match="other_names"):
        await citykit.add_city(engine, "b", 1, other_names=value)
    report = await citykit.load_cities(engine, frame, on_invalid="skip")
    assert (report.inserted, len(report.rejects)) == (1, 1)
    assert await names_stored(engine) == {("a", "", ""): ["x"]}


async def test_names_of_a_row_that_the_server_refuses_are_not_stored(engine: AsyncEngine) -> None:
    await citykit.add_city(engine, "b", 1, other_names=["old"])
    async with engine.begin() as connection:
        await connection.execute(text("ALTER TABLE cities ADD CHECK (population <> 13)"))
    frame = pd.DataFrame({"name": ["a", "b"], "population": [1, 13], "other_names": [["x"], ["new"]]})
    for policy in ("update", "skip"):
        report = await citykit.load_cities(engine, frame, on_conflict=policy, on_invalid="skip")
        assert len(report.rejects) == 1
        assert await names_stored(engine) == {("a", "", ""): ["x"], ("b", "", ""): ["old"]}


async def test_names_are_stored_from_arrow_and_streams(engine: AsyncEngine) -> None:
    table = pa.table({"name": ["a", "b"], "population": [1, 2], "other_names": [["x"], None]})

    async def batches() -> AsyncIterator[pa.RecordBatch]:
        for batch in table.to_batches(max_chunksize=1):
            yield batch

    def chunks() -> Iterator[pa.Table]:
        yield from (table[:1], table[1:])

    sources: list[Any] = [table, table.to_reader(), batches(), chunks(), table.to_pandas()]
    for source in sources:
        await citykit.create_tables(engine, reset=True)
        assert (await citykit.load_cities(engine, source)).inserted == 2
        assert await names_stored(engine) == {("a", "", ""): ["x"]}


async def test_other_names_are_in_the_transaction_of_their_city(engine: AsyncEngine) -> None:
    frame = named(pd.DataFrame({"name": ["a"], "population": 1}), ["x"])
    async with AsyncSession(engine) as session, engine.connect() as connection:
        for bind in (session, connection):
            await citykit.load_cities(bind, frame)
            await citykit.add_city(bind, "b", 1, other_names=("y", "z"))
            await citykit.load_cities(bind, named(frame, ["w"]), on_conflict="update")
            assert await found(bind, "w") == [("a", "w")]
            assert await found(bind, "z") == [("b", "z")]
            await bind.rollback()
    assert await scalar(engine, "SELECT count(*) FROM city_names") == 0
    both = pd.concat([frame, named(frame, ["y"])])
    with pytest.raises(citykit.DuplicateCityError):
        await citykit.load_cities(engine, both)
    assert await scalar(engine, "SELECT count(*) FROM city_names") == 0


@pytest.mark.parametrize("policy", ["skip", "update"])
async def test_a_load_beside_one_that_writes_the_same_city_is_as_if_it_came_after_it(
    engine: AsyncEngine, policy: Policy
) -> None:
    first, second = (
        pd.DataFrame({"name": ["Vienna"], "population": [2], "other_names": [[name]]})
        for name in ("Bécs", "Wien")
    )
    async with engine.begin() as connection:
        await citykit.load_cities(connection, first)
        load = asyncio.ensure_future(citykit.load_cities(engine, second, on_conflict=policy))
        await asyncio.sleep(3)  # longer than any wait that is given up silently
    await load
    names = {"skip": ["Bécs"], "update": ["Wien"]}[policy]
    assert await names_stored(engine) == {("Vienna", "", ""): names}


async def test_a_load_without_other_names_does_nothing_about_them(engine: AsyncEngine) -> None:
    statements: list[str] = []
    event.listen(engine.sync_engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    frame = pd.DataFrame({"name": [f"city {i}" for i in range(30_000)], "population": 1})
    for policy in get_args(Policy):
        await citykit.load_cities(engine, frame[20_000 if policy == "error" else 0 :], on_conflict=policy)
    assert statements
    assert not [sql for sql in statements if "city_names" in sql or "other_names" in sql]


async def test_adding_a_city_with_other_names(engine: AsyncEngine) -> None:
    city = await citykit.add_city(engine, "Vienna", 1, country="AT", other_names=["Wien", "Bécs"])
    assert city.name == "Vienna"
    assert await found(engine, "becs") == [("Vienna", "Bécs")]


# A database of an earlier version


async def test_without_the_table_of_other_names_all_else_works(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("DROP TABLE city_names"))
    frame = pd.DataFrame({"name": ["Vienna"], "population": 1})
    munich = named(frame.assign(name="Munich"), ["München"])
    assert (await citykit.load_cities(engine, frame)).inserted == 1
    await citykit.add_city(engine, "Cairo", 1)
    assert await found(engine, "vien") == [("Vienna", "Vienna")]
    for storing in (
        citykit.load_cities(engine, munich),
        citykit.add_city(engine, "Munich", 1, other_names=["München"]),
    ):
        with pytest.raises(citykit.MissingTableError, match=r"city_names.*create_tables"):
            await storing
    assert len(await stored(engine)) == 2
    await citykit.create_tables(engine)
    assert (await citykit.load_cities(engine, munich)).inserted == 1
    assert await found(engine, "münch") == [("Munich", "München")]
    assert len(await stored(engine)) == 3


async def test_a_role_that_may_not_read_the_other_names_finds_by_names(engine: AsyncEngine) -> None:
    await citykit.add_city(engine, "Vienna", 1, other_names=["Wien"])
    async with engine.begin() as connection:
        for sql in ("DROP ROLE IF EXISTS reader", "CREATE ROLE reader", "GRANT SELECT ON cities TO reader"):
            await connection.execute(text(sql))
    reader = await citykit.connect(engine.url, connect_args={"server_settings": {"role": "reader"}})
    try:
        assert await found(reader, "vienna") == [("Vienna", "Vienna")]
        assert await found(reader, "wien") == []
    finally:
        await reader.dispose()
        async with engine.begin() as connection:
            await connection.execute(text("DROP OWNED BY reader"))
            await connection.execute(text("DROP ROLE reader"))


# Countries that no city has


@pytest.mark.parametrize(
    ("country", "stored_as", "said"),
    [
        ("us", "US", "did you mean 'US'"), ("UK", "GB", "did you mean 'GB'"),
        ("Germany", "DE", "did you mean 'DE'"), ("deu", "DE", "did you mean 'DE'"),
        ("USA", "US", "did you mean 'US'"), ("IS", "Iceland", "did you mean 'Iceland'"),
        ("iceland", "Iceland", "did you mean 'Iceland'"), ("Icelnd", "Iceland", "did you mean 'Iceland'"),
        ("ZZ", "US", r"citykit.world_countries\(\)"),
    ],
)  # fmt: skip
async def test_a_country_that_no_city_has_is_answered_with_the_one_that_was_meant(
    engine: AsyncEngine, country: str, stored_as: str, said: str
) -> None:
    await citykit.add_city(engine, "a", 1, country=stored_as)
    for asked in (
        citykit.biggest_cities(engine, country=country),
        citykit.find_cities(engine, "a", country=country),
    ):
        with pytest.warns(UserWarning, match=f"no city has country '{country}': {said}") as warned:
            frame = await asked
        assert frame.empty
        assert warned[0].filename == __file__


async def test_a_country_is_taken_as_it_is_stored(engine: AsyncEngine) -> None:
    assert (await citykit.biggest_cities(engine, country="us")).empty  # no city has any
    await citykit.add_city(engine, "a", 1, country="us", region="r")
    await citykit.add_city(engine, "a", 1, country="US")
    assert len(await citykit.biggest_cities(engine, country="us")) == 1
    assert (await citykit.biggest_cities(engine, country="us", region="s")).empty
    assert (await citykit.find_cities(engine, "b", country="us")).empty
    assert (await citykit.biggest_cities(engine, country="AQ")).empty  # a country without cities
