"""What tells one model from another: a hash that is cheap, whatever the weights' size.

Taken are the hyper-parameters, and of every file of weights its size, its first bytes,
where the tensors are listed, and blocks spread evenly over the rest. A model that was
trained further differs in nearly all of them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from deal._checkpoint import read_folder

_N_START = 2**20  # bytes at the start of a file
_N_BLOCKS = 256
_N_ARRAY_BLOCKS = 8  # of one tensor
_N_BLOCK = 4096  # bytes of each


@cached_property
def fingerprint(model: Any) -> str:
    """32 hexadecimal digits that tell this model from others: a hash over
    hyper-parameters and a sample of the weights as they lie in their files."""
    path = model.path
    files = [path]
    if path.is_dir():
        files = sorted({t.source for t in read_folder(path).tensors})
    digest = _begun(model.hparams)
    for file in files:
        _add(digest, file)
    return digest.hexdigest()


def of_memory(hparams: Any, arrays: Iterable[Any]) -> str:
    """The same of weights in memory, contiguous NumPy arrays."""
    digest = _begun(hparams)
    for array in arrays:
        data = array.reshape(-1).view("u1")
        digest.update(len(data).to_bytes(8, "little"))
        for i in range(_N_ARRAY_BLOCKS):
            at = max(len(data) - _N_BLOCK, 0) * i // (_N_ARRAY_BLOCKS - 1)
            digest.update(data[at : at + _N_BLOCK].tobytes())
    return digest.hexdigest()


def _begun(hparams: Any) -> Any:
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps(asdict(hparams), sort_keys=True).encode())
    return digest


def _add(digest: Any, path: Path) -> None:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest.update(size.to_bytes(8, "little"))
        digest.update(file.read(_N_START))
        for i in range(_N_BLOCKS):
            file.seek(max(size - _N_BLOCK, 0) * i // (_N_BLOCKS - 1))
            digest.update(file.read(_N_BLOCK))
