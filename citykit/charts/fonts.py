"""Names in any script, drawn in a font that has their letters where one is installed."""

from __future__ import annotations

import inspect
import re
import unicodedata
import warnings
from collections.abc import Iterable
from typing import Any

from matplotlib import font_manager, rcParams
from matplotlib.ft2font import FT2Font

_LAST_RESORT = "Last Resort High-Efficiency"  # matplotlib's own: a box for every character
_EAST_ASIA = {"CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "IDEOGRAPHIC", "KANGXI", "FULLWIDTH"}
PRIVATE = "private-use"
# script: what has its letters, and Debian's and Ubuntu's package of it. Else: Noto Sans X, fonts-noto-core.
_FONTS = {
    "Chinese, Japanese or Korean": ("Noto Sans CJK", "fonts-noto-cjk"),
    "Tibetan": ("Noto Serif Tibetan", "fonts-noto-core"),
    "symbol": ("Symbola", "fonts-symbola"),  # matplotlib draws no coloured emoji
}
_families: dict[str, str] = {}  # by character, of those that a fallback was found for
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
    """Those characters that none of the families has. What is never seen (joiners, …) is not lacking."""
    lacking = {c for c in characters if unicodedata.category(c) not in ("Cf", "Zs", "Zl", "Zp")}
    lacking -= {c for c in lacking if unicodedata.name(c, "").startswith("VARIATION SELECTOR")}
    for family in families if lacking else ():
        path = font_manager.findfont(font_manager.FontProperties(family=[family]))
        font = FT2Font(path.path, face_index=path.face_index)
        lacking = {c for c in lacking if not font.get_char_index(ord(c))}
    return lacking


def _look_for(characters: set[str]) -> None:
    """Find families for characters: script by script, the one that has the most of them goes first."""
    upright = [e for e in font_manager.fontManager.ttflist if (e.style, e.variant) == ("normal", "normal")]
    regular = {e.name: e for e in upright if e.weight in (400, "normal", "regular", "book")}
    has: dict[str, set[str]] = {}
    for name, entry in regular.items():
        if name != _LAST_RESORT:
            try:
                font = FT2Font(entry.fname, face_index=entry.index)
            except (OSError, RuntimeError, NotImplementedError):  # removed meanwhile, damaged, of bitmaps
                continue
            has[name] = {c for c in characters if font.get_char_index(ord(c))}
    for script in {_script(c) for c in characters} - {PRIVATE}:
        left = {c for c in characters if _script(c) == script}
        while left & set().union(*has.values()):
            best = min(has, key=lambda name: (-len(has[name] & left), *_taste(name)))
            _families.update(dict.fromkeys(has[best] & left, best))
            left -= has[best]


def _taste(name: str) -> tuple[bool, bool, bool, str]:
    """Sans before serif and monospaced, and simplified Chinese before the other faces of the same letters."""
    return "Sans" not in name, "Mono" in name, not name.endswith(" SC"), name


def _take_in_new_fonts() -> bool:
    """Let matplotlib know of fonts that were installed after it made its list; True if there are any."""
    known = {entry.fname for entry in font_manager.fontManager.ttflist}
    before = len(known)
    for path in set(font_manager.findSystemFonts()) - known:
        try:
            font_manager.fontManager.addfont(path)
        except (OSError, RuntimeError, NotImplementedError):  # damaged, or a font of bitmaps
            continue
    return len({entry.fname for entry in font_manager.fontManager.ttflist}) > before


def _script(character: str) -> str:
    """Return the script as Unicode names the character: ETHIOPIC SYLLABLE HA is Ethiopic."""
    name = unicodedata.name(character, "")
    if not name:
        return PRIVATE
    if _EAST_ASIA & set(re.split(r"[ -]", name)):
        return "Chinese, Japanese or Korean"
    if unicodedata.category(character).startswith("S"):
        return "symbol"
    words = re.split(
        r" (?:(?:CAPITAL|SMALL|FINAL|SUBJOINED|INDEPENDENT|DEPENDENT|CONSONANT) )?"
        r"(?:LETTER|SYLLABLE|SYLLABICS|CHARACTER|VOWEL|SIGN|DIGIT|MARK)\b",
        name,
    )
    return (words[0] if len(words) > 1 else name.split()[0]).title()


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
