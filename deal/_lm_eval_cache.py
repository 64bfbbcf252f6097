"""What the harness' cache of answers (``--use_cache``) cannot see.

The cache finds an answer by prompt and settings. It knows neither the row that rewards
read nor the code that a formula names by its file, and asks the model nothing where it
has an answer. So rows of one prompt are told apart before anything is written, and the
files are kept in the cache by what they said, and compared when it is opened.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from deal._lm_eval_options import GenerateOptions
from deal._reward_spec import source_of

_FILES = "deal: files of rewards"  # beside the answers: path -> SHA-256, or None


def check_rows(requests: Sequence[Any], asked: Sequence[GenerateOptions]) -> None:
    """ValueError where the cache would give a row the answer of another one.

    Parameters
    ----------
    requests : sequence of lm_eval.api.instance.Instance
    asked : sequence of GenerateOptions
        Of each request.
    """
    docs: dict[str, Any] = {}
    for request, options in zip(requests, asked, strict=True):
        spec = options.spec
        if spec is None or not (spec.uses_doc or spec.objects):
            continue
        doc = getattr(request, "doc", None)
        key = json.dumps(list(request.args), default=str)
        if docs.setdefault(key, doc) != doc:
            raise ValueError(
                "use_cache: expected a prompt of its own for every row, as rewards "
                f"may read doc, got two rows with {request.args[0]!r:.80}"
            )


def check_files(cache: Any, objects: Iterable[str] = ()) -> None:
    """Compares the files of rewards with what they were, and remembers new ones.

    Parameters
    ----------
    cache : mapping or None
        The open cache; None where there is none.
    objects : iterable of str
        "path/to/file.py:name" or "package.module:name".

    Raises
    ------
    ValueError
        If a file is another one than when answers went into the cache.
    """
    if cache is None:
        return
    known = cache.get(_FILES, {})
    for path, digest in known.items():
        if _digest(Path(path)) != digest:
            raise ValueError(
                f"use_cache: expected {path} as it was when answers of its rewards "
                "went into this cache, got another; delete the cache or name a new one"
            )
    sources = {source_of(name) for name in objects}
    found = {str(path): _digest(path) for path in sources if path is not None}
    if not found.keys() <= known.keys():
        cache[_FILES] = known | found


def _digest(path: Path) -> str | None:
    """None where there is no such file."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None
