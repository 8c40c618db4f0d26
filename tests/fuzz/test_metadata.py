"""The JSON in ``metadata``: whatever is in it, the tree is as it was, or it is told as damage."""

from __future__ import annotations

import json
from pathlib import Path

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
XATTRS = st.dictionaries(st.binary(min_size=1, max_size=20), st.binary(max_size=50), max_size=5)


@pytest.mark.campaign
def test_of_nodes(tmp_path: Path, campaign: Campaign) -> None:
    counts = {"all": 0, "told": 0}

    @fuzzing(campaign, suite=40, long=10_000)
    @given(TEXTS, XATTRS)
    @example('{"xattrs":{"user.a":"YQ=="},"later":{"unknown":[1]}}', {})
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
            decode_xattrs(node.metadata)
        except StoreDamaged:
            counts["told"] += 1

    fold()
    campaign.tell("fuzz: metadata of nodes", rounds=counts["all"], faults=counts["told"], losses=0)


@pytest.mark.campaign
def test_of_commit_rows(campaign: Campaign, tmp_path: Path) -> None:
    counts = {"all": 0, "told": 0}

    @fuzzing(campaign, suite=40, long=10_000)
    @given(TEXTS, st.integers(-(2**63), 2**63 - 1))
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
        assert isinstance(info.message, str)

    tell()
    campaign.tell(
        "fuzz: metadata of commits", rounds=counts["all"], faults=counts["told"], losses=0
    )
