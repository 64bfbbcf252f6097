"""The checks of the format reward once more, in plain Python, on whole texts."""

from __future__ import annotations

from typing import Any

from reward_twins import fold


def trimmed(text: str) -> str:
    return text.strip().strip('"')


def n_bullets(text: str) -> int:
    n = sum(line.lstrip().startswith("-") for line in text.split("\n"))
    lines = text.split("\n")
    i = 0
    while i < len(lines):
        line = lines[i].lstrip()
        i += 1
        if line == "*" and i < len(lines):  # a bullet goes on in the next line
            n += 1
            i += 1
        elif line.startswith("*") and len(line) > 1 and line[1] != "*":
            n += 1
    return n


def n_paragraphs(text: str) -> int:
    """Or -1 where there is a blank one between two others."""
    parts = [part.strip() for part in text.split("***")]
    if "" in parts[1:-1]:
        return -1
    return sum(part != "" for part in parts)


def n_placeholders(text: str) -> int:
    n = 0
    for line in text.split("\n"):
        while "]" in (rest := line.partition("[")[2]):
            n += 1
            line = rest.partition("]")[2]
    return n


def n_highlights(text: str) -> int:
    n = 0
    for line in text.split("\n"):
        parts = line.split("*")[1:]
        n += sum(part.strip() != "" for part in parts[:-1:2])
        i = 0
        while (i := line.find("**", i)) >= 0:
            inside, mark, _ = line[i + 2 :].partition("*")
            end = i + 2 + len(inside)
            if mark and line.startswith("**", end):
                n += inside.strip() != ""
                i = end + 2
            else:
                i += 1
    return n


def has_title(text: str) -> bool:
    for line in text.split("\n"):
        start, end = line.find("<<"), line.rfind(">>")
        if 0 <= start < end - 2 and line[start:end].lstrip("<").rstrip(">").strip():
            return True
    return False


def has_postscript(text: str, letters: str) -> bool:
    """Each letter with a dot, but the last of "pps"; a space may follow a dot."""
    text = text.lower()

    def matches(i: int, rest: str) -> bool:
        if text[i : i + 1] != rest[0]:
            return False
        if len(rest) == 1:
            return letters == "pps" or text[i + 1 : i + 2] == "."
        if text[i + 1 : i + 2] != ".":
            return False
        is_spaced = text[i + 2 : i + 3].isspace()
        return matches(i + 2, rest[1:]) or (is_spaced and matches(i + 3, rest[1:]))

    return any(matches(i, letters) for i in range(len(text)))


def ends_with(text: str, phrase: str) -> bool:
    return fold(text.rstrip().rstrip('"')).endswith(fold(phrase))


def starts_with(text: str, phrase: str) -> bool:
    return fold(text.lstrip().lstrip('"')).startswith(fold(phrase))


def is_quoted(text: str) -> bool:
    text = text.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


def checks(text: str, options: dict[str, Any]) -> dict[str, bool]:
    """The options of `_core.format` that ask for a check: whether `text` passes it."""
    passes = {
        "starts_with": lambda phrase: starts_with(text, phrase),
        "ends_with": lambda phrase: ends_with(text, phrase),
        "bullets": lambda n: n_bullets(text) == n,
        "paragraphs": lambda n: n_paragraphs(text) == n,
        "placeholders": lambda n: n_placeholders(text) >= n,
        "highlights": lambda n: n_highlights(text) >= n,
        "letter_case": lambda case: text.islower() if case == 1 else text.isupper(),
        "postscript": lambda kind: has_postscript(text, "ps" if kind == 1 else "pps"),
        "no_commas": lambda _: "," not in text,
        "quoted": lambda _: is_quoted(text),
        "title": lambda _: has_title(text),
    }
    return {name: passes[name](options[name]) for name in options if name in passes}


def format_twin(options: dict[str, Any], text: str) -> float:
    passed = list(checks(text, options).values())
    if options.get("is_all"):
        return float(all(passed))
    return sum(passed) / len(passed)
