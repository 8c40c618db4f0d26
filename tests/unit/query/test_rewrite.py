"""Named arguments of read(), as DataFusion takes them; everything else untouched."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pondfs.errors import UsageError
from pondfs.query.rewrite import rewrite


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SELECT * FROM read('/a', at => 'W')", "SELECT * FROM read('/a', 'at=>' , 'W')"),
        ("read('/a',at=>'W',header=>false)", "read('/a','at=>','W','header=>',false)"),
        ("READ ( '/a' , AT /* x => y */ => 42)", "READ ( '/a' , 'at=>' /* x => y */ , 42)"),
        ("read('/a', -- at => 'V'\n at => 'W')", "read('/a', -- at => 'V'\n 'at=>' , 'W')"),
        (
            "SELECT (SELECT max(x) FROM read('/a', at => '1')) FROM read('/b', at => '2') b",
            "SELECT (SELECT max(x) FROM read('/a', 'at=>' , '1')) FROM read('/b', 'at=>' , '2') b",
        ),
        ("read('/it''s, at => x', at => 'W')", "read('/it''s, at => x', 'at=>' , 'W')"),
    ],
)
def test_names_become_literals(text: str, expected: str) -> None:
    assert rewrite(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 'read(''/a'', at => ''W'')'",
        'SELECT "read(at => 1)" FROM "a""b(" -- read(at => 1)',
        "SELECT $$read('/a', at => 1)$$, $x$ read($$, at => 1) $x$",
        "/* read(a => 1) /* read(b => 1) */ read(c => 1) */ SELECT 1",
        r"SELECT E'read(\', at => 1)'",
        "SELECT `read(at => 1)`",
        "SELECT other(at => 1), reads(at => 1), a.at => 1",
        "SELECT * FROM read('/a') WHERE f(x => 1)",
        "SELECT * FROM read('/a', x + y => 1)",
        "SELECT x => 1 FROM t WHERE (a => 3)",
        "read('/a', 1 => 2)",
        # Not SQL: DataFusion shall say so.
        "SELECT 'open FROM read(",
        "))) read( /* open",
        'SELECT "open',
        "$$ open",
        "",
    ],
)
def test_what_is_left_alone(text: str) -> None:
    assert rewrite(text) == text


def test_what_has_no_name_comes_first() -> None:
    with pytest.raises(UsageError, match="'/b' follows an argument with a name"):
        rewrite("SELECT * FROM read('/a', at => 'W', '/b')")


def test_an_unfinished_comment_ends_with_the_text() -> None:
    assert rewrite("read(at /* => 1)") == "read(at /* => 1)"


@given(st.text("'\"`$/*-=> \n,()aErd\\", max_size=40))
def test_any_text_passes(text: str) -> None:
    try:
        result = rewrite(text)
    except UsageError:
        return
    if "=>" not in text:
        assert result == text


@given(st.text(max_size=20), st.text(max_size=20))
def test_no_literal_ends_early(path: str, at: str) -> None:
    path, at = (f"'{text.replace(chr(39), chr(39) * 2)}'" for text in (path, at))
    assert rewrite(f"read({path}, at => {at})") == f"read({path}, 'at=>' , {at})"
