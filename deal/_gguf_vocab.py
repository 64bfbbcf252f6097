"""The vocabulary of a GGUF file, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deal._errors import ModelFormatError

# tokenizer.ggml.token_type
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)

_PREFIX = "tokenizer.ggml."
_TYPE_NAMES = {str: "a string", bool: "a bool", int: "an integer"}


def _describe(value: Any) -> str:
    if hasattr(value, "dtype"):
        return f"an array of {value.dtype}"
    if isinstance(value, (list, tuple)):
        return f"a list of {type(value[0]).__name__}" if value else "an empty list"
    return f"{type(value).__name__} {value!r}"


def read_value(metadata: Mapping[str, Any], key: str, kind: type) -> Any:
    """The value of `key`, None where missing; ModelFormatError for another type."""
    value = metadata.get(key)
    if value is None:
        return None
    if hasattr(value, "item") and not getattr(value, "shape", ()):  # a NumPy scalar
        value = value.item()
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ModelFormatError(
            f"{key}: expected {_TYPE_NAMES[kind]}, got {_describe(value)}"
        )
    if isinstance(value, str):
        _check_text(key, value)
    return value


def _check_text(key: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ModelFormatError(f"{key}: expected UTF-8, got {text!r}") from None


def read_strings(metadata: Mapping[str, Any], key: str) -> list[str]:
    """An array of strings; ModelFormatError where missing or anything else."""
    value = metadata.get(key)
    if value is None:
        raise ModelFormatError(f"{key}: expected an array of strings, got none")
    if not isinstance(value, (list, tuple)) or not all(type(x) is str for x in value):
        raise ModelFormatError(
            f"{key}: expected an array of strings, got {_describe(value)}"
        )
    for i, text in enumerate(value):
        if not text.isascii():
            _check_text(f"{key}[{i}]", text)
    return list(value)


def read_numbers(
    metadata: Mapping[str, Any], key: str, kind: type, n: int
) -> list[Any]:
    """An array of `n` numbers of `kind`, int or float, as a list."""
    value = metadata.get(key)
    wanted = f"{n} {'integers' if kind is int else 'floats'}, one for each token"
    if value is None:
        raise ModelFormatError(f"{key}: expected {wanted}, got none")
    numbers = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(numbers, (list, tuple)):
        raise ModelFormatError(f"{key}: expected {wanted}, got {_describe(value)}")
    accepted = (int,) if kind is int else (int, float)
    if not all(type(x) in accepted for x in numbers):
        raise ModelFormatError(f"{key}: expected {wanted}, got {_describe(value)}")
    if len(numbers) != n:
        raise ModelFormatError(f"{key}: expected {wanted}, got {len(numbers)}")
    return [kind(x) for x in numbers]


@dataclass(frozen=True)
class GgufVocab:
    """Tokens of a GGUF file.

    Attributes
    ----------
    metadata : mapping
        The file's keys.
    tokens : list of str
    types : list of int
        NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED or BYTE for each token.
    """

    metadata: Mapping[str, Any]
    tokens: list[str]
    types: list[int]

    @classmethod
    def read(cls, metadata: Mapping[str, Any]) -> GgufVocab:
        """Read and check; ModelFormatError names key, expected and actual."""
        key = _PREFIX + "tokens"
        tokens = read_strings(metadata, key)
        if not tokens:
            raise ModelFormatError(f"{key}: expected at least one token, got none")
        first: dict[str, int] = {}
        for i, token in enumerate(tokens):
            if first.setdefault(token, i) != i:
                raise ModelFormatError(
                    f"{key}: expected every token once, got {token!r} as "
                    f"{first[token]} and {i}"
                )
        key = _PREFIX + "token_type"
        types = [NORMAL] * len(tokens)
        if metadata.get(key) is not None:
            types = read_numbers(metadata, key, int, len(tokens))
        for i, kind in enumerate(types):
            if not NORMAL <= kind <= BYTE:
                raise ModelFormatError(
                    f"{key}[{i}]: expected {NORMAL} to {BYTE}, got {kind}"
                )
        return cls(metadata, tokens, types)

    def token_id(self, name: str) -> int | None:
        """The id under ``tokenizer.ggml.<name>``, None where the file has none."""
        key = _PREFIX + name
        value = read_value(self.metadata, key, int)
        if value is not None and not 0 <= value < len(self.tokens):
            raise ModelFormatError(
                f"{key}: expected 0 to {len(self.tokens) - 1}, got {value}"
            )
        return value

    def flag(self, name: str, default: bool) -> bool:
        """The bool under ``tokenizer.ggml.<name>``."""
        value = read_value(self.metadata, _PREFIX + name, bool)
        return default if value is None else value
