"""What a role without some right can load, and which right the error names."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from typing import Any

import pandas as pd
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

import citykit
from citykit.load.loading import load_rows
from citykit.load.plan import Limits

TABLE = sa.Table(
    "t",
    sa.MetaData(schema="guarded"),
    sa.Column("k", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("v", sa.Integer),
)
TEXTS = sa.Table(
    "t", sa.MetaData(schema="guarded"), sa.Column("k", sa.Integer, primary_key=True), sa.Column("v", sa.Text)
)
SETUP = (
    "DROP SCHEMA IF EXISTS guarded CASCADE",
    "DO $$ BEGIN CREATE ROLE citykit_guest; EXCEPTION WHEN duplicate_object THEN NULL; END $$",
    "CREATE SCHEMA guarded",
    "CREATE TABLE guarded.t (k int PRIMARY KEY, v int)",
    "INSERT INTO guarded.t VALUES (1, 1)",
    "GRANT USAGE ON SCHEMA guarded TO citykit_guest",
)
LIMITS = {
    "few": Limits(math.inf, math.inf),
    "large": Limits(0, math.inf),
    "rebuilt": Limits(0, 0),
}
NEW = pd.DataFrame({"k": [2, 3], "v": [1, 9]})
STORED = pd.DataFrame({"k": [2, 1], "v": [1, 9]})
ROW = "ALTER TABLE guarded.t ENABLE ROW LEVEL SECURITY"
POLICY = "CREATE POLICY small ON guarded.t USING (true) WITH CHECK (v < 9)"


@pytest.fixture(params=LIMITS)
def limits(request: pytest.FixtureRequest) -> Limits:
    return LIMITS[request.param]


@pytest.fixture
async def connection(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A transaction that is rolled back, with all that is granted in it."""
    async with engine.connect() as connection:
        for statement in SETUP:
            await connection.exec_driver_sql(statement)
        yield connection
        await connection.rollback()


async def load(
    connection: AsyncConnection, limits: Limits, frame: Any, grants: tuple[str, ...], **options: Any
) -> Any:
    for statement in (*grants, "SET LOCAL ROLE citykit_guest"):
        await connection.exec_driver_sql(statement)
    options = {"table": TABLE, "on_conflict": "error", "on_invalid": "error", "key": "k", **options}
    try:
        return await load_rows(connection, frame, limits=limits, **options)
    finally:
        await connection.exec_driver_sql("RESET ROLE")


async def test_without_temporary_tables_rows_are_loaded_or_the_right_is_named(
    connection: AsyncConnection, limits: Limits
) -> None:
    database = await connection.scalar(sa.text("SELECT quote_ident(current_database())"))
    grant = f"GRANT TEMPORARY ON DATABASE {database} TO citykit_guest"
    grants = (
        f"REVOKE TEMPORARY ON DATABASE {database} FROM PUBLIC",
        "GRANT ALL ON guarded.t TO citykit_guest",
    )
    assert (await load(connection, limits, NEW, grants)).inserted == 2
    with pytest.raises(citykit.DuplicateKeyError) as caught:
        await load(connection, limits, STORED, ())
    assert caught.value.keys == [(2,), (1,)]
    with pytest.raises(citykit.DuplicateKeyError) as repeated:
        await load(connection, limits, pd.concat([NEW, NEW[1:]]).assign(k=[5, 6, 6]), ())
    assert repeated.value.keys == [(6,)]
    with pytest.raises(citykit.DuplicateKeyError) as streamed:
        await load(connection, limits, iter([STORED]), ())
    assert grant in str(streamed.value)
    for policy in ("skip", "update"):
        with pytest.raises(citykit.CitykitError) as refused:
            await load(connection, limits, NEW, (), on_conflict=policy)
        assert grant in str(refused.value)
    # What the error says works when it is typed.
    assert (await load(connection, limits, NEW, (grant,), on_conflict="skip")).skipped == 2


