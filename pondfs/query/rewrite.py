"""What DataFusion does not parse, put into words it does: named arguments of `read`.

``read('/a.csv', at => 'yesterday')`` becomes ``read('/a.csv', 'at=>', 'yesterday')``, on the same
lines, so that places in error messages stay right. Nothing is parsed but where text, names and
comments begin and end: what is inside them is never touched.
"""

import re

from pondfs.errors import UsageError

FUNCTIONS = frozenset({"read"})
"""The functions whose arguments may have names."""

MARK = "=>"
"""What ends the literal that names the argument after it."""

_TOKEN = re.compile(
    r"""
      (?P<skip> \s+ | --[^\n]* )
    | (?P<comment> /\* )
    | (?P<quoted> [eE]'(?:[^'\\]|''|\\.)*' | '(?:[^']|'')*' | "(?:[^"]|"")*" | `(?:[^`]|``)*`
                | \$(?P<tag>(?:[^\W\d]\w*)?)\$ .*? \$(?P=tag)\$ )
    | (?P<word> [^\W\d][\w$]* )
    | (?P<arrow> => )
    | (?P<other> \d[\w.]* | . )
    """,
    re.VERBOSE | re.DOTALL,
)

_COMMENT_EDGE = re.compile(r"/\*|\*/")


def rewrite(text: str) -> str:
    """Return *text* with the named arguments of table functions as DataFusion takes them.

    Text that is not SQL is returned as it is: DataFusion says what is wrong with it.

    Raises: UsageError for an argument without a name follows one with a name.
    """
    out: list[str] = []
    # For each open parenthesis: whether it holds arguments of one of FUNCTIONS, and whether one
    # of them had a name.
    calls: list[list[bool]] = []
    word = ""  # the last token, if it was a word
    word_at = 0
    starts_argument = is_named = False
    at = 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        assert found is not None, "any character is a token"
        kind, token = str(found.lastgroup), found.group()
        if kind == "tag":
            kind = "quoted"
        if kind == "comment":
            stop = _end_of_comment(text, at)
            out.append(text[at:stop])
            at = stop
            continue
        at = found.end()
        out.append(token)
        if kind == "skip":
            continue
        call = calls[-1] if calls else None
        if token == "(":
            calls.append([word.lower() in FUNCTIONS, False])
            starts_argument, is_named = True, False
        elif token == ")":
            if calls:
                calls.pop()
            starts_argument = is_named = False
        elif token == "," and call is not None:
            starts_argument, is_named = True, False
        elif kind == "arrow" and is_named and call is not None and call[0]:
            out[word_at] = f"'{word.lower()}{MARK}'"
            out[-1] = ","
            call[1] = True
            is_named = False
        else:
            is_named = starts_argument and kind == "word"
            if starts_argument and call is not None and call == [True, True] and not is_named:
                raise UsageError(
                    f"{token} follows an argument with a name: those without one come first"
                )
            starts_argument = False
        word, word_at = (token, len(out) - 1) if kind == "word" else ("", 0)
    return "".join(out)


def _end_of_comment(text: str, at: int) -> int:
    """Return where the comment that begins at *at* ends; others may be inside it."""
    depth = 0
    for edge in _COMMENT_EDGE.finditer(text, at):
        depth += 1 if edge.group() == "/*" else -1
        if not depth:
            return edge.end()
    return len(text)
