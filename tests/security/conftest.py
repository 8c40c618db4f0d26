"""``alice`` and ``bob``: two users of this machine; ``stage``: where they live."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.security.users import NAMES, Stage, User, staged


@pytest.fixture(scope="session")
def stage() -> Iterator[Stage]:
    """Return where users live, and what they run."""
    with staged() as stage:
        yield stage


@pytest.fixture(scope="session")
def alice(stage: Stage) -> User:
    """Return the user who has the ponds."""
    return User(stage, NAMES[0])


@pytest.fixture(scope="session")
def bob(stage: Stage) -> User:
    """Return the user who looks at them."""
    return User(stage, NAMES[1])
