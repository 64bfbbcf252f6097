"""What tells one model from another: a hash that is cheap, whatever the weights' size.

Taken are the hyper-parameters, and of every file of weights its size, its first bytes,
where the tensors are listed, and blocks spread evenly over the rest. A model that was
trained further differs in nearly all of them.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from deal._checkpoint import read_folder

_N_START = 2**20  # bytes at the start of a file
_N_BLOCKS = 256
_N_BLOCK = 4096  # bytes of each


def fingerprint(model: Any) -> str:
    """32 hexadecimal digits that tell this model from others: a hash over
    hyper-parameters and a sample of the weights as they lie in their files."""
    path = model.path
    files = [path]
    if path.is_dir():
        files = sorted({Path(t.path) for t in read_folder(path).tensors})
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps(asdict(model.hparams), sort_keys=True).encode())
    for file in files:
        _add(digest, file)
    return digest.hexdigest()


def _add(digest: Any, path: Path) -> None:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest.update(size.to_bytes(8, "little"))
        digest.update(file.read(_N_START))
        for i in range(_N_BLOCKS):
            file.seek(max(size - _N_BLOCK, 0) * i // (_N_BLOCKS - 1))
            digest.update(file.read(_N_BLOCK))
