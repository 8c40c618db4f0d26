"""Extended attributes as rows have them: JSON in the column ``metadata``."""

import base64
import json
from typing import Any

from pondfs.errors import StoreDamaged


def encode_xattrs(xattrs: dict[bytes, bytes]) -> str:
    """Return ``{"xattrs": {name: base64}}``; names that are not UTF-8 stand base64-coded apart."""
    plain: dict[str, str] = {}
    odd: dict[str, str] = {}
    for name, value in xattrs.items():
        coded = base64.b64encode(value).decode("ascii")
        try:
            plain[name.decode("utf-8")] = coded
        except UnicodeDecodeError:
            odd[base64.b64encode(name).decode("ascii")] = coded
    record: dict[str, Any] = {"xattrs": plain}
    if odd:
        record["xattrs_b64"] = odd
    return json.dumps(record, separators=(",", ":"))


def decode_xattrs(metadata: str | None) -> dict[bytes, bytes] | None:
    """Return the xattrs that a row's ``metadata`` holds; None for none.

    Raises: StoreDamaged when it is not what rows have there.
    """
    if metadata is None:
        return None
    try:
        record = json.loads(metadata)
        xattrs = {k.encode(): _bytes(v) for k, v in record.get("xattrs", {}).items()}
        for name, value in record.get("xattrs_b64", {}).items():
            xattrs[_bytes(name)] = _bytes(value)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise StoreDamaged(
            f"the metadata of a row is damaged ({error}): restore the pond from a backup"
        ) from None
    return xattrs or None


def _bytes(coded: str) -> bytes:
    return base64.b64decode(coded, validate=True)
