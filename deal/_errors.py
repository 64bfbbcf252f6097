"""Exceptions of the package; the C core raises them too."""

from __future__ import annotations


class ModelFormatError(ValueError):
    """A model or tokenizer file does not hold what it says, or what its format asks."""


class ContextLengthError(ValueError):
    """A prompt leaves no room in the model's context."""


class KVBudgetError(MemoryError):
    """A request needs more bytes of KV cells than ``kv_budget`` allows."""


class RewardError(ValueError):
    """A reward broke its contract: a wrong type or length, NaN, a C scorer failed."""


class RewardTypeError(RewardError, TypeError):
    """A reward returned something that is no list of numbers."""


class ControlError(ValueError):
    """A control broke its contract: a wrong type or shape, NaN, a C function failed."""


class ConstraintError(ValueError):
    """A constraint failed, or broke its contract."""


class TokenizerError(ValueError):
    """A tokenizer cannot do what was asked: no chat template, or one that failed."""
