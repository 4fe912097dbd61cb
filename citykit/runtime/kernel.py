"""Whether this process is a notebook's kernel."""

from __future__ import annotations

import sys


def in_kernel() -> bool:
    """Return whether this is a notebook's kernel."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return getattr(shell, "kernel", None) is not None
