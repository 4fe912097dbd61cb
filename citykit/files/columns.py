"""Which columns of a file are read, and under which names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from citykit.errors import did_you_mean
from citykit.files.streams import ReadError

CHUNK_ROWS = 65_536  # in a frame of a file that has no blocks of its own


@dataclass(frozen=True)
class Columns:
    """The columns to read (None: all), by their new or their old names; and the new names."""

    wanted: Sequence[str] | None = None
    rename: Mapping[str, str] = field(default_factory=dict)
    all_if_lacking: bool = False  # read all columns where one that is picked is missing

    @property
    def asked(self) -> list[str]:
        """The names in the file of the columns that are picked or renamed."""
        return list(dict.fromkeys([*(self._picked or ()), *self.rename]))

    @property
    def _picked(self) -> list[str] | None:
        given = {new: name for name, new in self.rename.items()}
        return None if self.wanted is None else [given.get(name, name) for name in self.wanted]

    def of(self, names: Sequence[str]) -> tuple[list[int], list[str]]:
        """Return the positions of the columns in the file, and their new names.

        Raises
        ------
        ReadError
            If a column is missing, has no name, or shares its name with another.
        """
        place = {name: number for number, name in reversed(list(enumerate(names)))}  # the first of each name
        picked = self._picked
        chosen = set(picked or ())
        lacking = [name for name in self.asked if name not in place]
        if lacking and self.all_if_lacking:
            return Columns(None, self.rename).of(names)
        if lacking:
            raise ReadError(
                f"it has no column {', '.join(map(repr, lacking))}{did_you_mean(lacking[0], names)}",
                f"Its columns are {listed(names)}.",
            )
        self._check(names if picked is None else [name for name in names if name in chosen], names)
        wanted = names if picked is None else picked
        renamed = [self.rename.get(name, name) for name in wanted]
        both = Counter(renamed) | Counter(self.rename.values())
        if twice := [name for name, count in both.items() if count > 1]:
            raise ReadError(
                f"two of its columns would be called {twice[0]!r}", "Look at columns= and rename=."
            )
        return [place[name] for name in wanted], renamed

    def _check(self, taken: Sequence[str], names: Sequence[str]) -> None:
        counts = Counter(taken)
        good = [name for name, count in Counter(names).items() if name and count == 1][:20]
        options = {"columns": good} if good and self.wanted is None else {}
        hint = "" if options else "Give each column a name of its own in the header."
        if twice := [name for name, count in counts.items() if name and count > 1]:
            places = [str(place) for place, name in enumerate(names, 1) if name == twice[0]]
            raise ReadError(
                f"its columns {' and '.join(places[:5])} are all called {twice[0]!r}", hint, **options
            )
        if "" in counts:
            raise ReadError(f"its column {names.index('') + 1} has no name", hint, **options)


def listed(names: Sequence[str]) -> str:
    """Return names as a message shows them: no more than twenty."""
    return ", ".join(map(repr, names[:20])) + (f" and {len(names) - 20:,} more" if len(names) > 20 else "")
