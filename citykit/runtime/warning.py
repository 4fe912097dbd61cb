"""Warnings at the user's own line."""

from __future__ import annotations

import inspect
import warnings

# The packages between the user's line and the warning: a coroutine's caller may be the event loop.
_BETWEEN = {"citykit", "asyncio", "concurrent", "threading", "IPython"}


def warn_at_caller(message: str) -> None:
    """Warn (UserWarning) at the line that called citykit."""
    frame, level = inspect.currentframe(), 1
    while frame and str(frame.f_globals.get("__name__")).partition(".")[0] in _BETWEEN:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)
