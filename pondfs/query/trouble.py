"""What DataFusion complains of, as one line that says what to do."""

import re

from pondfs.errors import PondError, SystemFailure, UsageError

_NOISE = re.compile(
    r"^(DataFusion error: |Error during planning: |Schema error: |Execution error: |Arrow error: "
    r"|External error: |This feature is not implemented: |Optimizer rule '\w+' failed|caused by"
    r"|Invalid or Unsupported Configuration: |type_coercion|[\s:]+)+"
)
_PARSER = re.compile(r'SQL error: (?:Parser|Tokenizer)Error\("(.*?)"\)', re.DOTALL)
_NO_TABLE = re.compile(r"table '(?:datafusion\.)?(?:public\.)?(.+?)' not found")
_NO_FUNCTION = re.compile(r"table function '(.+?)' not found", re.IGNORECASE)
_REFUSED = re.compile(r"\b(?:DDL|DML|Statement) not supported: (\w+)")
_PLANNED = re.compile(r"Query (INSERT|UPDATE|DELETE|MERGE)\b.* not implemented", re.DOTALL)
_FIRST_WORD = re.compile(r"(?:\s|--[^\n]*(?:\n|$)|/\*.*?\*/|\()*(\w*)", re.DOTALL)
_READING = frozenset(("select", "with", "explain", "show", "describe", "desc", "values", ""))
_MOST_CHARACTERS = 500


def only_reads(what: str) -> UsageError:
    """Return the refusal of a statement that would change something."""
    return UsageError(
        f"pond query only reads: {what} is not possible (SELECT, WITH, VALUES, EXPLAIN, SHOW and "
        "DESCRIBE are)"
    )


def explain(error: BaseException, text: str) -> BaseException:
    """Return what to raise for an *error* that DataFusion raised for the query *text*."""
    if isinstance(error, PondError) or not isinstance(error, Exception):
        return error
    if isinstance(error, UnicodeEncodeError):
        return UsageError(
            "SQL is UTF-8 text: a file whose name is not is found by wildcards, as in "
            "read('/dir/??.csv')"
        )
    message = str(error)
    first = _FIRST_WORD.match(text)
    word = "" if first is None else first[1].lower()
    if found := _REFUSED.search(message):
        return only_reads(word.upper() if word not in ("explain", "with") else found[1])
    if found := _PLANNED.search(message):
        return only_reads(found[1])
    if word not in _READING and not message.startswith("SQL error"):
        return only_reads(word.upper())
    if found := _NO_FUNCTION.search(message):
        return UsageError(f"there is no table function '{found[1]}': see docs/reference/sql.md")
    if found := _NO_TABLE.search(message):
        name = found[1]
        return UsageError(f"there is no table '{name}': SHOW TABLES lists them")
    if found := _PARSER.search(message):
        inner = found[1].replace('\\"', '"').replace("\\'", "'")
        return UsageError(f"this is no SQL that pond understands: {_line(inner)}")
    if "single SQL statement" in message:
        return UsageError("one statement at a time, please")
    if "No SQL statements were provided" in message:
        return UsageError("there is no statement in the query")
    if "Resources exhausted" in message:
        return SystemFailure(
            f"the query needs more memory than it may have: {_line(_NOISE.sub('', message))}"
        )
    return UsageError(_line(_NOISE.sub("", message)))


def _line(message: str) -> str:
    line = " ".join(message.split())
    return line if len(line) <= _MOST_CHARACTERS else line[: _MOST_CHARACTERS - 1] + "…"
