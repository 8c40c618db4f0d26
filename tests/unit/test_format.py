"""The page by which the data is read without pondfs says what the schema says."""

from dataclasses import fields

from docs.generate import FORMAT, format_page
from pondfs.oplog import Summary
from pondfs.store.schema import COLUMNS, STATISTICS
from pondfs.store.tags import PREFIX


def test_the_reference_is_current() -> None:
    assert FORMAT.read_text() == format_page(), "run `make docs`"


def test_it_says_what_there_is() -> None:
    text = FORMAT.read_text()
    for column in COLUMNS:
        rule = "yes" if column.nullable else "never"
        assert f"| `{column.name}` | {column.delta} | {rule} | {column.comment} |" in text
    for name in (*(field.name for field in fields(Summary)), *STATISTICS, f"{PREFIX}NAME"):
        assert f"`{name}`" in text
