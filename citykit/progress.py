"""How far a load has come: a bar, a callback, or nothing."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

Progress: TypeAlias = bool | Callable[[int, int], object] | None

BAR_FROM_ROWS = 200_000


@contextmanager
def reporting(progress: Progress, total: int) -> Iterator[Callable[[int], object]]:
    """Return what is to be called with the number of rows done so far.

    `progress` None shows a bar from `BAR_FROM_ROWS` rows up, in a terminal or a notebook but never in a
    pipe; True and False decide it; a callable gets ``(rows_done, rows_total)``.
    """
    if progress is not None and not isinstance(progress, bool):
        callback = progress
        yield lambda done: callback(done, total)
        return
    if progress is None:
        progress = total >= BAR_FROM_ROWS and (sys.stderr.isatty() or _in_kernel())
    if not progress:
        yield lambda _done: None
        return
    if _in_kernel() and importlib.util.find_spec("ipywidgets"):
        from tqdm.notebook import tqdm
    else:  # tqdm.auto would warn in red where ipywidgets is not installed
        from tqdm import tqdm
    with tqdm(total=total, unit=" rows", unit_scale=True, desc="loading") as bar:
        yield lambda done: bar.update(done - bar.n)


def _in_kernel() -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return getattr(shell, "kernel", None) is not None
