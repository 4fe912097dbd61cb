"""A real Jupyter kernel, driven as JupyterLab drives it: cells sent at once, interrupted, restarted."""

from __future__ import annotations

import os
import queue
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

SECONDS = 60


class Kernel:
    """Runs cells; what a cell shows is what `shown` returns."""

    def __init__(self, manager: KernelManager, client: BlockingKernelClient) -> None:
        self.manager = manager
        self.client = client
        self._outputs: dict[str, list[dict[str, Any]]] = {}
        self._ended: dict[str, str] = {}

    def send(self, source: str, stop_on_error: bool = True) -> str:
        """Send a cell without waiting for it, as Run All does for every cell; return its name.

        When it fails, the kernel skips the cells that were sent after it, unless `stop_on_error` is False.
        """
        return str(self.client.execute(source, stop_on_error=stop_on_error))

    def wait(self, cell: str) -> list[dict[str, Any]]:
        """Wait until a cell has ended, and return its outputs (as in a notebook file)."""
        deadline = time.monotonic() + SECONDS
        while cell not in self._ended:
            self._read(deadline)
        return self._outputs.get(cell, [])

    def wait_for(self, cell: str, text: str) -> None:
        """Wait until a cell that still runs has printed `text`."""
        deadline = time.monotonic() + SECONDS
        while text not in plain(self._outputs.get(cell, [])):
            self._read(deadline)

    def run(self, source: str) -> list[dict[str, Any]]:
        """Run a cell and return its outputs."""
        return self.wait(self.send(source))

    def shown(self, source: str) -> str:
        """Run a cell and return what it shows in plain text."""
        return plain(self.run(source))

    def status(self, cell: str) -> str:
        """Return the status of the kernel's reply to an ended cell: ok, error, aborted, no reply."""
        try:
            while True:
                reply = self.client.get_shell_msg(timeout=5)
                if reply["parent_header"].get("msg_id") == cell:
                    return str(reply["content"]["status"])
        except queue.Empty:
            return "no reply"

    def completed(self, source: str) -> list[str]:
        """Return what Tab offers at the end of `source`."""
        asked = self.client.complete(source, len(source))
        while True:
            answer = self.client.get_shell_msg(timeout=SECONDS)
            if answer["parent_header"].get("msg_id") == asked:
                return [match.rpartition(".")[2] for match in answer["content"]["matches"]]

    def interrupt(self) -> None:
        self.manager.interrupt_kernel()

    def restart(self) -> None:
        self.manager.restart_kernel(now=True)
        self.client.wait_for_ready(timeout=SECONDS)

    def _read(self, deadline: float) -> None:
        try:
            message = self.client.get_iopub_msg(timeout=max(0.01, deadline - time.monotonic()))
        except queue.Empty:
            raise TimeoutError("the kernel says nothing") from None
        cell, kind, content = message["parent_header"].get("msg_id"), message["msg_type"], message["content"]
        if kind == "status" and content["execution_state"] == "idle":
            self._ended[cell] = "idle"
        elif kind in ("stream", "display_data", "execute_result", "error"):
            self._outputs.setdefault(cell, []).append({"output_type": kind, **content})
        elif kind == "update_display_data":
            for output in self._outputs.get(cell, []):
                if output.get("transient") == content["transient"]:
                    output.update(content)


def plain(outputs: list[dict[str, Any]]) -> str:
    """Return the plain text of outputs, one after the other."""
    texts = []
    for output in outputs:
        if output["output_type"] == "stream":
            texts.append(str(output["text"]))
        elif output["output_type"] == "error":
            texts.append("\n".join(output["traceback"]))
        else:
            texts.append(str(output["data"]["text/plain"]) + "\n")
    return "".join(texts)


@contextmanager
def kernel(cwd: str | None = None, **env: str) -> Iterator[Kernel]:
    """Start a kernel of this Python, and shut it down at the end."""
    os.environ.setdefault("JUPYTER_PLATFORM_DIRS", "1")  # without it, jupyter_core warns
    manager = KernelManager()
    manager.start_kernel(cwd=cwd, env={**os.environ, "PYTHONWARNINGS": "default", **env})
    client = manager.blocking_client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=SECONDS)
        yield Kernel(manager, client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
