"""Errors of the caller's own code (a source of rows, a progress function), which reach it unchanged."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class CallersError(Exception):
    """Carries an error of the caller's code past those who handle the errors of a database."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error


@contextmanager
def callers_code() -> Iterator[None]:
    """Raise as `CallersError` what the block, the caller's own code, raises."""
    try:
        yield
    except (asyncio.CancelledError, GeneratorExit, CallersError):
        raise
    except BaseException as exc:
        raise CallersError(exc) from exc
