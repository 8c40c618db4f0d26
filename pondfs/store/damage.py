"""Which data file it was, when reading one fails."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pyarrow as pa

from pondfs.errors import StoreDamaged

if TYPE_CHECKING:
    from pondfs.store.content import DataFile


@contextmanager
def naming(path: str) -> Iterator[None]:
    """Have an error of the disk say which file it was: a read by descriptor does not.

    Raises: OSError.
    """
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, path) from None


@contextmanager
def damage_of(file: "DataFile") -> Iterator[None]:
    """Say which data file it was when reading one fails. Raises: StoreDamaged."""
    try:
        yield
    except FileNotFoundError:
        raise StoreDamaged(f"data file {file.path} is gone: restore it from a backup") from None
    except (pa.ArrowException, OSError, KeyError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's, not Arrow's
        raise StoreDamaged(
            f"data file {file.path} is damaged ({error}): restore it from a backup"
        ) from error
