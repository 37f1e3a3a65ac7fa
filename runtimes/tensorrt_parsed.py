"""An ONNX file as TensorRT's parser is to see it, made without the package `onnx`, which devices lack.

A graph whose scans are for our plugins carries a body of standard operators for each of them, so that other runtimes
can run it. TensorRT's parser would take the bodies; without them it looks for plugins. The bodies are the field
`functions` of ONNX's ModelProto (onnx.proto), and can be left out of the file byte for byte.
"""

from __future__ import annotations

from typing import NamedTuple

from rs4d_edge.errors import BundleError

_FUNCTIONS = 25  # the field's number in ModelProto
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5  # how a field is written (protobuf's wire types)
_FIXED = {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}


class Parsed(NamedTuple):
    """The file without bodies, and whether it had any: then its nodes of ours need plugins."""

    content: bytes
    needs_plugins: bool


def without_functions(content: bytes) -> Parsed:
    """A serialized ModelProto without its functions. Raises BundleError for what is no ModelProto."""
    kept: list[memoryview] = []
    view, position, dropped = memoryview(content), 0, False
    while position < len(content):
        start = position
        tag, position = _varint(content, position)
        position = _end_of_field(content, position, tag & 7)
        if tag >> 3 == _FUNCTIONS:
            dropped = True
        else:
            kept.append(view[start:position])
    return Parsed(b"".join(kept) if dropped else content, dropped)


def _end_of_field(content: bytes, position: int, wire_type: int) -> int:
    if wire_type == _LENGTH:
        size, position = _varint(content, position)
        position += size
    elif wire_type == _VARINT:
        _, position = _varint(content, position)
    elif wire_type in _FIXED:
        position += _FIXED[wire_type]
    else:
        raise _not_onnx(position)
    if position > len(content):
        raise _not_onnx(len(content))
    return position


def _varint(content: bytes, position: int) -> tuple[int, int]:
    """A number in groups of seven bits, the lowest first, and where the next thing begins."""
    value = 0
    for shift in range(0, 64, 7):
        if position >= len(content):
            raise _not_onnx(position)
        byte = content[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return value, position
    raise _not_onnx(position)


def _not_onnx(position: int) -> BundleError:
    return BundleError(f"the model file is not ONNX: unreadable at byte {position}; copy or export the bundle again")
