"""The Thrift compact protocol, as much of it as Parquet's headers and footers use.

Source: thrift/doc/specs/thrift-compact-protocol.md.
"""

from collections.abc import Iterable
from typing import Any

TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)

Buffer = Any
"""What can be indexed by byte: bytes, a memoryview of bytes, a `layout.FileBytes`."""


class ThriftError(Exception):
    """What was to be read is no Thrift."""


# --- writing: each function returns the bytes of a value; `struct` puts fields around them ---


def varint(number: int) -> bytes:
    """Return an unsigned number, seven bits a byte, the lowest first."""
    if number < 0x80:
        return number.to_bytes(1, "little")
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def integer(number: int) -> bytes:
    """Return a signed number of up to 64 bits."""
    return varint(number << 1 if number >= 0 else (-number << 1) - 1)


def binary(data: bytes) -> bytes:
    """Return bytes, or text in UTF-8."""
    return varint(len(data)) + data


def sequence(kind: int, values: Iterable[bytes]) -> bytes:
    """Return a list of values of one type."""
    values = list(values)
    count = len(values)
    head = bytes([count << 4 | kind]) if count < 15 else bytes([0xF0 | kind]) + varint(count)
    return head + b"".join(values)


def struct(*fields: tuple[int, int, bytes]) -> bytes:
    """Return a struct of (field id, type, value), ids rising by at most 15."""
    out = bytearray()
    last = 0
    for number, kind, value in fields:
        out.append((number - last) << 4 | kind)
        out += value
        last = number
    out.append(0)
    return bytes(out)


# --- reading: only what is needed to find one's way; text and lists are passed over ---


def read_struct(buffer: Buffer, at: int) -> tuple[dict[int, Any], int]:
    """Return a struct's numbers, bools and structs by field id, and the place behind it.

    Raises: ThriftError, IndexError.
    """
    fields: dict[int, Any] = {}
    field_id = 0
    while True:
        head = buffer[at]
        at += 1
        if head == 0:
            return fields, at
        step = head >> 4
        if step:
            field_id += step
        else:
            number, at = _read_varint(buffer, at)
            field_id = (number >> 1) ^ -(number & 1)
        fields[field_id], at = _read_value(buffer, at, head & 0x0F)


def _read_varint(buffer: Buffer, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = buffer[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ThriftError("a number does not end")


def _read_value(buffer: Buffer, at: int, kind: int) -> tuple[Any, int]:
    if kind in (TRUE, FALSE):
        return kind == TRUE, at
    if kind == BYTE:
        return buffer[at], at + 1
    if kind in (I16, I32, I64):
        number, at = _read_varint(buffer, at)
        return (number >> 1) ^ -(number & 1), at
    if kind == DOUBLE:
        return None, at + 8
    if kind == BINARY:
        length, at = _read_varint(buffer, at)
        return None, at + length
    if kind == STRUCT:
        return read_struct(buffer, at)
    if kind in (LIST, SET):
        head = buffer[at]
        at += 1
        count, inner = head >> 4, head & 0x0F
        if count == 15:
            count, at = _read_varint(buffer, at)
        for _ in range(count):
            # In a list a bool is a byte of its own; in a field it is in the type.
            _, at = _read_value(buffer, at, BYTE if inner in (TRUE, FALSE) else inner)
        return None, at
    raise ThriftError(f"unknown Thrift type {kind}")
