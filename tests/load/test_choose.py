"""Which plan is chosen, from facts alone; no server."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from citykit.load.catalogue import Column, Facts, Mode
from citykit.load.plan import (
    FEW_ROWS,
    PLANS,
    Limits,
    Lock,
    Plan,
    Wanted,
    choose,
    first_lock,
)
from citykit.load.preconditions import missing_grants

PLAIN = Facts(columns={name: Column(name) for name in ("a", "b")}, keys={frozenset("a"): True})
MANY = Wanted(columns=("a", "b"), key=("a",), on_conflict="error", rows=FEW_ROWS)
BOTH = {frozenset("a"): True, frozenset("b"): True}
TOGETHER = {frozenset("a"): True, frozenset("ab"): True}
COMPUTED = {**PLAIN.columns, "g": Column("g", generated="b + 1")}
UPDATE = {"on_conflict": "update"}
ALONE: Mode = "SHARE ROW EXCLUSIVE"
BESIDE: Mode = "ROW EXCLUSIVE"


def granted(*rights: str) -> dict[str, Any]:
    return {"columns": {name: Column(name, granted=frozenset(rights)) for name in ("a", "b")}}


@pytest.mark.parametrize(
    ("facts", "wanted", "held", "empty", "expected"),
    [
        ({}, {}, ALONE, True, ["fill", "copy and rebuild", "copy", "join", "merge"]),
        ({}, {}, ALONE, False, ["copy and rebuild", "copy", "join", "merge"]),
        ({"rows": 10.0**6}, {}, ALONE, False, ["copy", "join", "merge"]),
        ({}, {"rows": 10}, ALONE, True, ["copy", "merge"]),
        ({"read_committed": False}, {}, ALONE, True, ["merge"]),
        (
            {"nulls_equal": frozenset([frozenset("a")])},
            {},
            ALONE,
            False,
            ["copy and rebuild", "copy", "merge"],
        ),
        ({}, UPDATE, ALONE, True, ["fill", "join", "merge"]),
        ({}, UPDATE, ALONE, False, ["join", "merge"]),
        ({"partly_unique": frozenset("b")}, UPDATE, ALONE, False, ["merge"]),
        ({"columns": COMPUTED, "partly_unique": frozenset("g")}, UPDATE, ALONE, False, ["merge"]),
        ({"keys": BOTH, "rewritten": True}, UPDATE | {"columns": ("a",)}, ALONE, False, ["merge"]),
        ({"keys": BOTH}, UPDATE, ALONE, True, ["fill", "merge"]),
        ({"keys": BOTH}, UPDATE | {"columns": ("a",)}, ALONE, False, ["join", "merge"]),
        ({"keys": BOTH}, {"on_conflict": "skip"}, ALONE, False, ["join", "merge"]),
        ({"keys": TOGETHER}, UPDATE, ALONE, False, ["join", "merge"]),
        ({}, {}, BESIDE, False, ["merge"]),
        ({}, {"rows": 10}, BESIDE, False, ["copy", "merge"]),
        ({}, {"rows": 10, "sortable": False}, BESIDE, False, ["merge"]),
        ({}, {"rows": 10, "on_conflict": "skip"}, BESIDE, False, ["merge"]),
        ({}, {"staged": True}, ALONE, True, ["join", "merge"]),
        ({}, {"staged": True, "rows": 10}, ALONE, True, ["merge"]),
        ({}, {"rows": None, "repeatable": False}, ALONE, True, ["fill", "join", "merge"]),
        ({"only_keys_refuse": False}, {"rows": None, "repeatable": False}, ALONE, True, ["join", "merge"]),
        ({"checks": frozenset("c")}, {"rows": None, "repeatable": False}, ALONE, True, ["join", "merge"]),
        ({"rebuildable": False}, {}, ALONE, True, ["copy", "join", "merge"]),
        ({"truncatable": False}, {}, ALONE, True, ["copy and rebuild", "copy", "join", "merge"]),
        ({"deferrable": True}, {"callers": True}, ALONE, True, ["copy", "join", "merge"]),
        ({"secured": True}, {"rows": 10}, BESIDE, False, ["merge"]),
        ({"kind": "v"}, {"rows": 10}, BESIDE, False, ["merge"]),
        ({"kind": "p"}, {"rows": 10}, BESIDE, False, ["copy", "merge"]),
        ({"selectable": False}, {}, ALONE, False, ["copy and rebuild", "copy", "merge"]),
        ({"rewritten": True}, {}, ALONE, False, ["copy and rebuild", "copy", "merge"]),
        ({"by_statement": True}, {}, ALONE, False, ["copy and rebuild", "copy", "merge"]),
        ({"temporary": False}, {}, None, False, ["copy"]),
        ({"temporary": False}, {"rows": None, "repeatable": False}, None, False, ["copy"]),
        ({"temporary": False, "secured": True}, {}, None, False, []),
    ],
)
def test_a_plan_that_is_ruled_out_leads_to_the_next(
    facts: dict[str, Any], wanted: dict[str, Any], held: Any, empty: bool, expected: list[Plan]
) -> None:
    tried: list[Plan] = []
    known, asked = replace(PLAIN, **facts), replace(MANY, **wanted)
    while plan := choose(known, asked, held, tried, empty=empty):
        tried.append(plan)
    assert tried == expected
    assert tried == [plan for plan in PLANS if plan in tried]


@pytest.mark.parametrize(
    ("facts", "wanted", "expected"),
    [
        ({}, {}, Lock(ALONE)),
        ({}, {"rows": 10}, Lock(BESIDE)),
        ({"keys": {}}, {}, Lock(BESIDE)),
        ({"inherited": True}, {}, Lock(BESIDE)),
        ({"secured": True}, {}, Lock(BESIDE)),
        ({"kind": "p"}, {}, Lock(BESIDE)),
        ({"kind": "v"}, {}, Lock(None)),
        ({"kind": "f"}, {}, Lock(None)),
        ({"read_committed": False}, {}, Lock(BESIDE)),
        ({"may_lock": BESIDE}, {}, Lock(BESIDE)),
        ({"may_lock": None}, {}, Lock(None)),
        ({"keys": {frozenset("a"): False}}, {"rows": 10}, Lock(BESIDE)),
        ({"keys": {frozenset("a"): False}}, {"rows": 10, "on_conflict": "skip"}, Lock(ALONE, required=True)),
    ],
)
def test_the_first_lock_is_the_strongest_that_a_plan_needs(
    facts: dict[str, Any], wanted: dict[str, Any], expected: Lock
) -> None:
    assert first_lock(replace(PLAIN, **facts), replace(MANY, **wanted), Limits()) == expected


@pytest.mark.parametrize(
    ("facts", "policy", "expected"),
    [
        (granted("INSERT"), "error", []),
        (granted(), "error", ["GRANT INSERT ON t TO postgres"]),
        (granted("INSERT"), "skip", ["GRANT SELECT ON t TO postgres"]),
        (granted("INSERT"), "update", ["GRANT SELECT, UPDATE ON t TO postgres"]),
        (
            {"columns": {**PLAIN.columns, "n": Column("n", sequence="n_seq", granted=frozenset({"INSERT"}))}},
            "error",
            ["GRANT USAGE ON SEQUENCE n_seq TO postgres"],
        ),
        ({"temporary": False}, "error", []),
        ({"temporary": False}, "skip", ["GRANT TEMPORARY ON DATABASE postgres TO postgres"]),
        (
            {"keys": {frozenset("a"): False}, "may_lock": BESIDE},
            "skip",
            ["GRANT UPDATE ON t TO postgres"],
        ),
    ],
)
def test_a_right_that_every_plan_needs_is_named(facts: dict[str, Any], policy: Any, expected: Any) -> None:
    assert missing_grants(replace(PLAIN, **facts), replace(MANY, on_conflict=policy), "t") == expected
