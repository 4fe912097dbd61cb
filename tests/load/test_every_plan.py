"""What a load does to odd tables, by every plan: the same result, error, counts and rejects."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

import pandas as pd
import pytest
import sqlalchemy as sa
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

import citykit
from citykit.load.loading import load_rows
from citykit.load.plan import Limits
from tests.support.database import scalar

# Limits under which a few rows go through each plan, and whether they come as a stream.
PLANS = {
    "few": (Limits(math.inf, math.inf), False),
    "few, streamed": (Limits(math.inf, math.inf), True),
    "large": (Limits(0, math.inf), False),
    "rebuilt": (Limits(0, 0), False),
    "rebuilt, streamed": (Limits(0, 0), True),
}
LONG = "東" * 21
SCHEMA = "odd :s %s \"'."
QUOTED = '"' + SCHEMA.replace('"', '""') + '"'
INTEGER, TEXT = sa.Integer, sa.Text
UNPACKABLE = "".join(chr(0x4E00 + n**3 % 20_903) for n in range(4_000))  # 12 kB that do not get smaller


@dataclass
class Case:
    """A table, what is in it, and a frame for it."""

    sql: str
    frame: dict[str, list[Any]]
    types: dict[str, Any]
    said: str = ""  # of the error under "error", a pattern
    rejected: tuple[int, str] | None = None
    more: list[tuple[int, str]] = field(default_factory=list)  # rejects after that one
    name: str = "t"
    key: tuple[str, ...] = ("k",)
    after: str = ""
    since: int = 140_000  # the version of PostgreSQL, as server_version_num has it


def numbers(**columns: list[Any]) -> dict[str, Any]:
    return {"frame": columns, "types": dict.fromkeys(columns, INTEGER)}


# A type of the server where Python has text, a text that it takes, and one that it refuses or would change.
TEXTS = [
    ("int", "7", "7.5"),
    ("uuid", "12345678-1234-5678-1234-567812345678", "1234"),
    ("jsonb", '{"a": 1}', "{a}"),
    ("json", '{"a": 1}', "{a}"),
    ("date", "2026-01-01", "2026-01-01 12:00"),
    ("mood", "ok", "glad"),
    ("mood[]", "{ok,sad}", "{glad}"),
    ("boolean", "yes", "maybe"),
    ("numeric(4, 1)", "1.50", "1.25"),
    ("double precision", "0.1234567890123456", "9007199254740993"),
    ("real", "0.1", "16777217"),
    ("timestamp", "2026-01-01 12:00", "2026-01-01 12:00+14"),
    ("timestamptz(0)", "2026-01-01 12:00+14", "2026-01-01 12:00:00.5+14"),
    ("time", "12:00", "12:00-14"),
    ("interval(0)", "1 day", "0.5 seconds"),
    ("inet", "192.0.2.1", "192.0.2.256"),
    ("bytea", "\\x00ff", "\\x0"),
    ("bit(3)", "101", "1010"),
    ("int[]", "{1,NULL}", "{1,a}"),
    ("int4range", "[1,2)", "[2,1)"),
    ("point", "(1,2)", "(1)"),
    ("tsquery", "a & b", "a b"),
]
CASES: dict[str, Case] = {
    "deferred foreign key": Case(
        "CREATE TABLE p (id int PRIMARY KEY); INSERT INTO p VALUES (1); CREATE TABLE t (k int PRIMARY KEY, "
        "v int REFERENCES p DEFERRABLE INITIALLY DEFERRED); INSERT INTO t VALUES (1, 1)",
        **numbers(k=[2, 3, 4], v=[1, 1, 1]),
    ),
    "deferred foreign key, a bad reference": Case(
        "CREATE TABLE p (id int PRIMARY KEY); INSERT INTO p VALUES (1); CREATE TABLE t (k int PRIMARY KEY, "
        "v int REFERENCES p DEFERRABLE INITIALLY DEFERRED); INSERT INTO t VALUES (1, 1)",
        **numbers(k=[2, 3, 4], v=[1, 9, 1]), rejected=(1, "v"),
    ),
    "deferred unique key": Case(
        "CREATE TABLE t (k int UNIQUE DEFERRABLE INITIALLY DEFERRED, v int); INSERT INTO t VALUES (1, 1)",
        **numbers(k=[2, 1, 2], v=[1, 2, 3]), said="already there",
    ),
    "a deferred unique key beside one that is not": Case(
        "CREATE TABLE t (k int UNIQUE, v int, UNIQUE (k) DEFERRABLE INITIALLY DEFERRED); "
        "INSERT INTO t VALUES (1, 1)",
        **numbers(k=[2, 1, 2], v=[1, 2, 3]), said="already there",
    ),
    "deferred trigger": Case(
        "CREATE FUNCTION no_nine() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN IF NEW.v = 9 THEN "
        "RAISE ''no nine''; END IF; RETURN NULL; END'; CREATE TABLE t (k int PRIMARY KEY, v int); "
        "CREATE CONSTRAINT TRIGGER late AFTER INSERT OR UPDATE ON t DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION no_nine()",
        **numbers(k=[2, 3, 4], v=[1, 9, 1]), rejected=(1, ""),
    ),
    **{
        f"trigger that raises {condition}": Case(
            "CREATE FUNCTION no_nine() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN IF NEW.v = 9 THEN "
            f"RAISE ''no nine'' USING ERRCODE = ''{condition}''; END IF; RETURN NEW; END'; "
            "CREATE TABLE t (k int PRIMARY KEY, v int); CREATE TRIGGER early BEFORE INSERT OR UPDATE ON t "
            "FOR EACH ROW EXECUTE FUNCTION no_nine()",
            **numbers(k=[2, 3, 4], v=[1, 9, 1]), rejected=(1, ""),
        )
        for condition in (
            "45000", "ZZ001", "insufficient_privilege", "undefined_table", "unique_violation",
            "query_canceled", "2200H",
        )
    },
    "an exclusion of expressions": Case(
        "CREATE TABLE t (k int PRIMARY KEY, a int, b int, EXCLUDE USING gist (int4range(a, b) WITH &&))",
        **numbers(k=[2, 3, 4, 5], a=[1, 5, 3, 20], b=[4, 9, 6, 25]), rejected=(2, ""),
    ),
    "references to later rows beside a row that a trigger refuses": Case(
        "CREATE FUNCTION no_nine() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN IF NEW.v = 9 THEN "
        "RAISE ''no nine''; END IF; RETURN NEW; END'; CREATE TABLE t (k int PRIMARY KEY, p int REFERENCES t, "
        "v int); CREATE TRIGGER early BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION no_nine()",
        {"k": [2, 3, 4, 5, 6], "p": [3, 4, None, 6, None], "v": [1, 1, 1, 1, 9]},
        {"k": INTEGER, "p": INTEGER, "v": INTEGER}, rejected=(3, "p"), more=[(4, "")],
    ),
    "references to later rows beside a unique value": Case(
        "CREATE TABLE t (k int PRIMARY KEY, p int REFERENCES t, v int UNIQUE)",
        {"k": [2, 3, 4], "p": [3, 4, None], "v": [1, 2, 3]}, {"k": INTEGER, "p": INTEGER, "v": INTEGER},
    ),
    "a deferred trigger that looks at several rows beside one that refuses a row": Case(
        "CREATE FUNCTION even() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN "
        "EXECUTE format(''SELECT sum(v) FROM %s'', TG_RELID::regclass) INTO NEW.v; "
        "IF NEW.v % 2 = 1 THEN RAISE ''odd''; END IF; RETURN NULL; END'; "
        "CREATE FUNCTION no_nine() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN IF NEW.v = 9 THEN "
        "RAISE ''no nine''; END IF; RETURN NEW; END'; CREATE TABLE t (k int PRIMARY KEY, v int); "
        "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW "
        "EXECUTE FUNCTION even(); "
        "CREATE TRIGGER early BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION no_nine()",
        **numbers(k=[2, 3, 4], v=[1, 9, 1]), rejected=(1, ""),
    ),
    "a DEFERRABLE key of a table from which another inherits": Case(
        "CREATE TABLE t (k int PRIMARY KEY DEFERRABLE, v int); CREATE TABLE child () INHERITS (t); "
        "INSERT INTO t VALUES (1, 1); INSERT INTO child VALUES (2, 2)",
        **numbers(k=[2, 1, 2], v=[5, 6, 7]), said="already there",
    ),
    "a table called excluded": Case(
        "CREATE TABLE excluded (k int PRIMARY KEY, v int); INSERT INTO excluded VALUES (1, 1)",
        **numbers(k=[2, 1, 2], v=[5, 6, 7]), name="excluded", said="already there",
    ),
    "trigger that refuses the statement": Case(
        "CREATE FUNCTION closed() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''closed''; END'; "
        "CREATE TABLE t (k int PRIMARY KEY, v int); INSERT INTO t VALUES (3, 1); "
        "CREATE TRIGGER closed BEFORE INSERT ON t EXECUTE FUNCTION closed()",
        **numbers(k=[2, 3, 4], v=[1, 9, 1]), said="^closed; nothing was",
    ),
    "trigger whose CASE has no ELSE": Case(
        "CREATE FUNCTION one() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN CASE NEW.v WHEN 1 THEN "
        "RETURN NEW; END CASE; END'; "
        "CREATE TABLE t (k int PRIMARY KEY, v int); CREATE TRIGGER early BEFORE INSERT OR UPDATE ON t "
        "FOR EACH ROW EXECUTE FUNCTION one()",
        **numbers(k=[2, 3, 4], v=[1, 9, 1]), rejected=(1, ""),
    ),
    "a text that is too large for an index": Case(
        "CREATE TABLE t (k int PRIMARY KEY, v text); CREATE INDEX ON t (v)",
        {"k": [2, 3, 4], "v": ["a", UNPACKABLE, "b"]}, {"k": INTEGER, "v": TEXT}, rejected=(1, ""),
    ),
    "exclusion between new rows": Case(
        "CREATE TABLE t (k int PRIMARY KEY, v int, EXCLUDE USING btree (v WITH =))",
        **numbers(k=[2, 3, 4], v=[1, 2, 1]), rejected=(2, "v"),
    ),
    "exclusion with a stored row": Case(
        "CREATE TABLE t (k int PRIMARY KEY, v int, EXCLUDE USING btree (v WITH =)); "
        "INSERT INTO t VALUES (1, 7)",
        **numbers(k=[2, 3, 4], v=[1, 7, 2]), rejected=(1, "v"),
    ),
    "domain": Case(
        "CREATE DOMAIN positive AS int CHECK (VALUE > 0); CREATE TABLE t (k int PRIMARY KEY, v positive)",
        **numbers(k=[2, 3, 4], v=[1, -1, 2]), rejected=(1, "v"),
    ),
    "domain over an enum": Case(
        "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE DOMAIN feeling AS mood; "
        "CREATE TABLE t (k int PRIMARY KEY, v feeling); INSERT INTO t VALUES (1, 'ok')",
        {"k": [1, 2, 1], "v": ["sad", "ok", "sad"]}, {"k": INTEGER, "v": TEXT}, said="already there",
    ),
    "domain over an enum as a key": Case(
        "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE DOMAIN feeling AS mood; "
        "CREATE TABLE t (k feeling PRIMARY KEY, v int); INSERT INTO t VALUES ('ok', 1)",
        {"k": ["ok", "sad", "ok"], "v": [2, 3, 4]}, {"k": TEXT, "v": INTEGER}, said="already there",
    ),
    **{
        f"{what} with a domain in it": Case(
            "CREATE DOMAIN positive AS int CHECK (VALUE > 0); CREATE DOMAIN many AS positive[]; "  # noqa: S608
            "CREATE DOMAIN listed AS int[]; "
            f"CREATE TABLE t (k int PRIMARY KEY, v {what}); INSERT INTO t VALUES (1, '{{7}}')",
            {"k": [1, 2, 1], "v": [[8], [1, 2], [8]]}, {"k": INTEGER, "v": sa.ARRAY(INTEGER)},
            said="already there",
        )
        for what in ("positive[]", "many", "listed")
    },
    "second unique constraint": Case(
        "CREATE TABLE t (k int PRIMARY KEY, v int CONSTRAINT only_one UNIQUE); INSERT INTO t VALUES (1, 7)",
        **numbers(k=[2, 3], v=[7, 8]), said="only_one",
    ),
    "second unique constraint that is checked late": Case(
        "CREATE TABLE t (k int PRIMARY KEY, v int CONSTRAINT only_one UNIQUE DEFERRABLE); "
        "INSERT INTO t VALUES (1, 7), (2, 8)",
        **numbers(k=[1, 2, 3], v=[8, 7, 9]), said="already there",
    ),
    "equal keys that are not the same": Case(
        "CREATE TABLE t (k float8 PRIMARY KEY, v int); INSERT INTO t VALUES (1, 0)",
        {"k": [-0.0, 0.0, 3.0], "v": [1, 2, 3]}, {"k": sa.Double, "v": INTEGER}, said="already there",
    ),
    "a trigger that relies on the key": Case(
        "CREATE TABLE t (k int PRIMARY KEY, v int); "
        "CREATE FUNCTION below() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN IF NEW.k > 0 THEN "
        "INSERT INTO t VALUES (-NEW.k, 0) ON CONFLICT (k) DO NOTHING; END IF; "
        "RETURN NULL; END'; CREATE TRIGGER also AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION below()",
        **numbers(k=[2, 3, 4], v=[1, 9, 1]),
    ),
    "a rule": Case(
        "CREATE TABLE t (k int PRIMARY KEY, v int); CREATE RULE logged AS ON INSERT TO t DO ALSO NOTHING",
        **numbers(k=[2, 3], v=[1, 9]), said="has the rule logged.*DROP RULE logged ON",
    ),
    "unique expression": Case(
        "CREATE TABLE t (k int PRIMARY KEY, v int); CREATE UNIQUE INDEX absolute ON t (abs(v)); "
        "INSERT INTO t VALUES (1, 7)",
        **numbers(k=[2, 3], v=[-7, 8]), said="absolute",
    ),
    "partial unique index": Case(
        "CREATE TABLE t (k int PRIMARY KEY, v int); CREATE UNIQUE INDEX part ON t (v) WHERE v > 5; "
        "INSERT INTO t VALUES (1, 7)",
        **numbers(k=[2, 3], v=[7, 8]), said="part",
    ),
    "used-up sequence": Case(
        "CREATE TABLE t (id int GENERATED BY DEFAULT AS IDENTITY (MAXVALUE 2), k int PRIMARY KEY)",
        **numbers(k=[2, 3, 4]), said="used up.*ALTER SEQUENCE t_id_seq NO MAXVALUE",
    ),
    "identity that is always generated": Case(
        "CREATE TABLE t (k int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v int)",
        **numbers(k=[2, 3], v=[1, 2]), said="ALTER TABLE t ALTER COLUMN k SET GENERATED BY DEFAULT",
    ),
    "generated column": Case(
        "CREATE TABLE t (k int PRIMARY KEY, v int GENERATED ALWAYS AS (k + 1) STORED)",
        **numbers(k=[2, 3], v=[1, 2]), said="leave the column out",
    ),
    "serial": Case(
        "CREATE TABLE t (k serial PRIMARY KEY, v int)", **numbers(k=[20, 30, 25], v=[1, 2, 3]),
        after="INSERT INTO t (v) VALUES (5)",
    ),
    "identity by default": Case(
        "CREATE TABLE t (k int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, v int)",
        **numbers(k=[1, 3, 2], v=[1, 2, 3]), after="INSERT INTO t (v) VALUES (5)",
    ),
    "view": Case(
        "CREATE TABLE base (k int PRIMARY KEY, v int); INSERT INTO base VALUES (1, 1); "
        "CREATE VIEW t AS SELECT * FROM base WHERE v < 9 WITH CHECK OPTION",
        **numbers(k=[2, 3, 4], v=[1, 9, 2]), rejected=(1, ""),
    ),
    "partitions": Case(
        "CREATE TABLE t (k int PRIMARY KEY, v int) PARTITION BY RANGE (k); "
        "CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (9)",
        **numbers(k=[2, 99, 4], v=[1, 9, 2]), rejected=(1, ""),
    ),
    "trigger that changes": Case(
        "CREATE FUNCTION more() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.v := NEW.v + 1; "
        "RETURN NEW; END'; CREATE TABLE t (k int PRIMARY KEY, v int NOT NULL); "
        "CREATE TRIGGER more BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION more()",
        **numbers(k=[2, 3, 2], v=[1, 2, 5]), said="already there",
    ),
    "trigger that makes keys alike": Case(
        "CREATE FUNCTION positive() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.k := abs(NEW.k); "
        "RETURN NEW; END'; CREATE TABLE t (k int PRIMARY KEY, v int); "
        "CREATE TRIGGER positive BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION positive()",
        **numbers(k=[2, -2, 3, -4], v=[5, 7, 9, 1]), said="duplicate key",
    ),
    "trigger that changes what replaces a stored row": Case(
        "CREATE FUNCTION more() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.v := NEW.v + 1; "
        "RETURN NEW; END'; CREATE TABLE t (k int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 1), (2, 6); "
        "CREATE TRIGGER more BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION more()",
        **numbers(k=[2, 1, 3], v=[5, 7, 9]), said="already there",
    ),
    "trigger that mends what a rule would refuse": Case(
        "CREATE FUNCTION filled() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN "
        "NEW.v := coalesce(NEW.v, 0); RETURN NEW; END'; "
        "CREATE TABLE t (k int PRIMARY KEY, v int NOT NULL CHECK (v < 9)); "
        "CREATE TRIGGER filled BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION filled()",
        **numbers(k=[2, 3, 4], v=[None, 9, 1]), rejected=(1, "v"),
    ),
    "names": Case(
        "CREATE TABLE \"census :2026 %s \"\"'.\\\" (k int PRIMARY KEY, \"citykit_position\" int, "
        f"\"a:b %(c)s\" int, \"{LONG}\" int, \"select\" int, ctid_ int, staged int, \"Up.Low\" int)",
        **numbers(k=[2, 1, 3], citykit_position=[1, 2, 3], **{
            "a:b %(c)s": [1, 2, 3], LONG: [1, 2, 3], "select": [1, 2, 3], "staged": [1, 2, 3],
            "Up.Low": [1, 2, 3]}),
        name="census :2026 %s \"'.\\",
    ),
    "identity beside the key": Case(
        "CREATE TABLE t (id int GENERATED BY DEFAULT AS IDENTITY UNIQUE, k int PRIMARY KEY); "
        "INSERT INTO t (k) VALUES (1)",
        {"k": [2, 3, 4], "id": [2, 4, 3]}, {"k": INTEGER, "id": (INTEGER, sa.Identity())},
        after="INSERT INTO t (k) VALUES (9)",
    ),
    "identity beside the key, some NULL": Case(
        "CREATE TABLE t (id int GENERATED BY DEFAULT AS IDENTITY UNIQUE, k int PRIMARY KEY)",
        {"k": [2, 3, 4], "id": [1, None, 2]}, {"k": INTEGER, "id": (INTEGER, sa.Identity())},
        rejected=(1, "id"), after="INSERT INTO t (k) VALUES (9)",
    ),
    "identity beside the key, always generated": Case(
        "CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY, k int PRIMARY KEY)",
        {"k": [2, 3, 4], "id": [1, 3, 2]}, {"k": INTEGER, "id": (INTEGER, sa.Identity())},
        said="ALTER TABLE t ALTER COLUMN id SET GENERATED BY DEFAULT",
    ),
    "identity left out": Case(
        "CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY UNIQUE, k int PRIMARY KEY); "
        "INSERT INTO t (k) VALUES (1)",
        **numbers(k=[2, 4, 3]), after="INSERT INTO t (k) VALUES (9)",
    ),
    "serial beside the key, some NULL": Case(
        "CREATE TABLE t (id serial UNIQUE, k int PRIMARY KEY)",
        **numbers(k=[2, 3, 4], id=[1, None, 2]), rejected=(1, "id"), after="INSERT INTO t (k) VALUES (9)",
    ),
    "serial left out": Case(
        "CREATE TABLE t (id serial UNIQUE, k int PRIMARY KEY); INSERT INTO t (k) VALUES (1)",
        **numbers(k=[2, 4, 3]), after="INSERT INTO t (k) VALUES (9)",
    ),
    "nextval of a sequence that others use": Case(
        "CREATE SEQUENCE shared; SELECT nextval('shared'); "
        "CREATE TABLE t (id int DEFAULT nextval('shared') UNIQUE, k int PRIMARY KEY)",
        **numbers(k=[2, 3, 4], id=[2, 4, 3]), after="INSERT INTO t (k) VALUES (9)",
    ),
    "identity left out, where a trigger drops a row": Case(
        "CREATE FUNCTION not_two() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN IF NEW.k = 2 THEN "
        "RETURN NULL; END IF; RETURN NEW; END'; "
        "CREATE TABLE t (id int GENERATED BY DEFAULT AS IDENTITY UNIQUE, k int PRIMARY KEY); "
        "CREATE TRIGGER not_two BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION not_two()",
        **numbers(k=[2, 4]), after="INSERT INTO t (k) VALUES (9)",
    ),
    "a column that Python's table lacks, and the table needs": Case(
        "CREATE TABLE t (k int PRIMARY KEY, w int NOT NULL, x int)",
        **numbers(k=[2, 3]), said="needs a value for 'w' .*ALTER TABLE t ALTER COLUMN w SET DEFAULT",
    ),
    "a column of a domain that Python's table lacks, and the domain needs": Case(
        "CREATE DOMAIN must AS int NOT NULL; CREATE DOMAIN small AS must CHECK (VALUE < 9); "
        "CREATE TABLE t (k int PRIMARY KEY, d small, e must[])",
        **numbers(k=[2, 3]), said="needs a value for 'd' .*ALTER TABLE t ALTER COLUMN d SET DEFAULT",
    ),
    "columns that Python's table lacks, and the table fills": Case(
        "CREATE DOMAIN seven AS int DEFAULT 7; CREATE TABLE t (k int PRIMARY KEY, d seven NOT NULL, "
        "g int NOT NULL GENERATED ALWAYS AS (k + 1) STORED, i int GENERATED BY DEFAULT AS IDENTITY, "
        "s serial, n int NOT NULL DEFAULT 5)",
        **numbers(k=[2, 3]),
    ),
    "a check of a generated column": Case(
        "CREATE TABLE t (k int PRIMARY KEY, a int, b int GENERATED ALWAYS AS (a * 2) STORED, CHECK (a < 9), "
        "CHECK (a IS NULL OR b IS NOT NULL))",
        **numbers(k=[2, 3], a=[1, 10]), rejected=(1, "a"),
    ),
    "a check of a number of the database's": Case(
        "CREATE TABLE t (k int PRIMARY KEY, a int CHECK (a < 9), id serial, "
        "CHECK (a IS NULL OR id IS NOT NULL))",
        **numbers(k=[2, 3], a=[1, 10]), rejected=(1, "a"),
    ),
    "a check of a generated column, where a row refers to a later one": Case(
        "CREATE TABLE t (k int PRIMARY KEY, up int REFERENCES t, a int, "
        "g int GENERATED ALWAYS AS (a * 2) STORED, CHECK (a IS NULL OR g < 9))",
        **numbers(k=[1, 2, 3], up=[2, None, None], a=[1, 1, 10]), rejected=(2, "a"),
    ),
    "a foreign key of a generated column, where a row refers to a later one": Case(
        "CREATE TABLE p (id int PRIMARY KEY); INSERT INTO p VALUES (1); CREATE TABLE t (k int PRIMARY KEY, "
        "up int REFERENCES t, a int, g int GENERATED ALWAYS AS (a * 2 - 1) STORED REFERENCES p)",
        **numbers(k=[1, 2, 3], up=[2, None, None], a=[1, 1, 10]), rejected=(2, ""),
    ),
    "rules that are not enforced": Case(
        "CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE t (k int PRIMARY KEY, "
        "v int CHECK (v < 9) NOT ENFORCED REFERENCES p NOT ENFORCED, w int CHECK (w > 0))",
        **numbers(k=[2, 3], v=[10, 1], w=[1, -1]), rejected=(1, "w"), since=180_000,
    ),
    "a foreign key that matches in full": Case(
        "CREATE TABLE p (a int, b int, PRIMARY KEY (a, b)); INSERT INTO p VALUES (1, 1); CREATE TABLE t "
        "(k int PRIMARY KEY, v int, w int, FOREIGN KEY (v, w) REFERENCES p MATCH FULL)",
        **numbers(k=[2, 3, 4], v=[1, 1, None], w=[1, None, None]), rejected=(1, "v, w"),
    ),
    "a foreign key to a partitioned table": Case(
        "CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE p1 PARTITION OF p "
        "FOR VALUES FROM (0) TO (10); CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (20); "
        "INSERT INTO p VALUES (1), (11); CREATE TABLE t (k int PRIMARY KEY, v int REFERENCES p)",
        **numbers(k=[2, 3, 4], v=[1, 7, 11]), rejected=(1, "v"),
    ),
    "a foreign key with a period": Case(
        "CREATE TABLE p (a int4range, during daterange, PRIMARY KEY (a, during WITHOUT OVERLAPS)); "
        "INSERT INTO p VALUES ('[1,2)', '[2026-01-01,2026-02-01)'), ('[1,2)', '[2026-02-01,2026-03-01)'); "
        "CREATE TABLE t (k int PRIMARY KEY, a int4range, during daterange, "
        "FOREIGN KEY (a, PERIOD during) REFERENCES p (a, PERIOD during))",
        {"k": [2, 3], "a": ["[1,2)"] * 2, "during": ["[2026-01-15,2026-02-15)", "[2026-01-15,2026-04-01)"]},
        {"k": INTEGER, "a": TEXT, "during": TEXT}, rejected=(1, "a, during"), since=180_000,
    ),
    "a sequence that counts down": Case(
        "CREATE TABLE t (id int GENERATED BY DEFAULT AS IDENTITY (INCREMENT -2) UNIQUE, k int PRIMARY KEY)",
        **numbers(k=[2, 3, 4], id=[-1, -5, -3]), after="INSERT INTO t (k) VALUES (9)",
    ),
    "a sequence that counts down, left out": Case(
        "CREATE TABLE t (id int GENERATED BY DEFAULT AS IDENTITY (INCREMENT -2) UNIQUE, k int PRIMARY KEY)",
        **numbers(k=[2, 3, 4]), after="INSERT INTO t (k) VALUES (9)",
    ),
    "unlogged": Case(
        "CREATE UNLOGGED TABLE t (id serial UNIQUE, k int PRIMARY KEY, v int)", **numbers(k=[2, 3], v=[1, 2]),
        after="INSERT INTO t (k) VALUES (9)",
    ),
    "a parent": Case(
        "CREATE TABLE t (k int PRIMARY KEY, v int); CREATE TABLE heir (k int PRIMARY KEY) INHERITS (t); "
        "INSERT INTO heir VALUES (7, 7)",
        **numbers(k=[2, 3], v=[1, 2]),
    ),
    "a child": Case(
        "CREATE TABLE elder (k int, v int CHECK (v < 9)); CREATE TABLE t (PRIMARY KEY (k)) INHERITS (elder)",
        **numbers(k=[2, 3, 4], v=[1, 9, 2]), rejected=(1, "v"),
    ),
    "integers in a smallint": Case(
        "CREATE TABLE t (k int PRIMARY KEY, v smallint)", **numbers(k=[2, 3, 4], v=[1, 70_000, 2]),
        rejected=(1, "v"),
    ),
    "integers in an array of smallint": Case(
        "CREATE TABLE t (k int PRIMARY KEY, v smallint[])",
        {"k": [2, 3], "v": [[1], [2, 70_000]]}, {"k": INTEGER, "v": sa.ARRAY(INTEGER)}, rejected=(1, "v"),
    ),
    "a domain over a short varchar": Case(
        "CREATE DOMAIN code AS varchar(3); CREATE TABLE t (k int PRIMARY KEY, v code)",
        {"k": [2, 3, 4], "v": ["abc", "abcd", ""]}, {"k": INTEGER, "v": TEXT}, rejected=(1, "v"),
    ),
    "spaces at the end of a short varchar": Case(
        "CREATE TABLE t (k int PRIMARY KEY, v varchar(3))",
        {"k": [2, 3, 4], "v": ["abc", "abc ", ""]}, {"k": INTEGER, "v": TEXT}, rejected=(1, "v"),
    ),
    "a short key": Case(
        "CREATE TABLE t (k varchar(3) PRIMARY KEY)",
        {"k": ["abc", "abcd", ""]}, {"k": TEXT}, rejected=(1, "k"),
    ),
    "a short numeric": Case(
        "CREATE TABLE t (k int PRIMARY KEY, v numeric(4, 1))",
        {"k": [2, 3, 4], "v": [1.5, 1.25, 999.9]}, {"k": INTEGER, "v": sa.Numeric}, rejected=(1, "v"),
    ),
    "a numeric of hundreds": Case(
        "CREATE TABLE t (k int PRIMARY KEY, v numeric(5, -2))",
        {"k": [2, 3, 4], "v": [1_234_500, 12_345, 0]}, {"k": INTEGER, "v": sa.Numeric}, rejected=(1, "v"),
        since=150_000,
    ),
    "integers in a numeric of hundreds": Case(
        "CREATE TABLE t (k int PRIMARY KEY, v numeric(9, -2))",
        **numbers(k=[2, 3, 4], v=[12_300, 12_345, 0]), rejected=(1, "v"), since=150_000,
    ),
    "a numeric of which the first digits are zeros": Case(
        "CREATE TABLE t (k int PRIMARY KEY, v numeric(3, 5))",
        {"k": [2, 3, 4, 5], "v": [0.00123, 0.000123, 0.0, 0.01]}, {"k": INTEGER, "v": sa.Numeric},
        rejected=(1, "v"), more=[(3, "v")], since=150_000,
    ),
    "an interval of days": Case(
        "CREATE TABLE t (k int PRIMARY KEY, v interval day)",
        {"k": [2, 3], "v": pd.to_timedelta(["2D", "36h"]).tolist()}, {"k": INTEGER, "v": sa.Interval},
        rejected=(1, "v"),
    ),
    "an array of intervals of months": Case(
        "CREATE TABLE t (k int PRIMARY KEY, v interval year to month[])",
        {"k": [2, 3], "v": [[pd.Timedelta(0)], [pd.Timedelta("40D")]]},
        {"k": INTEGER, "v": sa.ARRAY(sa.Interval)}, rejected=(1, "v"),
    ),
    "doubles in a real": Case(
        "CREATE TABLE t (k int PRIMARY KEY, v real)",
        {"k": [2, 3, 4], "v": [1.5, 0.123456789, 2.0]}, {"k": INTEGER, "v": sa.Float}, rejected=(1, "v"),
    ),
    "doubles in an integer": Case(
        "CREATE TABLE t (k int PRIMARY KEY, v int)",
        {"k": [2, 3, 4], "v": [1.0, 1.5, 2.0]}, {"k": INTEGER, "v": sa.Float}, rejected=(1, "v"),
    ),
    "moments in a date": Case(
        "CREATE TABLE t (k int PRIMARY KEY, v date)",
        {"k": [2, 3], "v": [pd.Timestamp("2026-01-01"), pd.Timestamp("2026-01-01 12:00")]},
        {"k": INTEGER, "v": sa.DateTime}, rejected=(1, "v"),
    ),
    "moments of a zone in a timestamp without": Case(
        "CREATE TABLE t (k int PRIMARY KEY, v timestamp)",
        {"k": [2], "v": [pd.Timestamp("2026-01-01 12:00", tz="UTC")]},
        {"k": INTEGER, "v": sa.DateTime(timezone=True)}, said="timestamps without a time zone are needed",
    ),
    "moments in a timestamp of seconds": Case(
        "CREATE TABLE t (k int PRIMARY KEY, v timestamp(0))",
        {"k": [2, 3], "v": [pd.Timestamp("2026-01-01"), pd.Timestamp("2026-01-01 12:00:00.5")]},
        {"k": INTEGER, "v": sa.DateTime}, rejected=(1, "v"),
    ),
    **{
        f"a text for {type_}": Case(
            "; ".join([
                "CREATE TYPE mood AS ENUM ('sad', 'ok')", f"CREATE TABLE t (k int PRIMARY KEY, v {type_})",
                "INSERT INTO t (k) VALUES (1)",
            ]),
            {"k": [2, 3, 4, 5], "v": [good, bad, good, None]}, {"k": INTEGER, "v": TEXT}, rejected=(1, "v"),
        )
        for type_, good, bad in TEXTS
    },
    "several texts that the server refuses": Case(
        "CREATE TABLE t (k int PRIMARY KEY, v int CHECK (v < 9), w date, x tsquery)",
        {"k": [2, 3, 4], "v": ["1", "x", "3"], "w": ["2026-01-01", "soon", "today"], "x": ["a", "b", "c"]},
        {"k": INTEGER, "v": TEXT, "w": TEXT, "x": TEXT}, rejected=(1, "v"), more=[(1, "w")],
    ),
    "a text key for a char": Case(
        "CREATE TABLE t (k char(5) COLLATE \"C\" PRIMARY KEY, v int); INSERT INTO t VALUES ('a', 1)",
        {"k": ["a", "a "], "v": [2, 3]}, {"k": TEXT, "v": INTEGER}, said="already there",
    ),
    "a text key for an integer": Case(
        "CREATE TABLE t (k int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 1)",
        {"k": ["2", "01", "02"], "v": [1, 2, 3]}, {"k": TEXT, "v": INTEGER}, said="already there",
    ),
    "a text key that is no integer": Case(
        "CREATE TABLE t (k int PRIMARY KEY, v int)",
        {"k": ["2", "two", "3"], "v": [1, 2, 3]}, {"k": TEXT, "v": INTEGER}, rejected=(1, "k"),
    ),
    "a text for an integer that refers to a later row": Case(
        "CREATE TABLE t (k int PRIMARY KEY, v int REFERENCES t)",
        {"k": [2, 3, 4], "v": ["4", "99", "2"]}, {"k": INTEGER, "v": TEXT}, rejected=(1, "v"),
    ),
    "an integer for a boolean": Case(
        "CREATE TABLE t (k int PRIMARY KEY, v boolean)", **numbers(k=[2, 3, 4], v=[1, 2, 0]),
        rejected=(1, "v"),
    ),
    "an integer for a short text": Case(
        "CREATE TABLE t (k int PRIMARY KEY, v varchar(2))", **numbers(k=[2, 3, 4], v=[1, 222, 10]),
        rejected=(1, "v"),
    ),
    "an array of texts for one of dates": Case(
        "CREATE TABLE t (k int PRIMARY KEY, v date[])",
        {"k": [2, 3], "v": [["2026-01-01", None], ["2026-01-01", "soon"]]},
        {"k": INTEGER, "v": sa.ARRAY(TEXT)}, rejected=(1, "v"),
    ),
    "a key with an odd name": Case(
        "CREATE TABLE t (\"k:1 %(k)s \"\"'.\" int PRIMARY KEY, \"key0\" int, \"changes\" int)",
        **numbers(**{"k:1 %(k)s \"'.": [2, 1, 2], "key0": [1, 2, 3], "changes": [1, 2, 3]}),
        key=("k:1 %(k)s \"'.",), said="already there",
    ),
    "names of the statements' own": Case(
        "CREATE TABLE staged (staged int PRIMARY KEY, \"position\" int, place int, \"some\" int, fresh int, "
        "referred int REFERENCES staged)",
        **numbers(staged=[2, 3, 4], position=[1, 2, 3], place=[1, 2, 3], some=[1, 2, 3], fresh=[1, 2, 3],
                  referred=[2, 3, 99]),
        key=("staged",), name="staged", rejected=(2, "referred"),
    ),
    "names of the loop's own": Case(
        "CREATE DOMAIN small AS int CHECK (VALUE < 9); CREATE TABLE fresh (fresh int PRIMARY KEY, "
        "inserted int, updated int UNIQUE, code small, place int, type int, \"number\" int, \"row\" int, "
        "unfit int)",
        **numbers(fresh=[2, 3, 4], inserted=[1, 2, 3], updated=[1, 2, 3], code=[1, 9, 1], place=[1, 2, 3],
                  type=[1, 2, 3], number=[1, 2, 3], row=[1, 2, 3], unfit=[1, 2, 3]),
        key=("fresh",), name="fresh", rejected=(1, "code"),
    ),
    "names of temporary tables": Case(
        "CREATE TABLE citykit_staging (k int PRIMARY KEY, citykit_place int, xmax_ int)",
        **numbers(k=[2, 1, 2], citykit_place=[1, 2, 3], xmax_=[1, 2, 3]),
        name="citykit_staging", said="already there",
    ),
}  # fmt: skip


async def outcome(engine: AsyncEngine, case: Case, plan: str, policy: Any, invalid: Any) -> list[Any]:
    limits, streamed = PLANS[plan]
    typed = {name: (type_ if isinstance(type_, tuple) else (type_,)) for name, type_ in case.types.items()}
    columns = [sa.Column(name, *of, primary_key=name in case.key) for name, of in typed.items()]
    table = sa.Table(case.name, sa.MetaData(schema=SCHEMA), *columns)
    frame = pd.DataFrame(case.frame)
    async with engine.begin() as connection:
        for statement in (f"DROP SCHEMA IF EXISTS {QUOTED} CASCADE", f"CREATE SCHEMA {QUOTED}"):
            await connection.exec_driver_sql(statement)
        await connection.exec_driver_sql(f"SET LOCAL search_path = {QUOTED}")
        for statement in _statements(case.sql):
            await connection.exec_driver_sql(statement)
    await engine.dispose()  # a domain that was made anew does not fit to cached statements
    found: list[Any] = []
    try:
        report = await load_rows(
            engine,
            iter([frame[:1], frame[1:]]) if streamed else frame,
            table,
            key=list(case.key),
            on_conflict=policy,
            on_invalid=invalid,
            limits=limits,
        )
        counts = (report.inserted, report.updated, report.skipped)
        found = [counts, report.rejects.to_numpy().tolist()]
        async with engine.begin() as connection:
            await connection.exec_driver_sql(f"SET LOCAL search_path = {QUOTED}")
            if case.after:
                await connection.exec_driver_sql(case.after)
    except citykit.CitykitError as exc:
        rejects = getattr(exc, "rejects", pd.DataFrame()).to_numpy().tolist()
        found = [type(exc), str(exc).replace(f"{QUOTED}.", ""), rejects, getattr(exc, "keys", None)]
    async with engine.begin() as connection:
        rows = (await connection.execute(sa.select(*table.c))).all()
        await connection.execute(text(f"DROP SCHEMA {QUOTED} CASCADE".replace(":", "\\:")))
    return [*found, sorted(map(tuple, rows))]


def combinations() -> Iterator[Any]:
    """Each case with each policy; where a row is rejected, with both ways to treat it."""
    for name, case in CASES.items():
        for policy in ("error", "skip", "update"):
            for invalid in ("error", "skip") if case.rejected else ("error",):
                yield pytest.param(name, policy, invalid, id=f"{name}-{policy}-{invalid}")


def _statements(sql: str) -> list[str]:
    """Split at semicolons outside of a function's body."""
    parts, quoted = [""], False
    for piece in sql.split("; "):
        parts[-1] += ("; " if quoted else "") + piece
        quoted = parts[-1].count("'") % 2 == 1 and "'BEGIN" in parts[-1]
        if not quoted:
            parts.append("")
    return [part for part in parts if part]


