"""What people write: ``<when>``, mount options, sizes, spans, and command lines.

Any text is a value or one line of error: no other exception, however long it is.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pondfs.cli import VERBS
from pondfs.cli import pond as pond_command
from pondfs.cli.run import EXIT_BUG, run
from pondfs.errors import NoSuchVersion, PondError, UsageError
from pondfs.node import Version
from pondfs.options import MountOptions, parse_options, parse_size
from pondfs.retention import parse_count, parse_duration
from pondfs.when import Moment, check_tag_name, parse, resolve, span
from tests.campaign import Campaign
from tests.fuzz.settings import fuzzing
from tests.unit.store.support import file_row, make_cut, new_pond

NOW_NS = 1_781_956_800 * 10**9

PIECES = st.one_of(
    st.sampled_from(
        "v @ - : . , = T Z + ago m-ago ms w d h s yesterday latest 2026 -06 -31 T12 T2460 0 9 "
        "9999 0000 K M G TiB 1 42 \" \\ / // .. * [ ] { } ** ? ! ~ $ ' \n \t \0 \x1b[31m é ９ ٣ "
        "\u202e commit= max_pending= uid= umask= at= version= ro follow xattr acl cache= log= "
        "ponddir= context= x-a -o --at --json --since --until -n -l -R --".split(" ")
    ),
    st.text(max_size=4),
    st.integers(-(10**20), 10**20).map(str),
)
TEXTS = st.one_of(
    st.lists(PIECES, max_size=8).map("".join),
    st.tuples(PIECES, st.sampled_from([50, 5000, 100_000])).map(lambda of: of[0] * of[1]),
)


def said(call: Callable[[], Any], *expected: type[PondError]) -> Any:
    """Return what *call* does; None when it raised what is expected."""
    try:
        return call()
    except expected:
        return None


@pytest.mark.campaign
def test_when_options_and_sizes(campaign: Campaign) -> None:
    counts = {"texts": 0, "refused": 0}
    versions, times = [Version(1), Version(2), Version(5)], [10**9, NOW_NS, NOW_NS - 5]

    @fuzzing(campaign, suite=400, long=100_000)
    @given(TEXTS)
    def read(text: str) -> None:
        counts["texts"] += 1
        found = said(lambda: parse(text, NOW_NS), NoSuchVersion)
        assert found is None or isinstance(found, int | Moment)
        assert said(lambda: resolve(text, versions, times, NOW_NS), NoSuchVersion) in (
            None, *versions,
        )  # fmt: skip
        for since, until in ((text, None), (None, text), (text, text)):
            ends = said(partial(span, since, until, versions, times, NOW_NS), NoSuchVersion)
            assert ends is None or 0 <= ends[0] <= ends[1] <= 3
        said(lambda: check_tag_name(text), UsageError)
        said(lambda: parse_count(text), UsageError)
        said(lambda: parse_duration(text), UsageError)
        with contextlib.suppress(ValueError):
            assert parse_size(text) >= 0
        for arguments in (
            (["/m"], [text]),
            ([text, "/m"], []),
            ([text], []),
            (["/m"], [f"at={text}"]),
        ):
            made = said(partial(parse_options, *arguments, environ={"POND": "/p"}), UsageError)
            assert made is None or isinstance(made, MountOptions)
            counts["refused"] += made is None

    read()
    campaign.tell(
        "fuzz: when, options, sizes", rounds=counts["texts"], faults=counts["refused"], losses=0
    )


READING = "ls cat find du describe log diff history tag show status".split()
"""Verbs that write nowhere and start no process: what they are given may be anything."""

OPTIONS = (
    "-l -a -R -1 -n -d -h --at --json --since --until --stat --patch --pending --full --help "
    "--limit --type --name --size --newer -- - --pond -x --nonsense --at= --json=1"
).split()

PATHS = [".", "/", "*", "a*", "**", "1", "2", "1..2", "latest", "nothing", "--at=1", "--at=2"]


@pytest.mark.campaign
def test_command_lines(
    tmp_path: Path,
    campaign: Campaign,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = new_pond(tmp_path / "pond")
    store.commit(make_cut(2, [file_row(2, b"x", b"a\x1b[31m\n\xff")], message="\x1b]0;m\x07\n\x9b"))
    store.close()
    monkeypatch.setenv("POND", str(tmp_path / "pond"))
    monkeypatch.chdir(tmp_path)
    codes: dict[int, int] = {}
    documented = {error.exit_code for error in all_errors()} | {0, 1}

    @fuzzing(campaign, suite=80, long=30_000)
    @given(
        st.one_of(st.sampled_from(READING), st.sampled_from(READING), TEXTS),
        st.lists(st.one_of(st.sampled_from(OPTIONS), st.sampled_from(PATHS), TEXTS), max_size=3),
    )
    def say(verb: str, args: list[str]) -> None:
        if verb in VERBS and verb not in READING:
            return
        # A command line has no NUL, and what is no UTF-8 comes as os.fsdecode makes it.
        texts = [
            os.fsdecode(text.replace("\0", "").encode(errors="replace")) for text in (verb, *args)
        ]
        code = run(pond_command, "pond", [text[:50_000] for text in texts])
        out, err = capfd.readouterr()
        assert code in documented, (texts, err)
        assert code != EXIT_BUG, err
        assert "Traceback" not in err
        assert verb == "cat" or is_tame(out), out
        assert is_tame(err), err
        codes[code] = codes.get(code, 0) + 1

    say()
    rounds = sum(codes.values())
    campaign.tell(
        "fuzz: command lines", rounds=rounds, faults=rounds - codes.get(0, 0), losses=0,
        note=", ".join(f"exit {code} {count}" for code, count in sorted(codes.items())),
    )  # fmt: skip


def all_errors() -> list[type[PondError]]:
    found = [PondError]
    for error in found:
        found.extend(error.__subclasses__())
    return found


def is_tame(text: str) -> bool:
    """Return whether nothing in it would speak to a terminal."""
    return all(char == "\n" or char.isprintable() for char in text)
