"""Running code as a notebook cell does: with top-level await, and showing what the last line is worth."""

from __future__ import annotations

import ast
import contextlib
import inspect
import io
from typing import Any

import citykit


def shown_by(source: str, namespace: dict[str, Any], mode: str = "cell") -> str:
    """Run `source` and return what it prints.

    In mode "cell" the value of a last line that is an expression is shown; in mode "single" that of each.
    """
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        if mode == "single":
            _wait(eval(compile(source, "<example>", "single", flags), namespace))  # noqa: S307
        else:
            tree = ast.parse(source)
            last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
            _wait(eval(compile(tree, "<example>", "exec", flags), namespace))  # noqa: S307
            if last is not None:
                interactive = ast.Interactive(body=[last])
                _wait(eval(compile(interactive, "<example>", "single", flags), namespace))  # noqa: S307
    return printed.getvalue()


def _wait(value: Any) -> None:
    if inspect.iscoroutine(value):
        citykit.run(value)
