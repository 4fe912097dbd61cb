"""Errors of the caller's own code (a source of rows, a progress function), which reach it unchanged."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class CallersError(Exception):
    """Carries an error of the caller's code past the handlers of database errors."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error


@contextmanager
def callers_code() -> Iterator[None]:
    """Raise an error of the block, which runs the caller's own code, as a `CallersError`."""
    try:
        yield
    except (asyncio.CancelledError, GeneratorExit, CallersError):
        raise
    except BaseException as exc:
        raise CallersError(exc) from exc
