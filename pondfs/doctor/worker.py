"""``python -m pondfs.doctor.worker GROUP NAMED PATIENCE_S``: looks, and tells line by line.

Each line is a JSON object: ``{"begin": "log"}`` before a look, a finding after it was made,
``{"store": …}`` once it is known, ``{"end": true}`` when all is looked at. Whoever started it may
stop listening, and ends it.
"""

import json
import os
import sys
from dataclasses import asdict, replace
from typing import Any

from pondfs.doctor.finding import note, warning
from pondfs.doctor.looks import GROUPS
from pondfs.doctor.scene import NoMore, Scene
from pondfs.errors import PondError


def main() -> None:
    """Do all looks of a group, in order."""
    group, named, patience_s = sys.argv[1:]
    scene = Scene(json.loads(named), float(patience_s))
    _say({"begin": group})
    looks = GROUPS[group]()
    if group == "store":
        _say({"begin": "mounted"})
        try:
            mount = scene.place.mount
        except PondError as error:
            # Which store is meant is not said by whom we could believe: none is looked into.
            _say(asdict(replace(warning(f"this could not be looked at: {error}"), look="mounted")))
            _say({"end": True})
            return
        _say({"store": scene.store, "mountpoint": mount and os.fspath(mount.mountpoint)})
    for name, look in looks.items():
        _say({"begin": name})
        try:
            for finding in look(scene):
                _say(asdict(replace(finding, look=name)))
        except NoMore:
            break
        except PermissionError as error:
            what = f"{error.filename} is closed to us: this was not looked at"
            _say(asdict(replace(note(what, "ask as root"), look=name)))
        except (OSError, PondError) as error:
            _say(asdict(replace(warning(f"this could not be looked at: {error}"), look=name)))
    _say({"end": True})


def _say(line: dict[str, Any]) -> None:
    os.write(1, json.dumps(line).encode() + b"\n")


if __name__ == "__main__":
    main()
