"""The JSON in ``metadata``: whatever is in it, the tree is as it was, or it is told as damage."""

from __future__ import annotations

import binascii
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pondfs.errors import StoreDamaged
from pondfs.node import ROOT, NodeId
from pondfs.oplog import info_from_facts
from pondfs.store.fold import load_image
from pondfs.store.rows import commit_row
from pondfs.xattrs import decode_xattrs, encode_xattrs
from tests.campaign import Campaign
from tests.fuzz.settings import fuzzing
from tests.unit.store.support import as_file, file_row, make_cut, new_reader, root_row

JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
        st.sampled_from(["", "====", "YQ==", "Y", "YQ==\n", "\x00", "m" * 70_000]),
    ),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.one_of(
            st.sampled_from("xattrs xattrs_b64 message user host operations user.a later".split()),
            st.text(max_size=4),
        ),
        inner,
        max_size=4,
    ),
    max_leaves=10,
)  # fmt: skip
TEXTS = st.one_of(
    JSON.map(json.dumps),
    st.text(st.characters(codec="utf-8"), max_size=20),
    st.sampled_from(["{},{}", "{}]", "[" * 100_000, '{"xattrs":' * 50_000, "NaN", "1" * 5000]),
)
NAMED: dict[str, object] = {
    **dict.fromkeys(("message", "user", "host"), ""),
    **dict.fromkeys(
        ("operations", "nodes_created", "nodes_changed", "nodes_removed", "bytes_added"), 0
    ),
}
"""What a commit row says of its version, and what it means where it does not say it."""

XATTRS = st.dictionaries(st.binary(min_size=1, max_size=20), st.binary(max_size=50), max_size=5)


def meant(text: str) -> dict[bytes, bytes]:
    """Return the xattrs that *text* holds, by the words of the format alone.

    Raises: ValueError, RecursionError where it is not what a row has there.
    """
    record = json.loads(text)
    if not isinstance(record, dict):
        raise ValueError("no object")
    found: dict[bytes, bytes] = {}
    for key in ("xattrs", "xattrs_b64"):
        held: Any = record.get(key, {})
        if not isinstance(held, dict):
            raise ValueError("no object")
        for name, value in held.items():
            if not isinstance(value, str):
                raise ValueError("no text")
            found[name.encode() if key == "xattrs" else plain(name)] = plain(value)
    return found


def plain(coded: str) -> bytes:
    """Undo base64. Raises: ValueError at the first byte that does not belong there."""
    return binascii.a2b_base64(coded.encode("ascii"), strict_mode=True)


@pytest.mark.campaign
def test_of_nodes(tmp_path: Path, campaign: Campaign) -> None:
    counts = {"all": 0, "told": 0, "read": 0}

    @fuzzing(campaign, suite=40, long=10_000)
    @given(TEXTS, XATTRS)
    @example('{"xattrs":{"user.a":"YQ=="},"later":{"unknown":[1]}}', {})
    @example('{"xattrs":{"user.a":"YQ==","user.b":""},"xattrs_b64":{"/w==":"Yg=="}}', {})
    @example('{"xattrs":{"user.a":"YQ="}}', {})
    def fold(text: str, xattrs: dict[bytes, bytes]) -> None:
        assert (decode_xattrs(encode_xattrs(xattrs)) or {}) == xattrs
        row = file_row(2, b"content", b"name")._replace(metadata=text)
        file = as_file(tmp_path, 1, [root_row(), row, commit_row(make_cut(1, []))])
        image = load_image([file], new_reader())
        Path(file.path).unlink()
        counts["all"] += 1
        assert image.load_entries(ROOT) == {b"name": 2}
        node = image.find_node(NodeId(2))
        assert node is not None
        assert node.metadata == text
        try:
            right = meant(text)
        except (ValueError, RecursionError):
            with pytest.raises(StoreDamaged):
                decode_xattrs(node.metadata)
            counts["told"] += 1
            return
        assert (decode_xattrs(node.metadata) or {}) == right
        counts["read"] += bool(right)

    fold()
    assert counts["told"] > 1
    assert counts["read"] > 1
    campaign.tell("fuzz: metadata of nodes", rounds=counts["all"], faults=counts["told"], losses=0)


@pytest.mark.campaign
def test_of_commit_rows(campaign: Campaign) -> None:
    counts = {"all": 0, "told": 0, "read": 0}

    @fuzzing(campaign, suite=40, long=10_000)
    @given(TEXTS, st.integers(-(2**63), 2**63 - 1))
    @example('{"message":"m","user":"ada","host":"lab","operations":3,"later":[1]}', 10**15)
    @example('{"nodes_created":1,"nodes_changed":2,"nodes_removed":3,"bytes_added":4}', -1)
    @example('{"message":3}', 0)
    def tell(text: str, time_us: int) -> None:
        counts["all"] += 1
        try:
            facts = json.loads(text)
        except (ValueError, RecursionError):
            return
        try:
            info = info_from_facts(7, time_us, facts)
        except StoreDamaged:
            counts["told"] += 1
            return
        assert info.version == 7
        assert info.timestamp == datetime.fromtimestamp(0, UTC) + timedelta(microseconds=time_us)
        for name, nothing in NAMED.items():
            assert getattr(info, name) == facts.get(name, nothing)
            assert isinstance(getattr(info, name), type(nothing))
        counts["read"] += 1

    tell()
    assert counts["told"]
    assert counts["read"] > 1
    campaign.tell(
        "fuzz: metadata of commits", rounds=counts["all"], faults=counts["told"], losses=0
    )