@pytest.mark.parametrize(("name", "policy", "invalid"), list(combinations()))
async def test_every_plan_has_the_same_outcome(
    engine: AsyncEngine, name: str, policy: str, invalid: str
) -> None:
    case = CASES[name]
    if case.since > await scalar(engine, "SELECT current_setting('server_version_num')::int"):
        newer = case.since // 10_000
        pytest.skip(f"PostgreSQL {newer - 1} has none: CITYKIT_TEST_URL of PostgreSQL {newer} or newer")
    first, *others = PLANS
    expected = await outcome(engine, case, first, policy, invalid)
    for plan in others:
        assert repr(await outcome(engine, case, plan, policy, invalid)) == repr(expected), plan
    if case.rejected:
        rejects = expected[1] if invalid == "skip" else expected[2]
        assert [tuple(reject[:2]) for reject in rejects] == [case.rejected, *case.more]
    elif case.said and policy == "error":
        assert issubclass(expected[0], citykit.CitykitError)
        assert re.search(case.said, expected[1])


_COPIED = "'BEGIN NEW.u := NEW.v; RETURN NEW; END'"
# Tables in which other values than the key are unique.
UNIQUE = {
    "constraint": "CREATE TABLE t (k int PRIMARY KEY, v int, UNIQUE (v))",
    "expression": "CREATE TABLE t (k int PRIMARY KEY, v int); CREATE UNIQUE INDEX ON t (abs(v))",
    "index of some rows": "CREATE TABLE t (k int PRIMARY KEY, v int); "
    "CREATE UNIQUE INDEX ON t (v) WHERE v > 0",
    "exclusion": "CREATE TABLE t (k int PRIMARY KEY, v int, EXCLUDE USING btree (v WITH =))",
    "function of the row": "CREATE TABLE t (k int PRIMARY KEY, v int); CREATE FUNCTION of_row(t) RETURNS int "
    "IMMUTABLE LANGUAGE sql AS 'SELECT $1.v'; CREATE UNIQUE INDEX ON t (of_row(t))",
    "generated column": "CREATE TABLE t (k int PRIMARY KEY, v int, "
    "g int GENERATED ALWAYS AS (v + 1) STORED UNIQUE)",
    "column that a trigger fills": "CREATE TABLE t (k int PRIMARY KEY, v int, u int UNIQUE); "
    f"CREATE FUNCTION copied() RETURNS trigger LANGUAGE plpgsql AS {_COPIED}; "
    "CREATE TRIGGER copied BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION copied()",
    "beside a deferrable key": "CREATE TABLE t (k int PRIMARY KEY DEFERRABLE, v int UNIQUE)",
    "in partitions": "CREATE TABLE t (k int, v int, p int DEFAULT 0, UNIQUE (k, p), UNIQUE (v, p)) "
    "PARTITION BY LIST (p); CREATE TABLE t0 PARTITION OF t FOR VALUES IN (0)",
}


