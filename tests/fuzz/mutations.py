"""What a bad disk, a bad cable or a bad program makes of bytes: flipped, cut, zeroed, put in."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

KINDS = ("bit", "byte", "digit", "cut", "zeros", "insert", "delete", "repeat", "swap")


@dataclass(frozen=True, slots=True)
class Mutation:
    """One change to bytes of any length.

    Attributes:
        kind: one of `KINDS`.
        at: where, in millionths of the length, so that it means something for any file.
        size: how many bytes, where it takes more than one.
        value: what is put there.
    """

    kind: str
    at: int
    size: int
    value: int

    def apply(self, data: bytes) -> bytes:
        """Return *data* changed; it may come out the same."""
        at = self.at * len(data) // 1_000_000
        stop = min(len(data), at + self.size)
        match self.kind:
            case "cut":
                return data[:at]
            case "zeros":
                return data[:at] + bytes(stop - at) + data[stop:]
            case "insert":
                return data[:at] + bytes([self.value]) * self.size + data[at:]
            case "delete":
                return data[:at] + data[stop:]
            case "repeat":
                return data[:stop] + data[at:stop] + data[stop:]
            case "swap":
                end = min(len(data), stop + self.size)
                return data[:at] + data[stop:end] + data[at:stop] + data[end:]
            case "digit":
                # The next digit from there on: what is still JSON, and still a number.
                found = next((i for i in range(at, len(data)) if 48 <= data[i] <= 57), None)
                if found is None:
                    return data
                return data[:found] + bytes([48 + self.value % 10]) + data[found + 1 :]
        if at == len(data):
            return data
        one = data[at] ^ (1 << self.value % 8) if self.kind == "bit" else self.value
        return data[:at] + bytes([one]) + data[at + 1 :]


def mutations(*kinds: str) -> st.SearchStrategy[Mutation]:
    """Return a strategy for changes of these kinds, of any by default."""
    return st.builds(
        Mutation,
        st.sampled_from(kinds or KINDS),
        st.integers(0, 999_999),
        st.one_of(st.integers(1, 64), st.integers(1, 5000)),
        st.integers(0, 255),
    )
