"""`citykit lab` as a person starts it, with settings of its own, and a Chromium to look at it."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import websocket

SECONDS = 60
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

Thing = TypeVar("Thing")


def wait_for(asked: Callable[[], Thing | None], what: str) -> Thing:
    """Ask until the answer is something, and return it."""
    deadline = time.monotonic() + SECONDS
    while not (answer := asked()):
        assert time.monotonic() < deadline, f"waited {SECONDS} s for {what}"
        time.sleep(0.05)
    return answer


@contextlib.contextmanager
def lab(folder: Path) -> Iterator[dict[str, Any]]:
    """Run ``citykit lab mine`` in `folder`; give what Jupyter writes about its server (url, token, pid …)."""
    places = {f"JUPYTER_{name}_DIR": folder / name for name in ("CONFIG", "DATA", "RUNTIME")}
    places |= {f"JUPYTERLAB_{name}_DIR": folder / name for name in ("SETTINGS", "WORKSPACES")}
    places |= {"IPYTHONDIR": folder / "ipython"}
    write_json(
        folder / "CONFIG" / "jupyter_server_config.json",
        {
            "ServerApp": {"open_browser": False, "port": 0, "ip": "127.0.0.1"},
            "LabApp": {"extension_manager": "readonly"},
        },
    )
    quiet = {"fetchNews": "false", "checkForUpdates": False}
    apputils = folder / "SETTINGS" / "@jupyterlab" / "apputils-extension"
    write_json(apputils / "notification.jupyterlab-settings", quiet)
    with open(folder / "lab.log", "w", encoding="utf-8") as log:
        running = subprocess.Popen(
            [sys.executable, "-m", "citykit", "lab", "mine"],
            cwd=folder,
            stdout=log,
            stderr=log,
            env={**os.environ, **{name: str(place) for name, place in places.items()}},
        )
    try:

        def server() -> dict[str, Any] | None:
            assert running.poll() is None, (folder / "lab.log").read_text(encoding="utf-8")
            for found in (folder / "RUNTIME").glob("jpserver-*.json"):
                if text := found.read_text(encoding="utf-8"):  # which is written before it listens
                    written = dict(json.loads(text))
                    place = ("127.0.0.1", written["port"])
                    with contextlib.suppress(ConnectionRefusedError), socket.create_connection(place):
                        return written
            return None

        about = wait_for(server, "JupyterLab")
        assert about["pid"] == running.pid  # nothing stands between the terminal and JupyterLab
        yield about
    finally:
        running.terminate()
        running.wait(timeout=SECONDS)


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


class Page:
    """The one page of a browser, spoken to over Chromium's DevTools protocol."""

    def __init__(self, socket: websocket.WebSocket) -> None:
        self._socket = socket
        self._sent = 0

    def tell(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        self._sent += 1
        self._socket.send(json.dumps({"id": self._sent, "method": method, "params": params}))
        while True:
            answer = json.loads(self._socket.recv())
            if answer.get("id") == self._sent:
                assert "error" not in answer, answer["error"]
                return dict(answer["result"])

    def ask(self, script: str) -> Any:
        """Return what a JavaScript expression is worth."""
        return self.tell("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def click(self, selector: str, words: str = "") -> None:
        """Click the middle of the first element of that selector that has these words."""
        spot = wait_for(
            lambda: self.ask(
                f"""(() => {{
                    const all = [...document.querySelectorAll({json.dumps(selector)})];
                    const box = all.find(e => e.textContent.includes({json.dumps(words)}))
                        ?.getBoundingClientRect();
                    return box?.width && [box.x + box.width / 2, box.y + box.height / 2];
                }})()"""
            ),
            f"{selector} {words}",
        )
        where: dict[str, Any] = {"x": spot[0], "y": spot[1]}
        self.tell("Input.dispatchMouseEvent", type="mouseMoved", **where)
        for kind in ("mousePressed", "mouseReleased"):
            self.tell("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **where)

    def keep_screenshot(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(self.tell("Page.captureScreenshot")["data"]))


@contextlib.contextmanager
def browser(url: str, profile: Path) -> Iterator[Page]:
    """Open `url` in a Chromium that nobody sees."""
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --disable-dev-shm-usage --no-first-run "
        "--disable-background-networking --disable-component-update --disable-sync --hide-scrollbars "
        "--window-size=1280,2000 --remote-debugging-port=0"
    )
    assert CHROMIUM is not None
    running = subprocess.Popen(
        [CHROMIUM, *flags.split(), f"--user-data-dir={profile}", url],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:

        def port() -> str | None:
            assert running.poll() is None, "Chromium ended"
            told = profile / "DevToolsActivePort"
            return told.read_text().split()[0] if told.exists() and told.read_text() else None

        def page() -> str | None:
            with urllib.request.urlopen(f"http://127.0.0.1:{listening}/json", timeout=SECONDS) as answer:
                pages = [tab for tab in json.load(answer) if tab["type"] == "page"]
            return str(pages[0]["webSocketDebuggerUrl"]) if pages else None

        listening = wait_for(port, "Chromium")
        socket = websocket.create_connection(wait_for(page, "a page"), suppress_origin=True, timeout=SECONDS)
        try:
            yield Page(socket)
        finally:
            socket.close()
    finally:
        running.terminate()
        running.wait(timeout=SECONDS)
