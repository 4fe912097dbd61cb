"""How far a load or a read has come: a bar, a callback, or nothing."""

from __future__ import annotations

import asyncio
import inspect
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, cast

from citykit.runtime.callers import callers_code
from citykit.runtime.kernel import in_kernel

Phase: TypeAlias = Literal["reading", "checking", "sending", "indexing", "merging", "committing", "done"]
Progress: TypeAlias = bool | Callable[[int, Any], object] | Callable[[int, Any, str], object] | None
Total: TypeAlias = int | Callable[[], int | None] | None

BAR_FROM_ROWS = 200_000
TICK_SECONDS = 0.5  # between two redraws for the clock alone, while nothing is reported
DRAW_SECONDS = 0.1  # at least, between two redraws within a phase
_COUNTED = ("reading", "checking", "sending")
# The fraction of a load's bar at which a phase ends. The later phases report no rows: the bar stands still in
# them and counts their seconds.
_ENDS: dict[Phase, float] = {"checking": 0.15, "sending": 0.55}


@contextmanager
def reporting(progress: Progress, total: Total, phase: Phase) -> Iterator[Meter]:
    """Yield the meter that is told the phases of a load or a read, and the rows done in each.

    `total` is the number of rows, None where it is not known, or a function that returns either and is called
    at each step (the estimate for a file becomes more exact while it is read). `phase` is the first one.

    `progress` None shows a bar from `BAR_FROM_ROWS` rows up, in a terminal or a notebook but never in a pipe;
    True and False decide it. A callable with two parameters gets ``(rows_done, rows_total)`` while rows
    travel; one with three gets ``(rows_done, rows_total, phase)`` in every phase.
    """
    if not (progress is None or isinstance(progress, bool) or callable(progress)):
        raise TypeError(f"progress is True, False, None or something to call, not {progress!r}")
    least = 0
    if progress is None:
        progress = in_kernel() or (sys.stderr is not None and sys.stderr.isatty())
        least = BAR_FROM_ROWS
    meter: Meter
    if not isinstance(progress, bool):
        meter = _Calls(total, progress)
    elif progress:
        meter = _Bar(total, least)
    else:
        meter = Meter(total)
    meter.begin(phase)
    try:
        yield meter
    except BaseException:
        meter.end(done=False)
        raise
    meter.end(done=True)


class Meter:
    """Keeps the phase and the rows done, and shows nothing."""

    def __init__(self, total: Total) -> None:
        self._ask = total if callable(total) else lambda: total
        self.phase: Phase = "reading"
        self.done = 0  # rows, in this phase

    @property
    def total(self) -> int | None:
        """All rows; None where that is not known."""
        return self._ask()

    def begin(self, phase: Phase) -> None:
        """Begin a phase, maybe again: a load that falls back to another plan sends its rows again."""
        self.phase = phase
        self.done = 0 if phase in _COUNTED else self.done

    def advance(self, done: int) -> None:
        """Tell how many rows of the phase are done."""
        self.done = done

    def end(self, *, done: bool) -> None:
        """End: `done` after the COMMIT, else after an error or a cancel."""


class _Calls(Meter):
    """Calls a function of the user's."""

    def __init__(self, total: Total, callback: Callable[..., object]) -> None:
        super().__init__(total)
        self._callback = callback
        self._takes_phase = _takes_phase(callback)
        self._furthest: dict[Phase, int] = {}

    def begin(self, phase: Phase) -> None:
        super().begin(phase)
        if self._takes_phase:
            self._tell()

    def advance(self, done: int) -> None:
        super().advance(done)
        if self._takes_phase or self.phase in ("reading", "sending"):
            self._tell()

    def end(self, *, done: bool) -> None:
        if done and self._takes_phase:
            self.phase = "done"
            self._tell()

    def _tell(self) -> None:
        if self.done > self._furthest.get(self.phase, -1):
            self._furthest[self.phase] = self.done
            arguments = (self.done, self.total, self.phase)
            with callers_code():
                self._callback(*arguments[: 3 if self._takes_phase else 2])


def _takes_phase(callback: Callable[..., object]) -> bool:
    """Tell whether a function has a third parameter: one that is needed, or is called `phase`."""
    try:
        parameters = inspect.signature(callback).parameters.values()
    except (TypeError, ValueError):  # of some that are written in C
        return False
    taken = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return len(taken) > 2 and (taken[2].default is inspect.Parameter.empty or taken[2].name == "phase")


