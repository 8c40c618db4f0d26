"""Which data file it was, when reading one fails."""

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from pondfs.errors import StoreDamaged


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
def damage_of(path: str) -> Iterator[None]:
    """Say that the data file at *path* is damaged when what is done inside finds it so.

    Raises: StoreDamaged; OSError as the disk says.
    """
    try:
        yield
    except FileNotFoundError:
        raise StoreDamaged(f"data file {path} is gone: restore it from a backup") from None
    except (pa.ArrowException, KeyError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        # What Arrow finds: no Parquet, no column of that name; an OSError of its own when a
        # page's checksum is another.
        raise StoreDamaged(
            f"data file {path} is damaged ({error}): restore it from a backup"
        ) from error
