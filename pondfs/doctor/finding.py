"""What a look found."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

Severity = Literal["ok", "note", "warning", "error"]

SEVERITIES: tuple[Severity, ...] = get_args(Severity)
"""From good to bad. Note: nothing is wrong, but it may be worth knowing. Warning: something will
hurt one day, or hurts a little now. Error: something does not work, or what was promised (that what
is synced stays) does not hold."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was seen.

    Attributes:
        severity: see `SEVERITIES`.
        message: what was seen, and why it matters.
        advice: what to do, in words; "" when there is nothing to do.
        command: the same as a command to type; "" when there is none.
        look: what was looked at.
    """

    severity: Severity
    message: str
    advice: str = ""
    command: str = ""
    look: str = ""

    def record(self) -> dict[str, Any]:
        """Return it as ``pond doctor --json`` has it."""
        found = asdict(self)
        return {
            "look": found["look"],
            "severity": found["severity"],
            "message": found["message"],
            "advice": found["advice"] or None,
            "command": found["command"] or None,
        }


def ok(message: str) -> Finding:
    """Return that something is as it should be."""
    return Finding("ok", message)


def note(message: str, advice: str = "", command: str = "") -> Finding:
    """Return something worth knowing."""
    return Finding("note", message, advice, command)


def warning(message: str, advice: str = "", command: str = "") -> Finding:
    """Return something that will hurt."""
    return Finding("warning", message, advice, command)


def error(message: str, advice: str = "", command: str = "") -> Finding:
    """Return something that is broken."""
    return Finding("error", message, advice, command)


def worst(findings: list[Finding]) -> Severity:
    """Return how bad the worst of them is."""
    return max((each.severity for each in findings), key=SEVERITIES.index, default="ok")
