"""Which columns of a frame are loaded, and under which names. No I/O."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import pandas as pd

from citykit.encode.rejects import rejects_frame
from citykit.encode.rules import Rule
from citykit.errors import InvalidFrameError, did_you_mean, plain

LISTED = 10  # columns that a message names, of those that are wrong in the same way


class Names:
    """How the columns of a source become those of its table: renamed first, then picked.

    Parameters
    ----------
    rename : mapping of str to str, optional
        The table's name for a column of the source.
    columns : sequence of str, optional
        The columns to load, by their new names or those in the source. None: all.
    unused : collection of str
        Columns that the database alone fills: they are left out.

    Attributes
    ----------
    left_out : set of str
        Those of `unused` that the source has, as far as it was read.
    """

    def __init__(
        self,
        rename: Mapping[str, str] | None = None,
        columns: Sequence[str] | None = None,
        unused: Collection[str] = (),
    ) -> None:
        if rename is not None and not (isinstance(rename, Mapping) and _are_names(rename.values())):
            raise TypeError(
                f'rename maps columns to names, as in rename={{"city": "name"}}, not {rename!r}; '
                "nothing was loaded"
            )
        # An iterator can be gone through only once.
        given = list(columns) if isinstance(columns, Iterable) and not isinstance(columns, str) else columns
        if given is not None and not (isinstance(given, list) and _are_names(given)):
            raise TypeError(
                f'columns is a list of names, as in columns=["name"], not {columns!r}; nothing was loaded'
            )
        if given == []:
            raise ValueError(
                "columns is a list of names, or None for all, not an empty one; nothing was loaded"
            )
        self.rename = dict(rename or {})
        self.columns = given
        self.unused = frozenset(unused)
        self.left_out: set[str] = set()

    def take(self, frame: pd.DataFrame, rules: Sequence[Rule]) -> pd.DataFrame:
        """Return the frame with the table's columns only, under their names there.

        Raises
        ------
        InvalidFrameError
            If the columns are not the table's (unknown, missing, repeated, or in the frame's index), the
            frame has rows and none of them, or `rename` or `columns` names one that the frame lacks.
        """
        frame = self.renamed(frame, [rule.name for rule in rules])
        if unused := [name for name in frame.columns if isinstance(name, str) and name in self.unused]:
            self.left_out.update(unused)
            frame = frame.drop(columns=unused)
        self._check(frame, rules)
        return frame

    def renamed(self, frame: pd.DataFrame, known: Sequence[str] | None = None) -> pd.DataFrame:
        """Return the frame with the columns that are picked, under their new names.

        `known`: the columns of the table; None if it will be made from the frame.
        """
        if self.rename:
            self._check_rename(frame, known)
            frame = frame.rename(columns=self.rename)
        if self.columns is not None:
            picked = [name if name in frame.columns else self.rename.get(name, name) for name in self.columns]
            self._check_picked(frame, picked)
            frame = frame[picked]
        return frame

    @property
    def picked_in_source(self) -> list[str] | None:
        """The columns of the source that are picked or renamed; None: all may be loaded."""
        if self.columns is None:
            return None
        return list(dict.fromkeys([*map(self.in_source, self.columns), *self.rename]))

    def in_source(self, name: str) -> str:
        """Return the name of a column in the source."""
        return next((given for given, new in self.rename.items() if new == name), name)

    def _check_rename(self, frame: pd.DataFrame, known: Sequence[str] | None) -> None:
        there = list(dict.fromkeys(frame.columns))
        if absent := [name for name in self.rename if name not in frame.columns]:
            problems = [(name, _absent("rename=", name, frame)) for name in absent]
            raise _refused(problems, f"The frame has {_listed(there)}.")
        renamed = {given: self.rename.get(given, given) for given in there}
        sources = {name: [given for given in there if renamed[given] == name] for name in renamed.values()}
        if twice := {name: given for name, given in sources.items() if len(given) > 1}:
            for name, given in twice.items():
                kept = next(each for each in given if each in self.rename)
                renamed.update({other: f"other_{name}" for other in given if other != kept})
            rename = {given: name for given, name in renamed.items() if given != name}
            known = list(sources) if known is None else known
            picked = [name for name in dict.fromkeys(renamed.values()) if name in known]
            problems = [(name, f"{_listed(given)} would both get this name") for name, given in twice.items()]
            raise _refused(problems, f"To load one of them: {_call(rename, picked)}")

    def _check_picked(self, frame: pd.DataFrame, picked: Sequence[str]) -> None:
        problems = [(name, _absent("columns=", name, frame)) for name in picked if name not in frame.columns]
        problems += [(name, "columns= names it twice") for name, n in Counter(picked).items() if n > 1]
        if problems:
            raise _refused(problems, f"The frame has {_listed(list(dict.fromkeys(frame.columns)))}.")

    def _check(self, frame: pd.DataFrame, rules: Sequence[Rule]) -> None:
        misfits = _Misfits.of(frame, rules, with_index=self.columns is None)
        if misfits.problems:
            self._refuse(frame, rules, misfits)
        if len(frame) and not len(frame.columns) and all(rule.missing is None for rule in rules):
            said = "the frame has rows, and no column that is loaded"
            raise InvalidFrameError(
                f"{said}; nothing was loaded.\nThe columns are {', '.join(rule.name for rule in rules)}.",
                rejects_frame([(None, "", None, said)]),
            )

    def _refuse(self, frame: pd.DataFrame, rules: Sequence[Rule], misfits: _Misfits) -> NoReturn:
        """Raise the error for a frame's columns, with the arguments that load what fits."""
        required = [rule.name for rule in rules if rule.needed]
        in_index, meant = misfits.in_index, misfits.meant
        words = [
            f"The columns are {', '.join(rule.name for rule in rules)}; "
            f"needed are {' and '.join(required) or 'none'}."
        ]
        if in_index:
            words.append(
                "frame.reset_index() makes columns of the index; frame.reset_index(drop=True) drops it."
            )
        if misfits.repeated:
            words.append("frame.loc[:, ~frame.columns.duplicated()] has the first of each name.")
        extra = {*misfits.unknown, *(rule.name for rule in misfits.foreign)} - meant.keys()
        there = {*frame.columns, *in_index, *meant.values()}
        lacking = {name for name in required if name not in there or name in extra}
        picked, shown = None, misfits.problems
        if extra or self.columns is not None:
            names = [name for name in (*in_index, *frame.columns) if isinstance(name, str)]
            picked = list(dict.fromkeys(meant.get(name, name) for name in names if name not in extra))
        if (meant or picked) and not lacking and not misfits.repeated:
            kept = {old: new for old, new in self.rename.items() if new not in meant}
            rename = {**kept, **{self.in_source(name): new for name, new in meant.items()}}
            why = "If that is what they hold, map them" if meant else "To load the others alone"
            words.append(f"{why}: {_call(rename, picked)}")
            shown = [(name, reason.partition(" (did")[0]) for name, reason in misfits.problems]
        raise _refused(misfits.problems, "\n".join(words), shown)


