"""Names in any script, drawn in a font that has their letters where one is installed."""

from __future__ import annotations

import inspect
import unicodedata
import warnings
from collections.abc import Iterable
from typing import Any

import fontTools.unicodedata
from matplotlib import font_manager, rcParams
from matplotlib.ft2font import FT2Font

_LAST_RESORT = "Last Resort High-Efficiency"  # matplotlib's own: a box for every character
_EAST_ASIA = {"Bopo", "Hang", "Hani", "Hira", "Kana"}  # ISO 15924 codes of scripts that share a font
PRIVATE = "private-use"
# By script, a font that has its letters, and the package of it in Debian and Ubuntu. For all other scripts:
# Noto Sans and the script's name, in fonts-noto-core.
_FONTS = {
    **dict.fromkeys(("Latin", "Greek", "Cyrillic"), ("Noto Sans", "fonts-noto-core")),
    "Chinese, Japanese or Korean": ("Noto Sans CJK", "fonts-noto-cjk"),
    "Tibetan": ("Noto Serif Tibetan", "fonts-noto-core"),
    "symbol": ("Symbola", "fonts-symbola"),  # matplotlib cannot draw the colour fonts of emoji
}
_families: dict[str, str] = {}  # by character, the fallback that was found for it
_nowhere: dict[str, int] = {}  # by character that no font has, the number of fonts in which it was looked for
_warned: set[str] = set()


def legible(texts: Iterable[str]) -> dict[str, Any]:
    """Return the text properties that draw these names: as they are (no formulas), in fonts that have them.

    matplotlib takes each glyph from the first family of the list that has it. Letters that no installed font
    has become boxes, with one warning per process and script that says what to install.
    """
    own = list(rcParams["font.family"])
    wanted = {c: text for text in texts for c in text if not c.isascii()}
    missing = {c: text for c, text in wanted.items() if c in _lacking(own, wanted)}
    unknown = missing.keys() - _families.keys()
    if unknown:
        _look_for(unknown)
        if unknown - _families.keys() and _take_in_new_fonts():
            _look_for(unknown - _families.keys())
    found = [_families[c] for c in missing if c in _families]
    boxes = {c: text for c, text in missing.items() if c not in _families}
    if boxes:
        _warn(boxes)
    family = list(dict.fromkeys([*own, *found, *[_LAST_RESORT] * bool(boxes)]))
    return {"fontfamily": family, "parse_math": False, "usetex": False}


def _lacking(families: list[str], characters: Iterable[str]) -> set[str]:
    """Return the characters that none of the families has; invisible ones (joiners, …) need no glyph."""
    lacking = {c for c in characters if unicodedata.category(c) not in ("Cf", "Zs", "Zl", "Zp")}
    lacking -= {c for c in lacking if unicodedata.name(c, "").startswith("VARIATION SELECTOR")}
    for family in families if lacking else ():
        path = font_manager.findfont(font_manager.FontProperties(family=[family]))
        font = FT2Font(path.path, face_index=path.face_index)
        lacking = {c for c in lacking if not font.get_char_index(ord(c))}
    return lacking


def _look_for(characters: set[str]) -> None:
    """Find families for characters; the one that has most characters of a script is taken first."""
    fonts = len(font_manager.fontManager.ttflist)
    characters = {c for c in characters if _nowhere.get(c) != fonts}
    if not characters:
        return
    upright = [e for e in font_manager.fontManager.ttflist if (e.style, e.variant) == ("normal", "normal")]
    regular = {e.name: e for e in upright if e.weight in (400, "normal", "regular", "book")}
    has: dict[str, set[str]] = {}
    for name, entry in regular.items():
        if name != _LAST_RESORT:
            try:
                font = FT2Font(entry.fname, face_index=entry.index)
            except (OSError, RuntimeError, NotImplementedError):  # removed, damaged, or a bitmap font
                continue
            has[name] = {c for c in characters if font.get_char_index(ord(c))}
    for script in {_script(c) for c in characters} - {PRIVATE}:
        left = {c for c in characters if _script(c) == script}
        while left & set().union(*has.values()):
            best = min(has, key=lambda name: (-len(has[name] & left), *_taste(name)))
            _families.update(dict.fromkeys(has[best] & left, best))
            left -= has[best]
    _nowhere.update(dict.fromkeys(characters - _families.keys(), fonts))


def _taste(name: str) -> tuple[bool, bool, bool, str]:
    """Return a sort key: sans before serif and monospaced, simplified Chinese before other CJK faces."""
    return "Sans" not in name, "Mono" in name, not name.endswith(" SC"), name


def _take_in_new_fonts() -> bool:
    """Add fonts that were installed after matplotlib made its list; return whether there are any."""
    known = {entry.fname for entry in font_manager.fontManager.ttflist}
    before = len(known)
    for path in set(font_manager.findSystemFonts()) - known:
        try:
            font_manager.fontManager.addfont(path)
        except (OSError, RuntimeError, NotImplementedError):  # damaged, or a bitmap font
            continue
    return len({entry.fname for entry in font_manager.fontManager.ttflist}) > before


def _script(character: str) -> str:
    """Return a character's script by Unicode's name for it; those of several scripts go by their block."""
    codes = fontTools.unicodedata.script_extension(character)
    if codes & _EAST_ASIA or unicodedata.east_asian_width(character) == "F":
        return "Chinese, Japanese or Korean"
    if codes == {"Zzzz"}:  # Unicode assigns it to no script: private use, or a later version of Unicode
        return PRIVATE
    names = {str(fontTools.unicodedata.script_name(code)) for code in codes - {"Zyyy", "Zinh"}}
    block = fontTools.unicodedata.block(character)
    return names.pop() if len(names) == 1 else block if block in names else "symbol"


def _warn(boxes: dict[str, str]) -> None:
    scripts = {_script(c): text for c, text in boxes.items()}
    new = sorted(scripts.keys() - _warned)
    if not new:
        return
    _warned.update(new)
    said = f"No installed font has the {', '.join(new)} characters of names such as {scripts[new[0]]!r}: "
    said += "boxes are drawn instead."
    known = [
        _FONTS.get(script, (f"Noto Sans {script}", "fonts-noto-core")) for script in new if script != PRIVATE
    ]
    if known:
        fonts, packages = (
            ", ".join(font for font, _ in known),
            " ".join(sorted({package for _, package in known})),
        )
        said += f" Install {fonts} (Debian, Ubuntu: apt install {packages}; elsewhere: fonts.google.com/noto)"
        said += " and draw again."
    level, caller = 1, inspect.currentframe()
    while caller and caller.f_globals.get("__name__", "").startswith("citykit."):
        level, caller = level + 1, caller.f_back
    warnings.warn(said, stacklevel=level)
