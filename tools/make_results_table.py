"""Writes results into README and docs, between markers, from benchmarks/results.

    python tools/make_results_table.py            write
    python tools/make_results_table.py --check    write nothing; exit 1 where a document
                                                  is not what the result files say

A document asks for a table with a pair of lines:

    <!-- BEGIN results: engine -->
    <!-- END results: engine -->

The name is that of a file in benchmarks/results, without ``.json``; a word after it
asks for a part: ``search headline``, ``search sweep``, ``search ablation``, ``search
modes``, ``search cost``, ``rewards throughput``, ``rewards search``, ``rewards
quality``, ``heads quality``, ``heads sweep``, ``alignment differences``, ``alignment
guards``, ``alignment judges``. A marker whose file is not there is an error, and its
text stays as it is; a part that was not measured says so. No figure between markers is
typed by hand.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

from results_sections import SECTIONS

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(
    r"<!-- BEGIN results: (?P<what>[^\n]+?) -->\n(?P<body>.*?)"
    r"<!-- END results: (?P<end>[^\n]+?) -->",
    re.DOTALL,
)
MARKER = re.compile(r"<!-- (?:BEGIN|END) results:")


def results_text(path: Path, variant: str = "") -> str:
    """One result file as Markdown.

    Parameters
    ----------
    path : Path
        ``.../benchmarks/results/NAME.json``.
    variant : str
        Part of it; empty for the whole.

    Raises
    ------
    ValueError
        If no table is known for the benchmark, or for this part of it.
    """
    result = json.loads(path.read_text(encoding="utf-8"))
    name = result.get("benchmark")
    if (name, variant) not in SECTIONS:
        what = f"part {variant!r} of benchmark" if variant else "benchmark"
        raise ValueError(f"{path}: no table for {what} {name!r}")
    source = path.relative_to(path.parents[2]).as_posix()
    return "\n".join(SECTIONS[name, variant](result, source))


def fill(document: str, folder: Path) -> tuple[str, list[str]]:
    """`document` with what lies between its markers replaced.

    Parameters
    ----------
    document : str
    folder : Path
        Of the result files.

    Returns
    -------
    (str, list of str)
        The new text, and what is missing, as messages.

    Raises
    ------
    ValueError
        If a marker has no partner, or asks for a table that is not known.
    """
    missing: list[str] = []

    def block(match: re.Match[str]) -> str:
        what = match["what"]
        if match["end"] != what or MARKER.search(match["body"]):
            raise ValueError(f"BEGIN results: {what}: expected an END of the same name")
        name, _, variant = what.partition(" ")
        path = folder / f"{name}.json"
        if not path.is_file():
            missing.append(f"results: {what}: there is no {path.name} in {folder}")
            return match[0]
        text = results_text(path, variant)
        head, foot = (f"<!-- {end} results: {what} -->" for end in ("BEGIN", "END"))
        return f"{head}\n\n{text}\n\n{foot}"

    filled = BLOCK.sub(block, document)
    n_marker, n_block = len(MARKER.findall(document)), len(BLOCK.findall(document))
    if n_marker != 2 * n_block:
        raise ValueError(f"results: {n_marker} markers make {n_block} pairs")
    return filled, missing


def update(root: Path, is_check: bool) -> list[str]:
    """Fill README.md and docs/*.md below `root`, unless `is_check`.

    Returns
    -------
    list of str
        What is wrong: documents that differ (with `is_check`), results that are not
        there, markers that say nothing.
    """
    faults = []
    for path in (root / "README.md", *sorted((root / "docs").glob("*.md"))):
        name = path.relative_to(root).as_posix()
        before = path.read_text(encoding="utf-8")
        try:
            after, missing = fill(before, root / "benchmarks" / "results")
        except ValueError as error:
            faults.append(f"{name}: {error}")
            continue
        faults += [f"{name}: {message}" for message in missing]
        if after == before:
            continue
        if is_check:
            faults.append(f"{name}: results differ from benchmarks/results")
        else:
            path.write_text(after, encoding="utf-8")
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    faults = update(ROOT, parser.parse_args().check)
    for fault in faults:
        print(fault, file=sys.stderr)
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
