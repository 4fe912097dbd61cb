"""The group with all of its commands."""

from citykit.cli import cities, data, pictures, servers  # noqa: F401  they register their commands
from citykit.cli.group import app

__all__ = ["app"]