@dataclass(frozen=True)
class _Misfits:
    """The columns of a frame that do not fit a table."""

    repeated: list[Any]  # names that the frame has more than once
    unknown: list[Any]  # that the table does not have
    in_index: list[str]  # that are levels of the frame's index
    missing: list[str]  # that the table needs
    foreign: list[Rule]  # of a type that is not loaded
    meant: dict[str, str]  # by unknown column or level, the column of the table that it most likely means

    @classmethod
    def of(cls, frame: pd.DataFrame, rules: Sequence[Rule], *, with_index: bool) -> _Misfits:
        """Compare a frame's columns with a table's; `with_index`: the index may have some of them."""
        known = [rule.name for rule in rules]
        unknown = [name for name in frame.columns if not (isinstance(name, str) and name in known)]
        missing = [rule.name for rule in rules if rule.needed and rule.name not in frame.columns]
        levels = [
            name for name in frame.index.names
            if with_index and isinstance(name, str) and name not in frame.columns
        ]  # fmt: skip
        in_index = [name for name in levels if name in known]
        # A level of the index may be a needed column under another name.
        others = [name for name in levels if name not in known]
        named = [name for name in (*unknown, *others) if isinstance(name, str)]
        meant = fitting(named, rules, {*map(str, frame.columns), *in_index}) if named else {}
        meant = {name: new for name, new in meant.items() if name not in others or new in missing}
        in_index += [name for name in others if name in meant]
        return cls(
            repeated=list(dict.fromkeys(frame.columns[frame.columns.duplicated()])),
            unknown=unknown,
            in_index=in_index,
            missing=[name for name in missing if name not in in_index],
            foreign=[rule for rule in rules if rule.type is None and rule.name in frame.columns],
            meant=meant,
        )

    @property
    def problems(self) -> list[tuple[object, str]]:
        """The columns, each with what is wrong with it."""
        found: list[tuple[object, str]] = []
        found += [(name, "the frame has this column more than once") for name in self.repeated]
        for name in self.unknown:
            meant = f" (did you mean {self.meant[name]!r}?)" if name in self.meant else ""
            found.append((name, f"unknown column{meant}"))
        found += [(name, "in the frame's index, and not a column") for name in self.in_index]
        found += [(name, "needed and missing") for name in self.missing]
        found += [(rule.name, rule.meaning) for rule in self.foreign]
        return found


