"""Checks of what rewards are made of: errors name the argument and what came."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np

from deal.settings import check_float


def choice(name: str, value: Any, choices: Collection[str]) -> str:
    """`value`, one of the names, or a ValueError."""
    if not isinstance(value, str) or value not in choices:
        wanted = ", ".join(choices)
        raise ValueError(f"{name}: expected one of {wanted}, got {value!r:.80}")
    return value


def checked_text(name: str, value: Any) -> str:
    """A str without half a surrogate pair, which no UTF-8 has."""
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected str, got {value!r:.80}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"{name}: expected text that UTF-8 can hold, got {value!r:.80}"
            ) from None
    return value


def listed(name: str, values: Any) -> list[Any]:
    """The items of a list, which a single text or a mapping is not."""
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise TypeError(f"{name}: expected a list, got {values!r:.80}")
    return list(values)


def texts(name: str, values: Any) -> list[str]:
    """A list of str."""
    rows = listed(name, values)
    for i, row in enumerate(rows):
        checked_text(f"{name}[{i}]", row)
    return rows


def number(name: str, value: Any) -> float:
    """A finite number."""
    return check_float(name, value, "a finite number", lambda x: True)


def not_negative(name: str, value: Any) -> float:
    """A finite number, 0 or more."""
    return check_float(name, value, "a finite number >= 0", lambda x: x >= 0)


def share(name: str, value: Any) -> float:
    """A number in [0, 1)."""
    return check_float(name, value, "a share in [0, 1)", lambda x: 0 <= x < 1)


def flag(name: str, value: Any) -> bool:
    """True or False, NumPy's as well."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected True or False, got {value!r:.80}")
    return bool(value)


def engine_model(name: str, value: Any) -> Any:
    """A :class:`deal.Model`."""
    from deal.model import Model

    if not isinstance(value, Model):
        raise TypeError(f"{name}: expected a deal.Model, got {value!r:.80}")
    return value
