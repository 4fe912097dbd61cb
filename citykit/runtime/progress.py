"""How far a load or a read has come: a bar, a callback, or nothing."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

from citykit.runtime.callers import callers_code
from citykit.runtime.kernel import in_kernel

Progress: TypeAlias = bool | Callable[[int, Any], object] | None

BAR_FROM_ROWS = 200_000


@contextmanager
def reporting(progress: Progress, total: int | None, doing: str) -> Iterator[Callable[[int], object]]:
    """Return what is to be called with the number of rows done so far; `total` is None where unknown.

    `doing` is the word before a bar. `progress` None shows a bar from `BAR_FROM_ROWS` rows up, in a terminal
    or a notebook but never in a pipe; True and False decide it; a callable gets ``(rows_done, rows_total)``.
    """
    if not (progress is None or isinstance(progress, bool) or callable(progress)):
        raise TypeError(f"progress is True, False, None or something to call, not {progress!r}")
    if progress is not None and not isinstance(progress, bool):
        callback, furthest = progress, -1

        def tell(done: int) -> None:
            nonlocal furthest
            if done > furthest:  # a load that is tried in a second way begins again
                furthest = done
                with callers_code():
                    callback(done, total)

        yield tell
        return
    if progress is None:
        progress = (total is None or total >= BAR_FROM_ROWS) and (sys.stderr.isatty() or in_kernel())
        least = BAR_FROM_ROWS
    else:
        least = 0
    if not progress:
        yield lambda _done: None
        return
    bar = _Bar(total, least, doing)
    try:
        yield bar.advance
    finally:
        bar.close()


class _Bar:
    """A bar that appears once `least` rows are done, where it is not known how many there will be."""

    def __init__(self, total: int | None, least: int, doing: str) -> None:
        self.total, self.doing = total, doing
        self.least = 0 if total is not None else least
        self.bar = self._shown() if not self.least else None

    def _shown(self) -> Any:
        if in_kernel() and importlib.util.find_spec("ipywidgets"):
            from tqdm.notebook import tqdm
        else:  # tqdm.auto would warn in red where ipywidgets is not installed
            from tqdm import tqdm
        return tqdm(total=self.total, unit=" rows", unit_scale=True, desc=self.doing)

    def advance(self, done: int) -> None:
        if self.bar is None and done >= self.least:
            self.bar = self._shown()
        if self.bar is not None and done > self.bar.n:
            self.bar.update(done - self.bar.n)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
