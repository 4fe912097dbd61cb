"""``python -m citykit`` is ``citykit``."""

from citykit.cli import main

main()
