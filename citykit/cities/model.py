"""The table of cities: its columns with their limits and meanings, and what is derived from them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Double,
    Identity,
    Index,
    Integer,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeEngine


class Base(DeclarativeBase):
    """Declarative base of citykit's tables; tables of your own on it are created along with them."""


MAX_INTEGER = 2**31 - 1  # of PostgreSQL's integer
KEY = ("name", "country", "region")
_CREATE = "await citykit.create_tables(engine)"
# Names that other data sets give these columns, the likeliest first. Errors suggest them; no column is
# renamed because of them.
ALSO = {
    "name": (
        "city", "city_name", "place_name", "place", "town", "locality", "settlement", "municipality",
        "city_ascii", "asciiname", "name_ascii", "accent_city", "urban_agglomeration", "stadt", "ort",
        "ville", "ciudad",
    ),
    "country": (
        "iso2", "iso_a2", "cca2", "alpha2", "iso", "cc", "country_code", "country_iso", "ctry",
        "country_name", "nation", "land", "pays", "iso3", "iso_a3", "cca3", "adm0_a3",
    ),
    "region": (
        "admin1", "admin1_code", "adm1", "admin_name", "admin1_name", "adm1name", "state", "state_code",
        "state_name", "state_id", "province", "subdivision", "subcountry", "department", "county",
        "bundesland",
    ),
    "population": (
        "pop", "pop_max", "pop_total", "total_population", "inhabitants", "residents", "people", "einwohner",
        "habitants", "poblacion",
    ),
    "latitude": ("lat", "lat_dd", "y", "breite", "breitengrad", "latitud"),
    "longitude": ("lng", "lon", "long", "lon_dd", "x", "laenge", "laengengrad", "longitud"),
}  # fmt: skip


def _limited(
    name: str,
    type_: TypeEngine[Any],
    low: int,
    high: int | None,
    meaning: str,
    *,
    example: object,
    unit: str = "",
    **options: Any,
) -> Any:
    """Make a column whose limits hold on the server (a check) and before it.

    ``info`` is read by `encode` (limits, meaning, what a missing value becomes, other names), and by the web
    application for its schemas and its form.
    """
    if isinstance(type_, Text):
        limits = f"char_length({name}) <= {high}" + (f" AND {name} <> ''" if low else "")
    else:
        limits = f"{name} >= {low}" if high is None else f"{name} BETWEEN {low} AND {high}"
    check = CheckConstraint(limits, name=f"cities_{name}_check", info={"checked": True})
    info = {
        "low": low,
        "high": MAX_INTEGER if high is None else high,
        "meaning": meaning.format(low=low, high=high),
        "missing": options.get("server_default"),  # a missing value becomes the server's default
        "unit": unit,
        "example": example,
        "also": ALSO.get(name, ()),
    }
    return mapped_column(type_, check, info=info, **options)


class City(Base):
    """A city: its natural key is (``name``, ``country``, ``region``).

    Attributes
    ----------
    id : int
        Given by the database.
    name : str
        1 to 400 characters, stored as given.
    country : str
        At most 100 characters, ``''`` where unknown. citykit's own data uses ISO 3166-1 alpha-2 codes.
    region : str
        First-level division, at most 100 characters, ``''`` where unknown.
    population : int
        Persons, 0 or more.
    latitude, longitude : float or None
        Degrees, -90 to 90 and -180 to 180.

    Examples
    --------
    >>> City(name="Reykjavík", country="IS", population=118_918)
    City('Reykjavík', country='IS', population=118918)
    """

    __tablename__ = "cities"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True, info={"given": False})
    name: Mapped[str] = _limited(
        "name", Text(collation="C"), 1, 400, "Names have {low} to {high} characters.", example="Reykjavík"
    )
    country: Mapped[str] = _limited(
        "country", Text(collation="C"), 0, 100, "Countries have at most {high} characters.",
        unit="code", example="IS", server_default="",
    )  # fmt: skip
    region: Mapped[str] = _limited(
        "region", Text(collation="C"), 0, 100, "Regions have at most {high} characters.",
        example="39", server_default="",
    )  # fmt: skip
    population: Mapped[int] = _limited(
        "population", Integer(), 0, None, "Populations are persons, {low} or more.",
        unit="persons", example=118_918,
    )  # fmt: skip
    latitude: Mapped[float | None] = _limited(
        "latitude", Double(), -90, 90, "Latitudes are degrees, {low} to {high}.",
        unit="degrees", example=64.13548,
    )  # fmt: skip
    longitude: Mapped[float | None] = _limited(
        "longitude", Double(), -180, 180, "Longitudes are degrees, {low} to {high}.",
        unit="degrees", example=-21.89541,
    )  # fmt: skip

    __table_args__ = (
        UniqueConstraint(*KEY, name="cities_key"),
        # 'biggest' reads these in their order and never sorts the table.
        Index("cities_biggest", population.desc(), "name"),
        Index("cities_biggest_by_country", "country", population.desc(), "name"),
        {"info": {"create": _CREATE}},
    )

    def __repr__(self) -> str:
        parts = [repr(self.__dict__.get("name"))]
        for column in COLUMNS:
            value = self.__dict__.get(column)  # getattr would query the database for an expired attribute
            if column != "name" and value not in (None, ""):
                parts.append(f"{column}={value!r}")
        return f"City({', '.join(parts)})"


assert isinstance(City.__table__, Table)  # noqa: S101  for the type checker: its declared type is FromClause
CITIES = City.__table__
_DTYPES = {str: "str", int: "int64", float: "float64"}
# The columns that a caller gives, with pandas' dtypes: all but id, which the database numbers.
COLUMNS = {
    column.name: _DTYPES[column.type.python_type] for column in CITIES.columns if column.identity is None
}

# The other names of a city, by its key. There is no foreign key to `cities`: it would forbid TRUNCATE, which
# makes a first load four times as fast. The names of a deleted city stay; they are found again if its key is
# stored again.
CITY_NAMES = Table(
    "city_names",
    Base.metadata,
    *(Column(name, Text(collation="C"), primary_key=True) for name in KEY),
    Column(
        "other_names",
        ARRAY(Text),
        nullable=False,
        info={"meaning": "Other names are a list of texts of {low} to {high} characters.".format_map(
            CITIES.c["name"].info
        )},
    ),
    # The names as `find_cities` compares them (`folding.folded_names`), and for its index (`compact`).
    Column("folded", Text(collation="C"), nullable=False),
    Column("compact", Text(collation="C"), nullable=False),
    info={"create": _CREATE},
)  # fmt: skip


def same_city(one: str, other: str) -> str:
    """Return the SQL condition that rows of two tables have the key of the same city."""
    return " AND ".join(f"{one}.{name} = {other}.{name}" for name in KEY)
