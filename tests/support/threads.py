"""Which functions of citykit a thread calls: on that of the event loop, they keep the loop waiting."""

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
    folder, calls = f"{_ROOMS}{room}/", Counter[str]()
    before = sys.getprofile()

    def count(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(folder):
            calls[f"{code.co_filename.removeprefix(_ROOMS)} {code.co_name}"] += 1

    sys.setprofile(count)
    try:
        yield calls
    finally:
        sys.setprofile(before)
