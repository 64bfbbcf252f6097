"""Results in a JSON-lines file, so that a long run can go on where it stopped.

The first line tells what all results have in common, every other one is a key and a
result. A last line that was cut short, by a crash or a full disk, is left out.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

_FORMAT = "deal sweep 1"


class Checkpoint:
    """A file of results, open to add more; a context manager."""

    def __init__(self, path: str | os.PathLike[str], about: dict[str, Any]) -> None:
        self.path = Path(path)
        self._about = {"format": _FORMAT, **about}
        self._results: dict[str, dict[str, Any]] = {}
        self._file: Any = None

    def __enter__(self) -> Checkpoint:
        lines = self._read()
        if lines:
            self._check_about(lines[0])
        for number, line in enumerate(lines[1:], 2):
            self._take(line, number)
        # Without what was cut short, and never half a file.
        beside = self.path.with_name(self.path.name + ".part")
        with open(beside, "w", encoding="utf-8") as file:
            file.write(self._header())
            for key, result in self._results.items():
                file.write(_line(key, result))
        os.replace(beside, self.path)
        self._file = open(self.path, "a", encoding="utf-8")
        return self

    def __exit__(self, *unused: Any) -> None:
        self._file.close()

    def _header(self) -> str:
        return json.dumps(self._about) + "\n"

    def _read(self) -> list[Any]:
        try:
            text = self.path.read_bytes().decode("utf-8", errors="replace")
        except FileNotFoundError:
            return []
        lines = text.split("\n")
        if len(lines) == 1 and not self._header().startswith(text):
            raise self._damaged(1, f"expected a file of format {_FORMAT!r}")
        parsed = []
        for number, line in enumerate(lines[:-1], 1):  # the last has no end
            try:
                parsed.append(json.loads(line))
            except (ValueError, RecursionError):
                raise self._damaged(number, "expected JSON") from None
        return parsed

    def _damaged(self, number: int, what: str) -> ValueError:
        return ValueError(f"checkpoint: {self.path}, line {number}: {what}")

    def _check_about(self, about: Any) -> None:
        if not isinstance(about, dict) or about.get("format") != _FORMAT:
            raise self._damaged(1, f"expected a file of format {_FORMAT!r}")
        for name, value in self._about.items():
            if about.get(name) != value:
                raise ValueError(
                    f"checkpoint: {self.path} is of a sweep with another {name}: "
                    f"expected {value!r}, got {about.get(name)!r}"
                )

    def _take(self, line: Any, number: int) -> None:
        is_row = isinstance(line, dict) and line.keys() == {"key", "result"}
        if not is_row or not isinstance(line["key"], str):
            raise self._damaged(number, "expected a key and a result")
        if not isinstance(line["result"], dict):
            raise self._damaged(number, "expected a result")
        self._results[line["key"]] = line["result"]

    def get(self, key: str) -> dict[str, Any] | None:
        return self._results.get(key)

    def add(self, key: str, result: dict[str, Any] | None) -> None:
        """Writes a result to the file at once; None is left out."""
        if result is None:
            return
        self._file.write(_line(key, result))
        self._file.flush()


def _line(key: str, result: dict[str, Any]) -> str:
    return json.dumps({"key": key, "result": result}) + "\n"
