"""How far a load has come: what a callback hears, and what a bar shows."""

from __future__ import annotations

import asyncio
import html
import re
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

import citykit
from citykit.runtime import progress, reporting
from tests.support.database import scalar

CHUNK_ROWS = 65_536


def many(count: int) -> pd.DataFrame:
    return pd.DataFrame({"name": [f"city {n}" for n in range(count)], "population": range(count)})


async def pieces(count: int) -> Any:
    yield many(count)


def phases(heard: list[tuple[int, int | None, str]]) -> list[str]:
    return list(dict.fromkeys(phase for *_, phase in heard))


@pytest.mark.parametrize(
    ("source", "there", "policy", "wanted"),
    [
        (lambda: many(10), 0, "error", ["checking", "sending", "committing", "done"]),
        (lambda: many(30_000), 0, "error", ["checking", "sending", "indexing", "committing", "done"]),
        (lambda: many(10), 20, "update", ["checking", "sending", "merging", "committing", "done"]),
        (lambda: many(30_000), 20, "skip", ["checking", "sending", "merging", "committing", "done"]),
        (lambda: pieces(10), 20, "skip", ["sending", "merging", "committing", "done"]),
    ],
    ids=["few", "many", "few to merge", "many to merge", "stream"],
)
async def test_a_callback_of_three_hears_each_phase_and_done_after_the_commit(
    engine: AsyncEngine, source: Callable[[], Any], there: int, policy: Any, wanted: list[str]
) -> None:
    await citykit.load_cities(engine, many(there))
    heard: list[tuple[int, int | None, str]] = []
    at_end: list[asyncio.Task[Any]] = []

    def tell(done: int, total: int | None, phase: str) -> None:
        heard.append((done, total, phase))
        if phase == "done":
            at_end.append(asyncio.ensure_future(scalar(engine, "SELECT count(*) FROM cities")))

    report = await citykit.load_cities(engine, source(), on_conflict=policy, progress=tell)
    assert [phase for phase in phases(heard) if phase != "indexing"] == [
        phase for phase in wanted if phase != "indexing"
    ]
    assert "indexing" in phases(heard) or "indexing" not in wanted
    rows = report.inserted + report.updated + report.skipped
    assert heard[-1] == (rows, heard[0][1], "done")
    for phase in ("checking", "sending"):
        counts = [done for done, _, other in heard if other == phase]
        assert counts == sorted(set(counts))
        assert not counts or counts[-1] == rows
    assert await at_end[0] == there + report.inserted


@pytest.mark.parametrize(
    ("callback", "takes_phase"),
    [
        (lambda _done, _total: None, False),
        (lambda _done, _total, _phase: None, True),
        (lambda _done, _total, phase="": phase, True),
        (lambda _done, _total, kept=[]: kept, False),
        (lambda *_rows: None, False),
        (print, False),
        ([].append, False),
    ],
    ids=["two", "three", "phase", "a default", "any", "print", "of C"],
)
def test_a_callback_gets_the_phase_where_it_has_a_parameter_for_it(callback: Any, takes_phase: bool) -> None:
    assert progress._takes_phase(callback) is takes_phase


@pytest.mark.parametrize("phase", ["checking", "sending", "committing"])
async def test_an_error_in_a_callback_before_done_undoes_the_load(engine: AsyncEngine, phase: str) -> None:
    def fail(_done: int, _total: int, now: str) -> None:
        if now == phase:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await citykit.load_cities(engine, many(10), progress=fail)
    assert await scalar(engine, "SELECT count(*) FROM cities") == 0


async def test_a_source_that_tells_how_many_rows_to_expect_has_a_total(engine: AsyncEngine) -> None:
    class File:
        read = 0

        def __iter__(self) -> Any:
            for _ in range(4):
                self.read += 1
                yield many(10).assign(region=str(self.read))

        def expected_rows(self) -> int | None:
            return 10 * 4 if self.read else None

    heard: list[tuple[int, int | None]] = []
    await citykit.load_cities(engine, File(), progress=lambda done, total: heard.append((done, total)))
    assert heard[-1] == (40, 40)


# The bar


class Drawn:
    """Takes what a bar draws."""

    def __init__(self) -> None:
        self.states: list[Any] = []

    def draw(self, state: Any) -> None:
        self.states.append(state)

    close = draw


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    drawn = Drawn()
    monkeypatch.setattr(progress, "_InTerminal", lambda: drawn)
    monkeypatch.setattr(progress, "DRAW_SECONDS", 0)
    monkeypatch.setattr(progress, "TICK_SECONDS", 0.01)
    return drawn


@pytest.mark.parametrize(("there", "policy"), [(0, "error"), (1, "error"), (30_000, "update"), (1, "skip")])
async def test_a_bar_never_goes_back_and_is_full_only_at_the_end(
    engine: AsyncEngine, drawn: Drawn, there: int, policy: Any
) -> None:
    await citykit.load_cities(engine, many(there).assign(region="elsewhere"))
    await citykit.load_cities(engine, many(2 * CHUNK_ROWS), on_conflict=policy, progress=True)
    fractions = [state.fraction for state in drawn.states]
    assert fractions == sorted(fractions)
    assert [state.phase for state in drawn.states if state.fraction == 1] == ["done"]
    assert drawn.states[-1].phase == "done"
    assert max(fraction for fraction in fractions if fraction < 1) > 0.5


async def test_a_bar_is_not_full_where_a_load_failed(engine: AsyncEngine, drawn: Drawn) -> None:
    await citykit.load_cities(engine, many(1))
    with pytest.raises(citykit.DuplicateCityError):
        await citykit.load_cities(engine, many(CHUNK_ROWS), progress=True)
    assert drawn.states[-1].phase.startswith("stopped while ")
    assert drawn.states[-1].fraction < 1


async def test_a_phase_that_cannot_be_counted_shows_its_seconds(drawn: Drawn) -> None:
    with reporting(True, 10, "checking") as meter:
        meter.advance(10)
        meter.begin("merging")
        await asyncio.sleep(0.1)
    waiting = [state.of_phase for state in drawn.states if state.phase == "merging"]
    assert len(waiting) > 3
    assert waiting == sorted(waiting)
    assert waiting[-1] > 0.05


async def test_a_bar_of_a_pipe_or_terminal_is_one_line_with_rows_and_time_left(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with reporting(True, 250_000, "sending") as meter:
        meter.advance(100_000)
    [*_, last] = capsys.readouterr().err.rstrip("\n").split("\r")
    assert re.fullmatch(r"done: 100%\|.*\| of 250k rows \[00:00\]", last)


async def test_the_bar_of_a_notebook_is_one_output_without_script() -> None:
    bar = progress._InNotebook()
    bar._handle = Handle()
    bar.close(progress._State("done", 10, 250_000, 1.0, 2.5))
    shown = bar._repr_html_()
    assert "done: 100 % of 250,000 rows, 2.5 s" in html.unescape(shown)
    assert "width:100.0%" in shown
    assert "script" not in shown


class Handle:
    def update(self, _shown: object) -> None:
        pass


async def test_a_load_shows_nothing_where_there_is_no_standard_error(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr", None)  # as pythonw has it
    assert (await citykit.load_cities(engine, many(10))).inserted == 10