@pytest.mark.parametrize("rule", UNIQUE)
@pytest.mark.parametrize("plan", PLANS)
async def test_updates_of_unique_values_succeed_as_they_do_one_by_one(
    engine: AsyncEngine, plan: str, rule: str
) -> None:
    made = f"{UNIQUE[rule]}; INSERT INTO t (k, v) VALUES (1, 1), (2, 2), (3, 3)"  # noqa: S608
    for keys, values in [
        ([3, 2, 1], [4, 3, 2]),
        ([1, 2, 3], [2, 3, 4]),
        ([1, 2, 1], [9, 1, 2]),
        ([1, 2, 1], [9, 1, 5]),
        ([4, 4, 5], [7, 8, 7]),
        ([4, 5, 4], [7, 8, 8]),
    ]:
        expected: dict[int, int] | None = {1: 1, 2: 2, 3: 3}
        for key, value in zip(keys, values, strict=True):
            others = {k: v for k, v in (expected or {}).items() if k != key}
            expected = None if expected is None or value in others.values() else {**expected, key: value}
        case = Case(made, **numbers(k=keys, v=values))
        if rule == "in partitions":
            case = Case(made, **numbers(k=keys, v=values, p=[0] * len(keys)), key=("k", "p"))
        *_, rows = found = await outcome(engine, case, plan, "update", "error")
        if expected is None:
            assert issubclass(found[0], citykit.CitykitError), (keys, values)
            expected = {1: 1, 2: 2, 3: 3}
        assert {k: v for k, v, *_ in rows} == expected, (keys, values)


