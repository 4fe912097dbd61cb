"""The SQL expression that folds a name (no case, no accents), immutable so that an index may have it."""

from __future__ import annotations

import re
import string
import unicodedata

from citykit.encode import characters_of

# Letters that NFKD does not decompose. Under COLLATE "C" lower() changes ASCII only, hence the capitals.
_FROM = "ÆŒÞẞØøŁłĐđÐðĦħŦŧı\u2019\u2018\u02bb\u02bc`"
_TO = "æœþßoollddddhhtti'''''"
_GREEK_AND_CYRILLIC = (
    "ΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡΣΤΥΦΧΨΩςАБВГДЕЖЗИЙКЛМНОПРСТУФХЦЧШЩЪЫЬЭЮЯЂЄЅІЈЉЊЋЏҐ",
    "αβγδεζηθικλμνξοπρστυφχψωσабвгдежзийклмнопрстуфхцчшщъыьэюяђєѕіјљњћџґ",
)
_SPELLED_OUT = {"ß": "ss", "æ": "ae", "œ": "oe", "þ": "th"}

# The database encodings for which names are indexed. In SQL_ASCII characters are bytes: only lower() applies.
INDEXED_ENCODINGS = ("UTF8", "SQL_ASCII")
SEARCH_INDEX = "cities_by_name"
NAMES_INDEX = "city_names_by_name"
# Marks before and after each name in the index, so that trigrams tell where a name begins and ends. No folded
# name has capitals, and pg_trgm takes these for letters in every locale.
BEGIN, END = "Q", "X"


def folded(text: str, encoding: str = "UTF8") -> str:
    """Return the SQL expression that folds a text expression: immutable, and cheap for ASCII.

    `encoding` is the database's (``server_encoding``): PostgreSQL's normalize() works in UTF8 only. In an
    encoding of one byte a character, letters are replaced one by one; in others only lower() applies.

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
    if encoding in INDEXED_ENCODINGS:
        return _folded(text, "{}", "{}")
    return _folded_letters(text, characters_of(encoding) or "")


def spelled(text: str) -> str:
    r"""Return `folded` as ASCII, in which other characters are written as their bytes, ``\320\237``.

    pg_trgm makes trigrams of letters and digits only, and which characters are letters depends on the
    database's locale; the digits of the bytes are indexed in every locale. A digit that is sought may match
    them: the caller compares the folded name as well.
    """
    doubled = r"replace({}, E'\\', E'\\\\')"  # E'…': standard_conforming_strings may be off
    return _folded(text, doubled, f"encode(decode({doubled}, 'escape'), 'escape')")


def indexed_name(encoding: str = "UTF8") -> str:
    """Return the SQL expression by which names are found, in a database of that encoding."""
    name = spelled("name") if encoding in INDEXED_ENCODINGS else folded("name", encoding)
    return f"('{BEGIN}' || {name} || '{END}')"


def folded_names(names: str, encoding: str) -> str:
    """Return a subquery of one row: the folded names of an array, each between BEGIN and END, as one text.

    Its columns are ``folded`` and, for the index, ``compact``, which is '' unless the database is in UTF8. A
    blank between two names keeps trigrams from having letters of both.
    """
    joined = f"string_agg('{BEGIN}' || {{}} || '{END}', ' ' ORDER BY position)"
    short = joined.format(compact("name")) if encoding == "UTF8" else "''"
    each = folded('(one.name COLLATE "C")', encoding)
    return (
        f"(SELECT {joined.format('name')} AS folded, {short} AS compact FROM ("  # noqa: S608
        f"SELECT {each} AS name, one.position FROM unnest({names}) WITH ORDINALITY AS one (name, position) "
        "OFFSET 0) AS each_folded)"  # so that each is folded once
    )


def compact(text: str) -> str:
    """Return the SQL expression of a folded text as ASCII, in a database in UTF8.

    Different texts may become equal. Each character that is not ASCII becomes one to three letters or
    digits, by its continuation bytes in UTF-8, so that a trigram covers up to three characters. One of
    `spelled` covers about one byte, and a city with names in many scripts has nearly all of those.
    """
    # Lead bytes are dropped: `translate` would compare each with its whole list.
    plain = rf"replace({text}, E'\\', '/')"  # decode() takes a backslash for the start of an octal number
    octets = f"convert_from(decode({plain}, 'escape'), 'LATIN1')"
    continuation = rf"regexp_replace({octets}, E'[\\u00c0-\\u00ff]', '', 'g')"
    short = f"translate({continuation}, E'{_CONTINUATION_BYTES}', '{(_SIGNS * 2)[:64]}')"
    return f"(CASE WHEN octet_length({text}) = char_length({text}) THEN {plain} ELSE {short} END)"


_CONTINUATION_BYTES = "".join(rf"\u{octet:04x}" for octet in range(0x80, 0xC0))
_SIGNS = string.ascii_lowercase + string.digits


def _folded(text: str, ascii_only: str, others: str) -> str:
    bare = rf"regexp_replace(normalize({text}, NFKD), E'[\\u0300-\\u036f]', '', 'g')"
    latin = f"translate({bare}, {_quoted(_FROM)}, {_quoted(_TO)})"
    for letter, letters in _SPELLED_OUT.items():
        latin = f"replace({latin}, '{letter}', '{letters}')"
    other = f"translate({bare}, '{_GREEK_AND_CYRILLIC[0]}', '{_GREEK_AND_CYRILLIC[1]}')"
    return (
        f"(CASE WHEN octet_length({text}) = char_length({text}) THEN {ascii_only.format(f'lower({text})')} "
        rf"WHEN {text} ~ E'[\\u0370-\\u052f]' THEN {others.format(f'lower({other})')} "
        f"ELSE {others.format(f'lower({latin})')} END)"
    )


def _folded_letters(text: str, characters: str) -> str:
    """Return `folded` for a database that has these characters beside ASCII, and no normalize()."""
    table = str.maketrans(_FROM + _GREEK_AND_CYRILLIC[0], _TO + _GREEK_AND_CYRILLIC[1])
    single: dict[str, str] = {}
    several: dict[str, str] = {}
    for character in characters:
        bare = (
            re.sub("[\u0300-\u036f]", "", unicodedata.normalize("NFKD", character)).translate(table).lower()
        )
        bare = _SPELLED_OUT.get(bare, bare)
        if bare != character and all(letter.isascii() or letter in characters for letter in bare):
            (single if len(bare) == 1 else several)[character] = bare
    sql = f"translate(lower({text}), {_quoted(''.join(single))}, {_quoted(''.join(single.values()))})"
    for character, letters in several.items():
        sql = f"replace({sql}, {_quoted(character)}, {_quoted(letters)})"
    return sql


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
