"""Random queries: what is filtered and projected here, against DataFusion over tables in memory."""

import random
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import trio
from datafusion import SessionContext

from pondfs.errors import PondError
from pondfs.query.session import Session
from pondfs.store.preview import PendingRows, read_pending, to_stream
from tests.unit.store.histories import Walk

TABLES = (
    "nodes", "directory_entries", "oplog", "oplog_entries", "extents", "versions", "tags",
)  # fmt: skip
COMPARISONS = ("=", "<>", "<", "<=", ">", ">=", "IS DISTINCT FROM", "IS NOT DISTINCT FROM")
QUERIES = 150


class Writer:
    """Writes queries over some tables."""

    def __init__(self, seed: int, tables: dict[str, pa.Table]) -> None:
        self._dice = random.Random(seed)
        self._tables = tables

    def query(self) -> str:
        dice = self._dice
        name, table = dice.choice(list(self._tables.items()))
        columns = dice.sample(table.schema.names, dice.randint(1, len(table.schema)))
        shown = ", ".join(f'"{column}"' for column in columns)
        where = f" WHERE {self._condition(table)}"
        match dice.randrange(8):
            case 0:
                return f"SELECT count(*) FROM {name}{where}"
            case 1:
                group = dice.choice(table.schema.names)
                least = f'count(*), min("{columns[0]}") AS least'
                return f'SELECT "{group}", {least} FROM {name}{where} GROUP BY "{group}"'
            case 2:
                other = dice.choice(list(self._tables))
                there = self._tables[other]
                both = sorted(set(table.schema.names) & set(there.schema.names))
                if not both:
                    return f"SELECT {shown} FROM {name}"
                key, how = dice.choice(both), dice.choice(("JOIN", "LEFT JOIN", "FULL JOIN"))
                mine = f"SELECT * FROM {name}{where}"
                return (
                    f'SELECT a."{columns[0]}", b."{key}" FROM ({mine}) a {how} '
                    f"(SELECT * FROM {other} WHERE {self._condition(there)}) b "
                    f'ON a."{key}" = b."{key}" WHERE a."{columns[0]}" IS NOT NULL'
                )
            case 3:
                union = f"SELECT {shown} FROM {name} WHERE {self._condition(table)}"
                return f"{union} UNION ALL SELECT {shown} FROM {name}{where}"
            case 4:
                key = dice.choice([k for k in ("node_id", "version") if k in table.schema.names])
                other = dice.choice([o for o, t in self._tables.items() if key in t.schema.names])
                some = f"SELECT {key} FROM {other} WHERE {self._condition(self._tables[other])}"
                is_in = dice.choice(("IN", "NOT IN"))
                return f"SELECT {shown} FROM {name} WHERE {key} {is_in} ({some})"
            case _:
                return f"SELECT {shown} FROM {name}{where}"

    def _condition(self, table: pa.Table, depth: int = 0) -> str:
        kind = 1.0 if depth > 2 else self._dice.random()
        if kind < 0.5:
            word = "AND" if kind < 0.25 else "OR"
            return (
                f"({self._condition(table, depth + 1)} {word} {self._condition(table, depth + 1)})"
            )
        return f"NOT ({self._condition(table, depth + 1)})" if kind < 0.6 else self._atom(table)

    def _atom(self, table: pa.Table) -> str:
        dice = self._dice
        field = dice.choice(list(table.schema))
        column, kind = f'"{field.name}"', field.type
        comparison, no = dice.choice(COMPARISONS), dice.choice(("", "NOT "))

        def value() -> str:
            there = table[field.name]
            found = there[dice.randrange(len(there))].as_py() if len(there) else None
            return "NULL" if dice.random() < 0.08 else self._literal(found, kind)

        def values() -> str:
            return ", ".join(value() for _ in range(dice.randint(1, 7)))

        usual = [
            lambda: f"{column} {comparison} {value()}",
            lambda: f"{value()} {comparison} {column}",
            lambda: f"{column} IS {no}NULL",
            lambda: f"{column} {no}IN ({values()})",
            lambda: f"{column} {no}BETWEEN {value()} AND {value()}",
            lambda: f"coalesce({column} {comparison} {value()}, {dice.choice(('true', 'NULL'))})",
            lambda: f'{column} = "{dice.choice([f.name for f in table.schema if f.type == kind])}"',
        ]
        if pa.types.is_string(kind):
            pattern = dice.choice(("%a%", "a%", "%", "_%", "%/b%", "%\\_%", "%.%"))
            usual += [
                lambda: f"{column} {no}{dice.choice(('LIKE', 'ILIKE'))} '{pattern}'",
                lambda: f"length({column}) > {dice.randrange(9)}",
                lambda: f"upper({column}) = upper({value()})",
            ]
        if pa.types.is_integer(kind):
            usual += [
                lambda: f"{column} % 3 = {dice.randrange(3)}",
                lambda: f"({column} & 8) = 0",
                lambda: f"CAST({column} AS VARCHAR) LIKE '1%'",
                lambda: f"CAST({column} AS DOUBLE) > {value()}",
            ]
        if pa.types.is_boolean(kind):
            usual += [lambda: column, lambda: f"{column} IS {no}TRUE", lambda: f"NOT {column}"]
        if pa.types.is_timestamp(kind):
            usual += [
                lambda: f"CAST({column} AS DATE) = CAST({value()} AS DATE)",
                lambda: f"date_trunc('second', {column}) = {value()}",
                lambda: f"{column} AT TIME ZONE 'Europe/Berlin' > {value()}",
            ]
        return dice.choice(usual)()

    def _literal(self, value: Any, kind: pa.DataType) -> str:
        dice = self._dice
        if value is None:
            return "NULL"
        if pa.types.is_timestamp(kind):
            time_ns = getattr(value, "value", None) or int(value.timestamp() * 10**6) * 1000
            time_ns += dice.choice((0, 0, 1, -1, 1000, 3600 * 10**9))
            day = datetime.fromtimestamp(time_ns // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%S")
            text = f"{day}.{time_ns % 10**9:09d}"[: dice.choice((29, 26, 23))]
            forms = ("'{}'", "TIMESTAMP '{}Z'", "'{}+02:00'", "to_timestamp('{}')")
            return dice.choice(forms).format(text)
        if pa.types.is_integer(kind):
            numbers = ("{}", "{}.5", "'{}'", "CAST({} AS BIGINT)", "9223372036854775807", "-1")
            return dice.choice(numbers).format(value + dice.choice((0, 0, 1, -1)))
        if pa.types.is_boolean(kind):
            return str(value)
        if pa.types.is_binary(kind):
            return f"X'{value[:20].hex()}'"
        text = dice.choice((value, value[:3], "", value + "x"))
        return "'" + text.replace("'", "''") + "'"


@pytest.fixture(params=range(4))
def session(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Session]:
    """Of a pond with a past and, in some, with something pending, part of it staged."""
    walk = Walk(tmp_path / "pond", request.param)
    trio.run(walk.run, 120, 0.1)
    walk.store.put_tag("good", walk.store.list_versions()[2].version)
    pending = None if request.param % 2 else _leave_pending(walk)
    with Session(walk.path, pending=pending) as session:
        yield session
    walk.close()


def _leave_pending(walk: Walk) -> PendingRows:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(walk.vfs.committer.run)
            for number in range(40):
                await walk.step()
                if number % 9 == 4:
                    await walk.vfs.committer._stage()
            nursery.cancel_scope.cancel()

    trio.run(main)
    preview = walk.vfs.preview(contents=True)
    assert preview is not None
    assert preview.staged, "nothing was staged, so nothing is shown"
    staged = [file.name for file in preview.staged]
    return read_pending(walk.path, staged, b"".join(to_stream(preview)))


def rows(table: pa.Table) -> Counter[str]:
    return Counter(map(repr, zip(*(column.to_pylist() for column in table.columns), strict=True)))


def test_any_query_gives_what_it_gives_over_tables_in_memory(session: Session) -> None:
    tables = {name: session.sql(f"SELECT * FROM {name}").table() for name in TABLES}
    memory = SessionContext()
    for name, table in tables.items():
        memory.from_arrow(table, name)
    writer = Writer(tables["oplog"].num_rows, tables)
    done = 0
    while done < QUERIES:
        sql = writer.query()
        try:
            expected = rows(memory.sql(sql).to_arrow_table())
        except Exception:
            with pytest.raises(PondError):  # such as a text that is no number
                session.sql(sql).table()
            continue
        assert rows(session.sql(sql).table()) == expected, sql
        done += 1


@pytest.mark.parametrize(
    "where",
    [
        "version IN (NULL)",
        "name NOT IN (NULL, NULL)",
        "version >= NULL AND op = 'commit'",
        "mode BETWEEN NULL AND 5",
        "NULL AND removed",
        "(NULL OR op = 'commit') AND (NULL AND uid = 0)",
    ],
)
@pytest.mark.parametrize("table", ["oplog", "nodes_at('2')"])
def test_a_filter_that_is_never_true_is_none_that_fails(
    session: Session, table: str, where: str
) -> None:
    if "nodes" in table:
        where = where.replace("version", "uid").replace("op", "name").replace("removed", "uid = 0")
    assert session.sql(f"SELECT * FROM {table} WHERE {where}").table().num_rows == 0


def test_outer_joins_with_nothing_stay_right_when_filters_are_not_pushed_down(
    session: Session,
) -> None:
    session.sql("SELECT * FROM oplog WHERE version >= NULL AND op = 'commit'").table()
    result = session.sql(
        "SELECT a.version FROM (SELECT * FROM tags WHERE name NOT BETWEEN NULL AND NULL) a "
        "FULL JOIN versions b ON a.version = b.version WHERE a.version IS NOT NULL"
    )
    assert result.table().num_rows == 0