def wide(kind: str, count: int, values: list[Any], keys: list[int]) -> tuple[Case, Case]:
    """A table of so many columns beside its key, empty and with a row, and a frame for it."""
    names = [f"c{n}" for n in range(count)]
    made = (
        f"CREATE TABLE t (k int PRIMARY KEY, CHECK (k <> 9), {', '.join(f'{name} {kind}' for name in names)})"
    )
    types = {"k": INTEGER, **dict.fromkeys(names, INTEGER if kind == "int" else sa.Uuid)}
    empty = Case(made, {"k": keys, **dict.fromkeys(names, values)}, types)
    return empty, replace(empty, sql="; ".join([made, "INSERT INTO t (k) VALUES (1)"]))


@pytest.mark.parametrize("policy", [pytest.param("error", marks=pytest.mark.campaign), "update"])
async def test_rows_that_fill_a_page_have_the_same_outcome_under_every_plan(
    engine: AsyncEngine, policy: str
) -> None:
    """With a column more they could not be staged."""
    values = [UUID(int=n) for n in (1, 2, 3, 4)]
    for stored, case in enumerate(wide("uuid", 508, values, [2, 9, 1, 2])):
        first, *others = [await outcome(engine, case, plan, policy, "skip") for plan in PLANS]
        if policy == "error":
            assert first[3] == [(2,), (1,)][: 1 + stored]
        else:
            counts, rejects, rows = first
            changed = 1 + stored if policy == "update" else 0
            assert counts == (2 - stored, changed, 1 + stored - changed)
            assert rejects[0][0] == 1
            last = values[3] if policy == "update" else values[0]
            assert {row[0]: row[-1] for row in rows}[2] == last
        for other in others:
            assert repr(other) == repr(first)


@pytest.mark.parametrize("plan", [pytest.param("few", marks=pytest.mark.campaign), "large", "rebuilt"])
async def test_a_table_of_as_many_columns_as_there_may_be_is_updated(engine: AsyncEngine, plan: str) -> None:
    for stored, case in enumerate(wide("int", 1_599, [1, 2, 3], [2, 1, 2])):
        if plan != "rebuilt" or not stored:
            counts, rejects, rows = await outcome(engine, case, plan, "update", "error")
            assert counts == (2 - stored, 1 + stored, 0)
            assert rejects == []
            assert {row[0]: row[-1] for row in rows} == {1: 2, 2: 3}
