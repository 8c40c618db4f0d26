"""A table of figures, bars and verdicts: on a terminal, and in Markdown for the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from tests.bench.bars import Row

Figures = Mapping[str, Mapping[str, float]]
"""Row → column → figure."""

_VERDICTS = {True: "met", False: "missed", None: ""}
_COLOURS = {True: "green", False: "bold red", None: ""}
_MARKS = {True: " ✓", False: " ✗", None: ""}


def ratio(figures: Mapping[str, float], of: str, other: str) -> float | None:
    """Return the figure of one column as a multiple of another's."""
    if of not in figures or not figures.get(other):
        return None
    return figures[of] / figures[other]


@dataclass(frozen=True, slots=True)
class FigureTable:
    """Rows that have figures, in the order of *rows*.

    Attributes:
        columns: where the figures are of, in order.
        judged: the column that the bars are for.
        ratios: columns that *judged* is divided by.
    """

    rows: Sequence[Row]
    figures: Figures
    columns: Sequence[str] = ("pond",)
    judged: str = "pond"
    ratios: Sequence[str] = ()

    def verdicts(self) -> dict[str, bool | None]:
        """Return for each row that has a figure whether its bar is met."""
        return {row.name: row.is_met(self.figures[row.name], self.judged) for row in self._there()}

    def rich(self, title: str) -> Table:
        """Return it for a terminal."""
        table = Table(title=Text(title), title_justify="left")
        for number, heading in enumerate(self._headings()):
            if number == 0:
                table.add_column(heading)
            elif heading == "bar":
                table.add_column(heading, no_wrap=True)
            else:
                table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("", no_wrap=True)
        for row in self._there():
            met = row.is_met(self.figures[row.name], self.judged)
            verdict = Text(_VERDICTS[met], style=_COLOURS[met])
            work = Text(row.work.replace("`", ""))
            table.add_row(work, *map(Text, self._cells(row)), row.bar_text(), verdict)
        return table

    def markdown(self) -> str:
        """Return it for a page, each line ended."""
        headings = self._headings()
        lines = ["| " + " | ".join(headings) + " |", "|---" * len(headings) + "|"]
        for row in self._there():
            met = row.is_met(self.figures[row.name], self.judged)
            cells = [row.work.replace("|", r"\|"), *self._cells(row), row.bar_text() + _MARKS[met]]
            lines.append("| " + " | ".join(cells) + " |")
        return "\n".join(lines) + "\n"

    def _there(self) -> list[Row]:
        return [row for row in self.rows if row.name in self.figures]

    def _headings(self) -> list[str]:
        ratios = [f"{self.judged}/{other}" for other in self.ratios]
        return ["work", "unit", *self.columns, *ratios, "bar"]

    def _cells(self, row: Row) -> list[str]:
        figures = self.figures[row.name]
        ratios = [ratio(figures, self.judged, other) for other in self.ratios]
        return [
            row.unit,
            *(figure_text(figures.get(column)) for column in self.columns),
            *("" if each is None else f"{each:.2f}" for each in ratios),
        ]


def figure_text(value: float | None) -> str:
    """Return a figure with the digits that mean something."""
    if value is None:
        return ""
    if value >= 100:
        return f"{value:,.0f}"
    if value == int(value):
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.3g}"


def summary(verdicts: Mapping[str, bool | None]) -> str:
    """Return the one line that says how the bars were met."""
    missed = [name for name, met in verdicts.items() if met is False]
    met_count = sum(met is True for met in verdicts.values())
    text = f"bars: {met_count} met, {len(missed)} missed"
    return f"{text}: {', '.join(missed)}" if missed else text
