"""The words of the house: ``Base`` and ``City``, the one table that citykit keeps."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Double, Identity, Index, Integer, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeEngine


class Base(DeclarativeBase):
    """Declarative base of citykit's tables; tables of your own on it are created along with them."""


def _limited(
    name: str, type_: TypeEngine[Any], low: int, high: int | None, meaning: str, **options: Any
) -> Any:
    """Make a column whose limits hold on the server (a check) and before it (``info``, read by `encode`)."""
    if isinstance(type_, Text):
        limits = f"char_length({name}) <= {high}" + (f" AND {name} <> ''" if low else "")
    else:
        limits = f"{name} >= {low}" if high is None else f"{name} BETWEEN {low} AND {high}"
    check = CheckConstraint(limits, name=f"cities_{name}_check", info={"checked": True})
    missing = options.get("server_default")  # what a missing value becomes is what the server would take
    info = {"low": low, "high": high, "meaning": meaning, "missing": missing}
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
    name: Mapped[str] = _limited("name", Text(collation="C"), 1, 400, "Names have 1 to 400 characters.")
    country: Mapped[str] = _limited(
        "country", Text(collation="C"), 0, 100, "Countries have at most 100 characters.", server_default=""
    )
    region: Mapped[str] = _limited(
        "region", Text(collation="C"), 0, 100, "Regions have at most 100 characters.", server_default=""
    )
    population: Mapped[int] = _limited(
        "population", Integer(), 0, None, "Populations are persons, 0 or more."
    )
    latitude: Mapped[float | None] = _limited(
        "latitude", Double(), -90, 90, "Latitudes are degrees, -90 to 90."
    )
    longitude: Mapped[float | None] = _limited(
        "longitude", Double(), -180, 180, "Longitudes are degrees, -180 to 180."
    )

    __table_args__ = (
        UniqueConstraint("name", "country", "region", name="cities_key"),
        # 'biggest' reads these in their order and never sorts the table.
        Index("cities_biggest", population.desc(), "name"),
        Index("cities_biggest_by_country", "country", population.desc(), "name"),
        {"info": {"create": "await citykit.create_tables(engine)"}},
    )

    def __repr__(self) -> str:
        parts = [repr(self.__dict__.get("name"))]
        for column in ("country", "region", "population", "latitude", "longitude"):
            value = self.__dict__.get(column)  # asking for an expired one would ask the database
            if value not in (None, ""):
                parts.append(f"{column}={value!r}")
        return f"City({', '.join(parts)})"