@pytest.mark.parametrize("rights", ["INSERT", "INSERT (k, v)"])
async def test_the_right_to_insert_is_enough_for_new_rows(
    connection: AsyncConnection, limits: Limits, rights: str
) -> None:
    assert (
        await load(connection, limits, NEW, (f"GRANT {rights} ON guarded.t TO citykit_guest",))
    ).inserted == 2
    with pytest.raises(citykit.DuplicateKeyError, match="t_pkey"):
        await load(connection, limits, STORED, ())


@pytest.mark.parametrize("policy", ["skip", "update"])
async def test_rights_on_columns_are_enough(connection: AsyncConnection, limits: Limits, policy: str) -> None:
    grants = ("GRANT INSERT (k, v), SELECT (k, v), UPDATE (v) ON guarded.t TO citykit_guest",)
    report = await load(connection, limits, STORED, grants, on_conflict=policy)
    updated = int(policy == "update")
    assert (report.inserted, report.updated, report.skipped) == (1, updated, 1 - updated)


async def test_an_owner_who_may_not_create_in_the_schema_loads(
    connection: AsyncConnection, limits: Limits
) -> None:
    grants = ("ALTER TABLE guarded.t OWNER TO citykit_guest",)
    for policy in ("error", "update"):
        report = await load(connection, limits, NEW, grants, on_conflict=policy)
        assert report.inserted + report.skipped == 2


async def test_a_sequence_that_the_role_may_not_set_stays_as_it_was(
    connection: AsyncConnection, limits: Limits
) -> None:
    await connection.exec_driver_sql("ALTER TABLE guarded.t ALTER k ADD GENERATED BY DEFAULT AS IDENTITY")
    state = sa.text("SELECT last_value, is_called FROM guarded.t_k_seq")
    before = (await connection.execute(state)).one()
    assert (await load(connection, limits, NEW, ("GRANT ALL ON guarded.t TO citykit_guest",))).inserted == 2
    assert (await connection.execute(state)).one() == before


@pytest.mark.parametrize(
    ("state", "expected"),
    [("1, false", 4), ("2, true", 4), ("9, true", 10), ("9, false", 10)],
    ids=["unused", "behind", "ahead", "unused and ahead"],
)
async def test_a_sequence_that_the_role_may_use_and_set_goes_on_after_the_values(
    connection: AsyncConnection, limits: Limits, state: str, expected: int
) -> None:
    sequence = "guarded.t_k_seq"
    grants = (
        "ALTER TABLE guarded.t ALTER k ADD GENERATED BY DEFAULT AS IDENTITY",
        f"SELECT setval('{sequence}', {state})",
        "GRANT ALL ON guarded.t TO citykit_guest",
        f"GRANT USAGE, UPDATE ON SEQUENCE {sequence} TO citykit_guest",
    )
    assert (await load(connection, limits, NEW, grants)).inserted == 2
    assert await connection.scalar(sa.text(f"SELECT nextval('{sequence}')")) == expected


async def test_a_sequence_that_the_role_may_not_use_is_named(
    connection: AsyncConnection, limits: Limits
) -> None:
    grants = ("ALTER TABLE guarded.t ADD id serial", "GRANT ALL ON guarded.t TO citykit_guest")
    with pytest.raises(citykit.CitykitError, match="nothing was loaded") as caught:
        await load(connection, limits, NEW, grants)
    grant = str(caught.value).partition("Ask the owner for it: ")[2]
    assert grant == "GRANT USAGE ON SEQUENCE guarded.t_id_seq TO citykit_guest"
    # What the error says works when it is typed.
    assert (await load(connection, limits, NEW, (grant,))).inserted == 2


