"""Names without case and accents, as the server folds them: one SQL expression, which an index may hold."""

from __future__ import annotations

# What Unicode does not decompose, and the capitals that lower() leaves alone under COLLATE "C".
_FROM = "ÆŒÞẞØøŁłĐđÐðĦħŦŧı\u2019\u2018\u02bb\u02bc`"
_TO = "æœþßoollddddhhtti'''''"
_GREEK_AND_CYRILLIC = (
    "ΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡΣΤΥΦΧΨΩςАБВГДЕЖЗИЙКЛМНОПРСТУФХЦЧШЩЪЫЬЭЮЯЂЄЅІЈЉЊЋЏҐ",
    "αβγδεζηθικλμνξοπρστυφχψωσабвгдежзийклмнопрстуфхцчшщъыьэюяђєѕіјљњћџґ",
)
_SPELLED_OUT = {"ß": "ss", "æ": "ae", "œ": "oe", "þ": "th"}

FOLDING_ENCODINGS = ("UTF8", "SQL_ASCII")  # in the latter, whose characters are bytes, lower() alone applies
SEARCH_INDEX = "cities_search"


def folded(text: str) -> str:
    """Return the SQL expression that folds a text expression: immutable, and cheap where that is ASCII.

    Examples
    --------
    >>> sql = f"SELECT {folded(':name')} AS folded"
    >>> for name in ["São Paulo", "ZÜRICH", "Straße", "Łódź", "İstanbul", "ΑΘΗΝΑ"]:
    ...     citykit.run(citykit.read_frame(engine, sql, {"name": name}))["folded"].item()
    'sao paulo'
    'zurich'
    'strasse'
    'lodz'
    'istanbul'
    'αθηνα'
    """
    bare = rf"regexp_replace(normalize({text}, NFKD), '[\u0300-\u036f]', '', 'g')"
    latin = f"translate({bare}, {_quoted(_FROM)}, {_quoted(_TO)})"
    for letter, letters in _SPELLED_OUT.items():
        latin = f"replace({latin}, '{letter}', '{letters}')"
    other = f"translate({bare}, '{_GREEK_AND_CYRILLIC[0]}', '{_GREEK_AND_CYRILLIC[1]}')"
    return (
        f"(CASE WHEN octet_length({text}) = char_length({text}) THEN lower({text}) "
        rf"WHEN {text} ~ '[\u0370-\u052f]' THEN lower({other}) "
        f"ELSE lower({latin}) END)"
    )


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
