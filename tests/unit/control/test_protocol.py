import errno
import json
import os
import stat
from pathlib import Path

import pytest

from pondfs.control import protocol
from pondfs.control.protocol import (
    MAX_LINE_BYTES,
    ProtocolError,
    decode,
    encode,
    failure,
    find_sockets,
    socket_path,
)
from pondfs.errors import CommitFailed, NotPermitted, SystemFailure


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two runtime directories in place of /run and /tmp, not made yet."""
    directories = [tmp_path / "run" / "pondfs", tmp_path / "pondfs-0"]
    monkeypatch.setattr(protocol, "_directories", lambda uid: iter(directories))
    return directories


def test_a_message_is_one_line() -> None:
    line = encode({"op": "commit", "message": "two\nlines, é"})
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert decode(line) == {"op": "commit", "message": "two\nlines, é"}


@pytest.mark.parametrize("line", [b"", b"hello", b"[1]", b"null", b"\xff\xfe{}", b"[" * 100_000])
def test_what_is_no_message_is_refused(line: bytes) -> None:
    with pytest.raises(ProtocolError, match=r"^not (JSON|a JSON object)"):
        decode(line)


def test_a_message_too_long_is_refused() -> None:
    with pytest.raises(ProtocolError) as refused:
        encode({"message": "x" * MAX_LINE_BYTES})
    assert refused.value.errno == errno.EMSGSIZE


@pytest.mark.parametrize(
    ("error", "number", "text"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), errno.ENOSPC, "No space left on device"),
        (OSError(errno.EIO, "Input/output error", "/f"), errno.EIO, "Input/output error: /f"),
        (CommitFailed("it failed", errno.EROFS), errno.EROFS, "it failed"),
        (KeyError("x"), errno.EIO, "'x'"),
        (ValueError(), errno.EIO, "ValueError"),
    ],
)
def test_errors_travel_as_errno_and_words(error: Exception, number: int, text: str) -> None:
    told = failure(error)
    assert told.pop("exit_code", None) == getattr(error, "exit_code", None)
    assert told == {"ok": False, "error": text, "errno": number}


def test_the_socket_lies_in_a_private_directory(runtime: list[Path]) -> None:
    runtime[0].parent.mkdir()
    path = socket_path(Path("/mnt/pond"))
    assert path.parent == runtime[0]
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert path == socket_path(Path("/mnt/../mnt/pond"))
    assert path != socket_path(Path("/mnt/pond2"))


def test_the_name_is_documented() -> None:
    """docs/reference/control.md tells scripts how to find the socket."""
    assert protocol._name("/mnt/pond") == "c86d1c742c146a8d.sock"


def test_without_a_runtime_directory_tmp_serves(runtime: list[Path]) -> None:
    assert socket_path(Path("/mnt/pond")).parent == runtime[1]


def test_a_path_too_long_for_a_socket_is_passed_over(
    runtime: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(protocol, "_directories", lambda uid: iter([long, runtime[1]]))
    assert socket_path(Path("/mnt/pond")).parent == runtime[1]


def test_a_directory_open_to_others_is_not_used(runtime: list[Path]) -> None:
    """Somebody may have made /tmp/pondfs-UID first, to get between us and the daemon."""
    runtime[1].mkdir(mode=0o777)
    runtime[1].chmod(0o777)
    with pytest.raises(SystemFailure, match=f"{runtime[1]} is open to others"):
        socket_path(Path("/mnt/pond"))
    (runtime[1] / protocol._name("/mnt/pond")).touch()
    assert list(find_sockets(Path("/mnt/pond"), os.geteuid())) == []


def test_a_symlink_is_not_followed(runtime: list[Path], tmp_path: Path) -> None:
    (tmp_path / "private").mkdir(mode=0o700)
    runtime[1].symlink_to(tmp_path / "private")
    with pytest.raises(SystemFailure, match="no place"):
        socket_path(Path("/mnt/pond"))


def test_only_a_socket_of_the_owner_is_found(runtime: list[Path]) -> None:
    runtime[1].mkdir(mode=0o700)
    path = runtime[1] / protocol._name("/mnt/pond")
    path.touch()
    assert list(find_sockets(Path("/mnt/pond"), os.geteuid())) == []
    path.unlink()
    os.mknod(path, stat.S_IFSOCK | 0o600)
    assert list(find_sockets(Path("/mnt/pond"), os.geteuid())) == [path]
    assert list(find_sockets(Path("/mnt/pond"), os.geteuid() + 1)) == []


def test_a_place_closed_to_us_is_told_from_an_empty_one(
    runtime: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(directory: Path, uid: int) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(protocol, "_is_private", closed)
    with pytest.raises(NotPermitted, match="belongs to user 0: ask as that user or as root"):
        list(find_sockets(Path("/mnt/pond"), 0))


def test_messages_are_plain_json() -> None:
    assert json.loads(encode({"id": 1})) == {"id": 1}
