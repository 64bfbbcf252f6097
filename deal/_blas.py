"""Loads OpenBLAS before the C core where the loader would not find it by itself.

An installed package finds the ``scipy-openblas32`` wheel beside it. In a source tree or
an editable install the two lie apart: the library is then opened here, and the core's
own reference to it is served by the copy in memory.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path


def _preload() -> None:
    """Open the wheel's library, unless it lies where the core looks or is not used."""
    if (Path(__file__).resolve().parent.parent / "scipy_openblas32").is_dir():
        return
    spec = find_spec("scipy_openblas32")
    if spec is None or spec.origin is None:
        return
    import ctypes

    folder = Path(spec.origin).parent / "lib"
    for library in sorted(folder.glob("libscipy_openblas*")):
        if library.suffix in (".so", ".dylib"):
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


_preload()