async def test_a_view_whose_owner_may_only_read_what_is_behind_it_is_loaded(
    connection: AsyncConnection, limits: Limits
) -> None:
    for statement in (
        "CREATE VIEW guarded.shown AS SELECT k, v FROM guarded.t",
        "ALTER VIEW guarded.shown OWNER TO citykit_guest",
        "GRANT SELECT ON guarded.t TO citykit_guest",
        "CREATE FUNCTION guarded.put() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS "
        "$$BEGIN INSERT INTO guarded.t VALUES (NEW.k, NEW.v); RETURN NEW; END$$",
        "CREATE TRIGGER put INSTEAD OF INSERT ON guarded.shown FOR EACH ROW EXECUTE FUNCTION guarded.put()",
    ):
        await connection.exec_driver_sql(statement)
    report = await load(connection, limits, NEW, (), table="guarded.shown", key=None)
    assert report.inserted == 2
    assert await connection.scalar(sa.text("SELECT count(*) FROM guarded.t")) == 3


async def test_a_row_that_a_policy_refuses_is_named(connection: AsyncConnection, limits: Limits) -> None:
    grants = (ROW, POLICY, "GRANT ALL ON guarded.t TO citykit_guest")
    with pytest.raises(citykit.InvalidFrameError, match="row-level security") as caught:
        await load(connection, limits, NEW, grants)
    assert caught.value.rejects["row"].tolist() == [1]
    assert (await load(connection, limits, NEW, (), on_invalid="skip")).inserted == 1


@pytest.mark.parametrize(
    ("made", "frame", "options", "said", "inserted"),
    [
        ((ROW, POLICY), NEW, {"on_invalid": "skip"}, "row-level security", 1),
        (
            ("CREATE UNIQUE INDEX ON guarded.t (v)",),
            pd.DataFrame({"k": [2, 3, 2], "v": [8, 9, 8]}),
            {"on_conflict": "update"},
            "depends on the order of the rows",
            2,
        ),
        (
            ("ALTER TABLE guarded.t ALTER v TYPE date USING NULL",),
            pd.DataFrame({"k": [2, 3], "v": ["2026-01-01", "soon"]}),
            {"on_invalid": "skip", "table": TEXTS},
            "invalid input syntax",
            1,
        ),
    ],
    ids=["to find refused rows", "to update unique values", "to find refused texts"],
)
async def test_the_right_to_use_a_function_of_plpgsql_is_named(
    connection: AsyncConnection,
    limits: Limits,
    made: tuple[str, ...],
    frame: pd.DataFrame,
    options: dict[str, Any],
    said: str,
    inserted: int,
) -> None:
    grant = "GRANT USAGE ON LANGUAGE plpgsql TO citykit_guest"
    grants = ("GRANT ALL ON guarded.t TO citykit_guest", "REVOKE USAGE ON LANGUAGE plpgsql FROM PUBLIC")
    with pytest.raises(citykit.CitykitError, match=said) as caught:
        await load(connection, limits, frame, (*made, *grants), **options)
    assert grant in str(caught.value)
    assert (await load(connection, limits, frame, (grant,), **options)).inserted == inserted


async def test_a_callers_deferred_constraints_stay_as_they_were(
    connection: AsyncConnection, limits: Limits
) -> None:
    for statement in (
        "CREATE TABLE guarded.p (id int PRIMARY KEY)",
        "DELETE FROM guarded.t",
        "ALTER TABLE guarded.t ADD CONSTRAINT late FOREIGN KEY (v) REFERENCES guarded.p "
        "DEFERRABLE INITIALLY DEFERRED",
        "INSERT INTO guarded.p VALUES (1)",
    ):
        await connection.exec_driver_sql(statement)
    grants = ("GRANT ALL ON ALL TABLES IN SCHEMA guarded TO citykit_guest",)
    with pytest.raises(citykit.InvalidFrameError) as caught:
        await load(connection, limits, NEW, grants)
    assert caught.value.rejects[["row", "column", "value"]].to_numpy().tolist() == [[1, "v", 9]]
    await connection.exec_driver_sql("INSERT INTO guarded.t VALUES (7, 7)")  # still deferred
    assert (await load(connection, limits, NEW, ())).inserted == 2  # and so is what the caller has begun
    await connection.exec_driver_sql("INSERT INTO guarded.p VALUES (7), (9)")
    await connection.exec_driver_sql("SET CONSTRAINTS ALL IMMEDIATE")
