"""The metrics' names, and the page about them."""

import re
import subprocess
import sys

from docs.generate import METRICS, metrics_page
from pondfs.metrics import COUNTER, FAMILIES, HISTOGRAM


def test_the_reference_is_current() -> None:
    assert METRICS.read_text() == metrics_page(), "run `make docs`"


def test_names_are_as_prometheus_has_them() -> None:
    """Source: prometheus.io/docs/practices/naming."""
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)
    for family in FAMILIES:
        assert re.fullmatch(r"pondfs_[a-z]+(_[a-z]+)*", family.name)
        assert not family.name.endswith(("_total", "_count", "_sum", "_bucket"))
        assert not re.search(r"_(ms|us|kb|mib|minutes)$", family.name)
        assert family.kind == COUNTER or family.kind == HISTOGRAM or "failures" not in family.name
        assert family.help.endswith(".")


def test_the_library_is_imported_by_nobody_but_who_reads_them() -> None:
    """Mounting must not wait for it."""
    code = (
        "import sys, pondfs.mount, pondfs.requests, pondfs.metrics, pondfs.fuse.session;"
        "print('prometheus_client' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