class _Bar(Meter):
    """Draws one bar for all phases, which never goes back, and is full only when all is done."""

    def __init__(self, total: Total, least: int) -> None:
        super().__init__(total)
        self._least = least  # rows from which it is drawn
        self._started = self._phase_started = self._drawn = time.monotonic()
        self._fraction = self._base = 0.0
        self._drawing: _Drawing | None = None
        self._tick = asyncio.get_running_loop().call_later(TICK_SECONDS, self._go_on)

    def begin(self, phase: Phase) -> None:
        super().begin(phase)
        self._base, self._phase_started = self._fraction, time.monotonic()
        self._draw(at_once=True)

    def advance(self, done: int) -> None:
        super().advance(done)
        if total := self.total:
            share = max(0.0, _ENDS.get(self.phase, 0.99) - self._base)
            self._fraction = max(self._fraction, self._base + share * min(1.0, done / total))
        self._draw()

    def end(self, *, done: bool) -> None:
        self._tick.cancel()
        if self._drawing:
            self._drawing.close(self._state(done))

    def _go_on(self) -> None:
        self._draw()
        self._tick = asyncio.get_running_loop().call_later(TICK_SECONDS, self._go_on)

    def _draw(self, *, at_once: bool = False) -> None:
        now = time.monotonic()
        if self._drawing is None:
            if max(self.total or 0, self.done) < self._least:
                return
            self._drawing = _InNotebook() if in_kernel() else _InTerminal()
        elif not at_once and now - self._drawn < DRAW_SECONDS:
            return
        self._drawn = now
        self._drawing.draw(self._state(None))

    def _state(self, done: bool | None) -> _State:
        now, total = time.monotonic(), self.total
        phase = {None: self.phase, True: "done", False: f"stopped while {self.phase}"}[done]
        return _State(
            phase,
            self.done,
            total,
            (1.0 if done else self._fraction) if total else None,
            now - self._started,
            now - self._phase_started if done is None and self.phase not in _COUNTED else None,
        )


@dataclass(frozen=True)
class _State:
    """The state that a bar shows."""

    phase: str
    done: int  # rows
    total: int | None  # rows
    fraction: float | None
    seconds: float  # since the start
    of_phase: float | None = None  # seconds of a phase that cannot be counted


class _Drawing(Protocol):
    def draw(self, state: _State) -> None: ...

    def close(self, state: _State) -> None: ...


class _InTerminal:
    """A line of tqdm's."""

    def __init__(self) -> None:
        from tqdm import tqdm

        self._bar: Any = tqdm(unit=" rows", unit_scale=True, leave=True)

    def draw(self, state: _State) -> None:
        bar = self._bar
        bar.total = state.total
        bar.n = state.done if state.total is None else round(state.total * (state.fraction or 0))
        left = "<{remaining}" if state.phase in _COUNTED else ""
        bar.bar_format = (
            None if state.total is None else f"{{l_bar}}{{bar}}| of {{total_fmt}} rows [{{elapsed}}{left}]"
        )
        words = state.phase if state.of_phase is None else f"{state.phase} {state.of_phase:.0f} s"
        bar.set_description(words, refresh=False)
        bar.refresh()

    def close(self, state: _State) -> None:
        self.draw(state)
        self._bar.close()


class _InNotebook:
    """A bar in HTML, in one output that is updated. Widgets would need a package of their own."""

    COLOUR, STOPPED = "#0072B2", "#808080"

    def __init__(self) -> None:
        self._state = _State("", 0, None, None, 0.0)
        self._colour = self.COLOUR
        self._handle: Any = None

    def draw(self, state: _State) -> None:
        from IPython.display import display

        self._state = state
        if self._handle is None:
            self._handle = cast(Any, display)(self, display_id=True)
        else:
            self._handle.update(self)

    def close(self, state: _State) -> None:
        self._colour = self.COLOUR if state.phase == "done" else self.STOPPED
        self.draw(state)

    def __repr__(self) -> str:
        state = self._state
        rows = f"{state.done:,} rows" if state.total is None else f"{state.total:,} rows"
        if state.of_phase is not None:
            return f"{state.phase} {rows} for {state.of_phase:.1f} s, {state.seconds:.1f} s in all"
        part = "" if state.fraction is None else f"{100 * state.fraction:.0f} % of "
        return f"{state.phase}: {part}{rows}, {state.seconds:.1f} s"

    def _repr_html_(self) -> str:
        fraction = self._state.fraction
        width = 100 if fraction is None else 100 * fraction
        faint = "" if fraction is not None or self._state.phase == "done" else "opacity:.35;"
        return (
            f'<div class="citykit-progress" style="max-width:36em"><div>{self!r}</div>'
            '<div style="height:8px;border-radius:4px;background:rgba(128,128,128,.25)">'
            f'<div style="height:8px;border-radius:4px;{faint}width:{width:.1f}%;background:{self._colour}">'
            "</div></div></div>"
        )
