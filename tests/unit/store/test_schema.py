import json

import pyarrow as pa

from pondfs.store.schema import COLUMNS, CONTENT_INDEX, SCHEMA, delta_schema


def test_delta_sees_the_columns_that_arrow_writes() -> None:
    delta = pa.schema(delta_schema())
    assert delta.names == SCHEMA.names
    for ours, theirs in zip(SCHEMA, delta, strict=True):
        assert ours.nullable == theirs.nullable, ours.name
        assert ours.type == theirs.type, ours.name


def test_every_column_says_what_it_means() -> None:
    fields = json.loads(delta_schema().to_json())["fields"]
    assert all(field["metadata"]["comment"] for field in fields)


def test_content_is_last_and_never_null() -> None:
    column = COLUMNS[CONTENT_INDEX]
    assert (column.name, column.nullable) == ("content", False)
