"""The SQL expressions that take case and accents off names. They are immutable: an index may hold them."""

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
SEARCH_INDEX = "cities_by_name"
# Around a name in the index, so that its trigrams tell where it begins and ends: capitals, which no folded
# name has and which are letters in every locale.
BEGIN, END = "Q", "X"


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
    return _folded(text, "{}", "{}")


def spelled(text: str) -> str:
    r"""Return the SQL expression of `folded` in ASCII: what is not is spelled as its bytes, ``\320\237``.

    pg_trgm makes trigrams of letters and digits only, and the database's locale says which characters are
    letters; those of ASCII are in every locale. A search for digits may also find digits of such bytes.
    """
    doubled = r"replace({}, '\', '\\')"
    return _folded(text, doubled, f"encode(decode({doubled}, 'escape'), 'escape')")


def indexed_name(folds: bool = True) -> str:
    """Return the SQL expression by which names are found."""
    return f"('{BEGIN}' || {spelled('name') if folds else 'lower(name)'} || '{END}')"


def _folded(text: str, ascii_only: str, others: str) -> str:
    bare = rf"regexp_replace(normalize({text}, NFKD), '[\u0300-\u036f]', '', 'g')"
    latin = f"translate({bare}, {_quoted(_FROM)}, {_quoted(_TO)})"
    for letter, letters in _SPELLED_OUT.items():
        latin = f"replace({latin}, '{letter}', '{letters}')"
    other = f"translate({bare}, '{_GREEK_AND_CYRILLIC[0]}', '{_GREEK_AND_CYRILLIC[1]}')"
    return (
        f"(CASE WHEN octet_length({text}) = char_length({text}) THEN {ascii_only.format(f'lower({text})')} "
        rf"WHEN {text} ~ '[\u0370-\u052f]' THEN {others.format(f'lower({other})')} "
        f"ELSE {others.format(f'lower({latin})')} END)"
    )


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
