"""Safetensors files: headers, checked before anything is believed, and small files of
float32 and float64 tensors that are read and written as a whole.

The format: 8 bytes little-endian header size, a JSON object, then the tensors' bytes,
which must be covered without gap or overlap.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deal._errors import ModelFormatError

_MAX_HEADER = 100 * 2**20  # as the safetensors library has it
_MAX_RANK = 64  # NumPy's
_SIZES = {"F32": 4, "F16": 2, "BF16": 2}  # bytes of a value
_WHOLE_SIZES = {"F32": 4, "F64": 8}  # in files that are read as a whole
_DTYPES = {"F32": "<f4", "F64": "<f8"}


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies.

    Attributes
    ----------
    name : str
    dtype : {"F32", "F16", "BF16", "F64"}
    shape : tuple of int
    path : Path
    offset, size : int
        Bytes from the start of the file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int
    size: int


def read_json(raw: bytes | str, what: str) -> dict[str, Any]:
    """A JSON object; keys that come twice, NaN and anything else are refused."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise ModelFormatError(f"{what}: {twice!r} is listed twice")
        return result

    try:
        text = raw.decode("utf-8") if isinstance(raw, bytes) else raw
        value = json.loads(text, object_pairs_hook=unique)
    except ModelFormatError:
        raise
    except (ValueError, RecursionError) as error:
        raise ModelFormatError(f"{what}: not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelFormatError(
            f"{what}: expected a JSON object, got {type(value).__name__}"
        )
    return value


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Tensors of one file by name.

    Raises
    ------
    ModelFormatError
        If the header is not one, or its ranges overlap, leave gaps, pass the file's end
        or disagree with shape and dtype.
    NotImplementedError
        For a dtype other than F32, F16 and BF16.
    """
    return _read_header(path, _SIZES)[0]


def read_tensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Tensors of a small file of float32 and float64 ones, and its metadata.

    Raises
    ------
    ModelFormatError
        As :func:`read_header`.
    NotImplementedError
        For a dtype other than F32 and F64.
    """
    stored, metadata = _read_header(path, _WHOLE_SIZES)
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise ModelFormatError(
                f"{path.name}: safetensors metadata: {key!r:.80}: expected a string, "
                f"got {value!r:.80}"
            )
    raw = path.read_bytes()
    tensors = {}
    for name, tensor in stored.items():
        dtype = np.dtype(_DTYPES[tensor.dtype])
        part = np.frombuffer(raw, dtype, tensor.size // dtype.itemsize, tensor.offset)
        tensors[name] = part.reshape(tensor.shape).astype(dtype.newbyteorder("="))
    return tensors, metadata


def write_tensors(
    path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """Write float32 and float64 tensors, whole or not at all."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    parts, at = [], 0
    for name, tensor in tensors.items():
        dtype = "F64" if tensor.dtype == np.float64 else "F32"
        part = np.ascontiguousarray(tensor, dtype=_DTYPES[dtype]).tobytes()
        header[name] = {
            "dtype": dtype,
            "shape": list(tensor.shape),
            "data_offsets": [at, at + len(part)],
        }
        parts.append(part)
        at += len(part)
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the data begin at a multiple of 8
    part_path = path.with_name(path.name + ".part")
    with part_path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.writelines(parts)
    os.replace(part_path, path)


def _read_header(
    path: Path, sizes: Mapping[str, int]
) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    file_size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        size = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if size < 2 or size > min(_MAX_HEADER, file_size - 8):
            raise ModelFormatError(
                f"{path.name}: not a safetensors file: a header of {size} bytes in "
                f"{file_size}"
            )
        header = read_json(file.read(size), f"{path.name}: safetensors header")
    metadata = header.pop("__metadata__", None)
    begin, tensors = 8 + size, {}
    for name, entry in header.items():
        tensors[name] = _read_entry(path, name, entry, begin, sizes)
    _check_cover(path, tensors, begin, file_size)
    return tensors, metadata if isinstance(metadata, dict) else {}


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _read_entry(
    path: Path, name: str, entry: Any, begin: int, sizes: Mapping[str, int]
) -> StoredTensor:
    where = f"{path.name}: safetensors tensor {name}"
    if not isinstance(entry, dict):
        raise ModelFormatError(f"{where}: expected an object, got {entry!r}")
    dtype, shape = entry.get("dtype"), entry.get("shape")
    offsets = entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in sizes:
        *names, last = sizes
        raise NotImplementedError(
            f"{where}: expected dtype {', '.join(names)} or {last}, got {dtype!r}"
        )
    is_shape = isinstance(shape, list) and len(shape) <= _MAX_RANK
    if not is_shape or not all(_is_count(d) for d in shape):
        raise ModelFormatError(f"{where}: expected a shape, got {shape!r:.200}")
    if (
        not isinstance(offsets, list)
        or len(offsets) != 2
        or not all(_is_count(x) for x in offsets)
        or offsets[0] > offsets[1]
    ):
        raise ModelFormatError(f"{where}: expected two offsets, got {offsets!r}")
    size = sizes[dtype]
    for d in shape:
        size *= d
    if size != offsets[1] - offsets[0]:
        raise ModelFormatError(
            f"{where}: expected {size} bytes for {dtype} {shape}, got "
            f"{offsets[1] - offsets[0]}"
        )
    return StoredTensor(name, dtype, tuple(shape), path, begin + offsets[0], size)


def _check_cover(
    path: Path, tensors: dict[str, StoredTensor], begin: int, file_size: int
) -> None:
    at = begin
    for tensor in sorted(tensors.values(), key=lambda t: (t.offset, t.size)):
        if tensor.offset != at:
            raise ModelFormatError(
                f"{path.name}: safetensors tensor {tensor.name}: expected to start at "
                f"byte {at - begin} of the data, where the one before ends, got "
                f"{tensor.offset - begin}"
            )
        at += tensor.size
    if at != file_size:
        raise ModelFormatError(
            f"{path.name}: safetensors data: expected {at - begin} bytes, got "
            f"{file_size - begin}"
        )
