"""``pond health``: whether the pond does its work, for a monitoring system."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from pondfs.cli.output import format_count, format_duration, format_size, print_json
from pondfs.cli.reach import connect_anyhow, find_place, pond_option
from pondfs.errors import PondError

STATES = ("ok", "warning", "critical", "unknown")
"""Exit codes 0 to 3: those of monitoring plugins (Nagios, Icinga, Sensu, check_mk)."""

LATE_S, TOO_LATE_S = 60.0, 600.0
"""How much later than ``commit=`` says a change may wait: then commits fail, or the disk hangs."""

LITTLE, TOO_LITTLE = 0.05, 0.01
"""Free parts of the store's disk. A pond only grows: this is the time to prune or to make room."""

CLOCK_S = 300.0
"""A last version that much in the future: the clock was set back, and times in the past mislead."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why it is not well. *state* is one of `STATES`."""

    state: str
    text: str


@click.command("health")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--timeout", "timeout_s", metavar="S", type=click.FloatRange(min=0.1), default=10.0,
    help="How long the daemon may take to answer (10).",
)  # fmt: skip
@pond_option
def command(as_json: bool, timeout_s: float) -> int:
    """Say in a line whether the pond does its work: for Nagios, Icinga, Sensu, or a script.

    Exit code 0: it is mounted, its daemon answers, commits succeed and there is room. 1: something
    needs attention; 2: changes are not becoming durable, or it is not mounted; 3: can't be told.
    What stands behind the | is performance data. pond doctor says what to do.

    \b
    Example:
      pond health
      pond --pond /mnt/pond health --json | jq -r '.reasons[].text'
    """
    place = find_place()
    status: dict[str, Any] = {}
    reasons: list[Reason] = []
    try:
        client = connect_anyhow(place)
        if client is None:
            reasons.append(Reason("critical", f"{place.store} is not mounted"))
        else:
            with client:
                status = client.call("status", timeout_s=timeout_s)
            reasons += judge(status, time.time())
    except PondError as error:
        reasons.append(Reason("critical", str(error)))
    except OSError as error:
        reasons.append(Reason("unknown", f"{error.filename or place.store}: {error.strerror}"))
    state = max((reason.state for reason in reasons), key=STATES.index, default="ok")
    figures = figures_of(status)
    if as_json:
        print_json(
            {
                "state": state,
                "store": str(place.store),
                "mountpoint": status.get("mountpoint"),
                "reasons": [{"state": reason.state, "text": reason.text} for reason in reasons],
                **figures,
            }
        )
    else:
        click.echo(f"POND {state.upper()} - {_line(place.store, status, reasons)}{_tail(figures)}")
    return STATES.index(state)


def judge(status: dict[str, Any], now: float) -> Iterator[Reason]:
    """Yield what is not well of a mount's *status*, at *now* in seconds since 1970."""
    if error := status["last_error"]:
        yield Reason("critical", f"{error} (kept, and tried again)")
    age_s, commit_s = status["pending_age_s"], status["options"]["commit_s"]
    if age_s is not None and not status["read_only"] and age_s > commit_s + LATE_S:
        state = "critical" if age_s > commit_s + TOO_LATE_S else "warning"
        yield Reason(state, f"changes wait for {format_duration(age_s)}, not {commit_s:g} s")
    storage = status["storage"]
    if storage is None:
        yield Reason("warning", f"the store can't be looked at: {status['storage_error']}")
    else:
        free, size = storage["disk_free_bytes"], storage["disk_bytes"]
        if size and free < size * LITTLE:
            state = "critical" if free < size * TOO_LITTLE else "warning"
            yield Reason(state, f"{format_size(free)} of {format_size(size)} are free on its disk")
    last = status["last_commit"]
    if last is not None and last["timestamp"] > now + CLOCK_S:
        ahead = format_duration(last["timestamp"] - now)
        yield Reason("warning", f"the last version is {ahead} in the future: the clock went back")


def figures_of(status: dict[str, Any]) -> dict[str, float | None]:
    """Return what is worth a curve, by name; null where it is not known."""
    storage = status.get("storage") or {}
    return {
        "version": status.get("version"),
        "pending_bytes": status.get("pending_bytes"),
        "pending_age_s": status.get("pending_age_s"),
        "disk_free_bytes": storage.get("disk_free_bytes"),
        "data_bytes": storage.get("data_bytes"),
        "rss_bytes": status.get("rss_bytes"),
    }


_UNITS = {"bytes": "B", "s": "s"}


def _tail(figures: dict[str, float | None]) -> str:
    """Return them as performance data: label=value[unit]. Source: Monitoring Plugins guidelines."""
    parts = [
        f"{name}={round(value, 3)}{_UNITS.get(name.rpartition('_')[2], '')}"
        for name, value in figures.items()
        if value is not None
    ]
    return " | " + " ".join(parts) if parts else ""


def _line(store: Path, status: dict[str, Any], reasons: list[Reason]) -> str:
    if reasons:
        # The line ends where performance data begins.
        return "; ".join(reason.text for reason in reasons).replace("|", "/").replace("\n", " ")
    nodes = format_count(status["nodes"])
    return f"{store} on {status['mountpoint']}, version {status['version']}, {nodes} nodes"