def fitting(unknown: Sequence[str], rules: Sequence[Rule], there: Collection[str] = ()) -> dict[str, str]:
    """Return, by unknown column, the column of the table that it most likely means.

    No column is meant twice, nor one that is `there`. Names that differ in case and punctuation only come
    first, then other names for a column (`Rule.also`), then names that begin alike or are spelled alike.
    """
    found: dict[str, str] = {}
    open_ = {rule.name: rule for rule in rules if rule.name not in there}

    def match(name: str, column: str) -> None:
        found[name] = column
        del open_[column]

    plain_names = {name: plain(name) for name in unknown}
    for rule in list(open_.values()):
        for word in map(plain, (rule.name, *rule.also)):
            alike = (name for name, as_plain in plain_names.items() if as_plain == word and name not in found)
            if (taken := next(alike, None)) is not None:
                match(taken, rule.name)
                break
    open_by_plain = {plain(column): column for column in open_}
    words = {plain(word) for rule in rules for word in rule.also}
    for name, word in plain_names.items():
        if name in found or not word or word in words:  # 'county' is no misspelled 'country'
            continue
        begun = [column for column in open_by_plain if len(word) > 2 and column.startswith(word)]
        if close := begun or difflib.get_close_matches(word, open_by_plain, n=1, cutoff=0.7):
            match(name, open_by_plain.pop(close[0]))
    return found


def _are_names(names: object) -> bool:
    return isinstance(names, Iterable) and all(isinstance(name, str) for name in names)


def _absent(option: str, name: object, frame: pd.DataFrame) -> str:
    if name in frame.index.names:
        return "it is in the frame's index: frame.reset_index() makes a column of it"
    return f"{option} names it, and the frame lacks it{did_you_mean(name, frame.columns)}"


def _listed(names: Sequence[object]) -> str:
    shown = ", ".join(map(repr, names[:LISTED])) or "no columns"
    return shown + (f" and {len(names) - LISTED:,} more" if len(names) > LISTED else "")


def _refused(
    problems: Sequence[tuple[object, str]], hint: str, shown: Sequence[tuple[object, str]] | None = None
) -> InvalidFrameError:
    """Return the error for columns that are wrong as a whole, each with its reason.

    `shown` has shorter reasons, for the message.
    """
    by_reason: dict[str, list[object]] = {}
    for name, reason in problems if shown is None else shown:
        by_reason.setdefault(reason, []).append(name)
    said = "; ".join(
        f"column{'s' if len(names) > 1 else ''} {_listed(names)}: {reason}"
        for reason, names in by_reason.items()
    )
    return InvalidFrameError(
        f"{said}; nothing was loaded.\n{hint}",
        rejects_frame([(None, str(name), None, reason) for name, reason in problems]),
    )


def _call(rename: Mapping[str, str], columns: Sequence[str] | None) -> str:
    """Return the arguments of a load as a user types them."""
    pairs = ", ".join(f"{quoted(old)}: {quoted(new)}" for old, new in rename.items())
    parts = [f"rename={{{pairs}}}"] if rename else []
    if columns is not None:
        parts.append(f"columns=[{', '.join(map(quoted, columns))}]")
    return ", ".join(parts)


def quoted(value: object) -> str:
    """Return a name, a mark or another value as it is typed in Python: text in double quotes."""
    if not isinstance(value, str):
        return repr(value)
    shown = str.__repr__(value)  # in single quotes, unless it has one and no double quote
    return shown if shown[0] == '"' else '"' + shown[1:-1].replace("\\'", "'").replace('"', '\\"') + '"'
