"""Running the notebooks in a real kernel. ``python -m tests.support.notebooks`` renews their outputs."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import image

from tests.support.kernels import kernel

FOLDER = Path(__file__).parents[2] / "notebooks"
PATHS = sorted(FOLDER.glob("*.ipynb"))


class Node(dict[str, Any]):
    """A part of a notebook: its keys are its attributes too, as nbformat has it."""

    __getattr__ = dict.__getitem__


def _node(pairs: list[tuple[str, Any]]) -> Node:
    in_lines = ("source", "text", "text/plain", "text/html", "image/png", "image/svg+xml")
    return Node({k: "".join(v) if k in in_lines and isinstance(v, list) else v for k, v in pairs})


def committed(path: Path) -> Any:
    """Return the notebook as it is in the repository, without nbformat, which takes seconds to import."""
    return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_node)


def validated(path: Path) -> Any:
    """Return the notebook as it is in the repository, once it is valid by the schema of notebooks."""
    import nbformat

    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    nbformat.validate(notebook)
    return notebook


def executed(path: Path) -> Any:
    """Return the notebook as a fresh kernel leaves it; an error in a cell is raised."""
    from nbclient import NotebookClient

    notebook = validated(path)
    os.environ.setdefault("JUPYTER_PLATFORM_DIRS", "1")  # without it, jupyter_core warns
    client = NotebookClient(
        notebook, timeout=120, record_timing=False, resources={"metadata": {"path": str(FOLDER)}}
    )
    client.execute(env={**os.environ, "PYTHONWARNINGS": "default"})
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = lasting(cell.outputs)
    return notebook


def queued(path: Path) -> Any:
    """Return the notebook as a fresh kernel leaves it that was sent all cells at once."""
    import nbformat

    notebook = validated(path)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    with kernel(cwd=str(FOLDER)) as running:
        for cell, sent in [(cell, running.send(cell.source)) for cell in code]:
            cell.outputs = lasting(map(nbformat.from_dict, running.wait(sent)))
    return notebook


def lasting(outputs: Iterable[Any]) -> list[Any]:
    """Return outputs without progress bars, whose times change, and each stream in one piece."""
    kept: list[Any] = []
    for output in outputs:
        if "citykit-progress" in output.get("data", {}).get("text/html", ""):
            continue
        if kept and "name" in output and kept[-1].get("name") == output.name:
            kept[-1].text += output.text
        else:
            kept.append(output)
    return kept


def texts(notebook: Any) -> list[list[str]]:
    """What each code cell shows but for its pictures."""
    shown = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            shown.append(
                [
                    f"{output.get('name', output.output_type)}: {kind}\n{text}"
                    for output in cell.outputs
                    for kind, text in _mime_bundle(output).items()
                    if not kind.startswith("image/")
                ]
            )
    return shown


def pictures(notebook: Any) -> list[np.ndarray[Any, Any]]:
    """The pictures of a notebook, in order: (height, width, 4) floats from 0 to 1."""
    return [
        image.imread(io.BytesIO(base64.b64decode(bundle["image/png"])), format="png")
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/png" in (bundle := _mime_bundle(output))
    ]


def _mime_bundle(output: Any) -> dict[str, str]:
    if output.output_type == "stream":
        return {"text/plain": str(output.text)}
    if output.output_type == "error":
        return {"text/plain": "\n".join(output.traceback)}
    return dict(sorted(output.data.items()))


def renew() -> None:
    import nbformat

    for path in PATHS:
        nbformat.write(executed(path), path)  # type: ignore[no-untyped-call]
        print(f"renewed {path.name}")  # noqa: T201


if __name__ == "__main__":
    renew()
