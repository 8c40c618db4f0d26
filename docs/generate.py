"""Write the reference pages made from the source (`make docs`); a test checks them."""

import errno
import inspect
from pathlib import Path

from pondfs import errors
from pondfs.metrics import COUNTER, FAMILIES
from pondfs.store import check
from pondfs.store.schema import COLUMNS

ERRORS = Path(__file__).parent / "reference" / "errors.md"
FORMAT = Path(__file__).parent / "reference" / "format.md"
CHECK = Path(__file__).parent / "reference" / "check.md"
METRICS = Path(__file__).parent / "reference" / "metrics.md"


def errors_page() -> str:
    """Return docs/reference/errors.md."""
    classes = sorted(
        (
            found
            for _, found in inspect.getmembers(errors, inspect.isclass)
            if issubclass(found, errors.PondError) and found is not errors.PondError
        ),
        key=lambda found: (found.exit_code, found.__name__),
    )
    lines = [
        "# Errors",
        "",
        "Every error pondfs raises on purpose, made from `pondfs/errors.py` by `make docs`.",
        "*Exit code* is what a shell sees of a command; *errno* what a program sees through the",
        "mount, or a client on the control socket. The message says what is wrong and what to",
        "do.",
        "",
        "| exit code | cause | errno | |",
        "|---|---|---|---|",
    ]
    for found in classes:
        number = found.__dict__.get("errno", inspect.getattr_static(found, "errno", None))
        takes = "errno" in inspect.signature(found.__init__).parameters
        name = "the cause's own" if takes else errno.errorcode[number]
        says = " ".join((found.__doc__ or "").split())
        lines.append(f"| {found.exit_code} | `{found.__name__}` | {name} | {says} |")
    lines += [
        "",
        "Other exit codes: 0 done, 70 a bug in pondfs (please report it), 130 interrupted, 143",
        "ended by SIGTERM (129: by SIGHUP), 141 nobody reads the output any more. `mount.pond` and",
        "`umount.pond` speak mount(8): 1 usage or permission, 2 system, 4 a bug, 8 interrupted, 32",
        "anything else that was in the way.",
        "",
    ]
    return "\n".join(lines)


def format_page() -> str:
    """Return docs/reference/format.md: what is written there, and the columns as they are."""
    lines = ["| column | type | null | |", "|---|---|---|---|"]
    lines += [
        f"| `{column.name}` | {column.delta} | {'yes' if column.nullable else 'never'} "
        f"| {column.comment} |"
        for column in COLUMNS
    ]
    return _between(FORMAT, "columns", lines)


def metrics_page() -> str:
    """Return docs/reference/metrics.md: what is written there, and the metrics as they are."""
    lines = ["| metric | kind | labels | |", "|---|---|---|---|"]
    for family in FAMILIES:
        name = family.name + ("_total" if family.kind == COUNTER else "")
        labels = " ".join(f"`{label}`" for label in family.labels)
        lines.append(f"| `{name}` | {family.kind} | {labels} | {family.help} |")
    return _between(METRICS, "metrics", lines)


def check_page() -> str:
    """Return docs/reference/check.md: what is written there, and the invariants as they are."""
    lines = ["| invariant | what holds | `pond repair` |", "|---|---|---|"]
    lines += [
        f"| `{each.name}` | {each.holds} | {each.mend or 'refuses'} |"
        for each in sorted(
            check.INVARIANTS.values(), key=lambda each: check.FAMILIES.index(each.family)
        )
    ]
    return _between(CHECK, "invariants", lines)


def _between(page: Path, what: str, lines: list[str]) -> str:
    """Return the page with *lines* between its marks."""
    head, begin, rest = page.read_text().partition(f"<!-- {what} -->\n")
    _, end, tail = rest.partition(f"<!-- end of {what} -->\n")
    assert begin, f"{page}: the marks around the {what} are gone"
    assert end, f"{page}: the marks around the {what} are gone"
    return head + begin + "\n".join(lines) + "\n" + end + tail


if __name__ == "__main__":
    ERRORS.write_text(errors_page())
    FORMAT.write_text(format_page())
    METRICS.write_text(metrics_page())
    CHECK.write_text(check_page())
