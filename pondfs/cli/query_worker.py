"""The process that runs the statements of a prompt: warm, and expendable.

``python -m pondfs.cli.query_worker FD STORE [MOUNTPOINT]``, started by `query_prompt`. It takes one
JSON object a line on stdin, prints results on stdout, and answers each with a JSON object on FD.
Ctrl-C is the prompt's: it ends this process and starts another.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from pondfs.cli.query_run import Form, open_session, run_statement
from pondfs.cli.reach import Place
from pondfs.errors import PondError
from pondfs.mountinfo import find_pond_at

_NAMES = """
SELECT table_name AS name FROM information_schema.tables WHERE table_schema = 'public'
UNION SELECT column_name FROM information_schema.columns WHERE table_schema = 'public'
"""


def main() -> None:
    """Answer until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = int(sys.argv[1])
    mountpoint = sys.argv[3] if len(sys.argv) > 3 else None
    place = Place(Path(sys.argv[2]), None if mountpoint is None else find_pond_at(mountpoint))
    for line in sys.stdin:
        os.write(answers, json.dumps(_answer(place, json.loads(line))).encode() + b"\n")


def _answer(place: Place, asked: dict[str, Any]) -> dict[str, Any]:
    try:
        # A session each: it takes 20 ms, and is the pond as it is now.
        with open_session(place, asked["at"], pending=asked["pending"]) as session:
            if "sql" not in asked:
                return {"names": session.sql(_NAMES).table()["name"].to_pylist()}
            form = Form(asked["format"], asked["width"], asked["rows"])
            return {"notes": run_statement(session, asked["sql"], form, sys.stdout.buffer)}
    except PondError as error:
        return {"error": str(error)}
    except OSError as error:
        what = error.strerror or str(error)
        return {"error": f"{os.fsdecode(error.filename)}: {what}" if error.filename else what}
    except Exception as error:
        return {"error": f"bug: {type(error).__name__}: {error}"}


if __name__ == "__main__":
    main()
