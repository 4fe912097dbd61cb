"""What runs on the thread of the event loop, which stands still meanwhile."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import citykit

_ROOMS = f"{citykit.__path__[0]}/"


@contextmanager
def calls_on_this_thread(room: str) -> Iterator[Counter[str]]:
    """Count the calls of a room's functions on this thread, however fast or busy the machine is."""
    calls: Counter[str] = Counter()
    before = sys.getprofile()

    def count(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(f"{_ROOMS}{room}/"):
            calls[f"{code.co_filename.removeprefix(_ROOMS)} {code.co_name}"] += 1

    sys.setprofile(count)
    try:
        yield calls
    finally:
        sys.setprofile(before)
