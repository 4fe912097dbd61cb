"""``/docs``: the routes for programs in Swagger UI, whose files come from an installed package."""

from __future__ import annotations

from pathlib import Path

import fastapi_offline
from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

docs = APIRouter()
# Only its files of Swagger UI are used: its own page has an inline script, which the policy below refuses.
_files = StaticFiles(directory=Path(fastapi_offline.__file__).with_name("static"))
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
# Relative addresses: they also hold where the application is mounted below a path.
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>The API of citykit</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="stylesheet" href="docs/files/swagger-ui.css">
<link rel="icon" href="docs/files/favicon.png">
<script src="docs/files/swagger-ui-bundle.js" defer></script>
<script src="docs/start.js" defer></script>
</head>
<body>
<div id="routes"></div>
<noscript>The same as JSON, for programs: <a href="openapi.json">openapi.json</a></noscript>
</body>
</html>
"""
_START = """SwaggerUIBundle({
  url: "openapi.json", dom_id: "#routes", deepLinking: true, validatorUrl: null,
  presets: [SwaggerUIBundle.presets.apis],
})
"""


@docs.get("/docs")
async def show() -> HTMLResponse:
    """Show the page."""
    return HTMLResponse(_PAGE, headers=_HEADERS)


@docs.get("/docs/start.js")
async def start() -> Response:
    """Start Swagger UI on the page."""
    return Response(_START, media_type="text/javascript", headers=_HEADERS)


# A route like the others, and no mount, which takes every method: so Allow names these two.
@docs.api_route("/docs/files/{path:path}", methods=["GET", "HEAD"])
async def file(request: Request, path: str) -> Response:
    """Return a file of Swagger UI."""
    return await _files.get_response(path, request.scope)
