"""The cities over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from citykit.web.app import create_app

if TYPE_CHECKING:
    from citykit.web.server import serve

__all__ = ["create_app", "serve"]


def __getattr__(name: str) -> Any:
    if name == "serve":  # an application that another ASGI server runs needs no uvicorn
        from citykit.web.server import serve

        return serve
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
