"""Where SQL statements end: at each semicolon that is in no string, name or comment."""

import re

_PIECE = re.compile(
    r"""
      '(?:[^']|'')*(?:'|\Z) | "(?:[^"]|"")*(?:"|\Z) | `[^`]*(?:`|\Z)
    | (?P<tag>\$[^\W\d]*\w*\$) .*? (?:(?P=tag)|\Z)
    | (?P<comment> --[^\n]* | /\*.*?(?:\*/|\Z) )
    | (?P<end> ; )
    | (?P<blank> \s+ )
    | [^;'"`$/\-\s]+ | .
    """,
    re.VERBOSE | re.DOTALL,
)


def split(text: str) -> tuple[list[str], str]:
    """Return the statements in *text*, and what follows the last semicolon.

    Statements come without their semicolon; those of nothing but blanks and comments are left out.
    """
    found: list[str] = []
    start = at = 0
    says_something = False
    while at < len(text):
        piece = _PIECE.match(text, at)
        assert piece is not None, "any character is a piece"
        at = piece.end()
        if piece["end"]:
            if says_something:
                found.append(text[start : at - 1].strip())
            start, says_something = at, False
        elif not (piece["comment"] or piece["blank"]):
            says_something = True
    return found, text[start:].strip() if says_something else ""
