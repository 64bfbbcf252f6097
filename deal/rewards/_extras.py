"""Optional libraries, and what to install where one is missing."""

from __future__ import annotations

import importlib
from typing import Any


def needed(module: str, extra: str, what: str) -> Any:
    """The module `module`, which `what` cannot do without."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{what} needs {module}, which could not be imported ({error}); "
            f"pip install 'deal-lm[{extra}]'"
        ) from error
