"""Task files for lm-evaluation-harness from local data: no hub, no network.

    python -m benchmarks.lm_eval_tasks --data ../shared/data --out tasks -n 40
    deal eval --include_path tasks --tasks deal_polarity,deal_scitldr,deal_commongen

Four tasks: `deal_polarity`, which of two sentences follows a film review;
`deal_polarity_5shot`, the same behind five examples; `deal_scitldr`, perplexity of
abstracts; `deal_commongen`, a sentence with given words, scored by the share of words
that it uses.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

NAMES = ("deal_polarity", "deal_polarity_5shot", "deal_scitldr", "deal_commongen")
_FILES = (  # data set, part in the task, part in the data, field to take turns by
    ("rt_polarity", "test", "dev", "label"),
    ("rt_polarity", "train", "train", "label"),
    ("scitldr", "test", "dev", None),
    ("commongen", "test", "dev", None),
)
_N_SHOT = 5
_FIELDS = {
    "rt_polarity": ("input", "label"),
    "scitldr": ("input",),
    "commongen": ("input", "concepts", "forms"),
}

_HEAD = """\
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {folder}/{data}.test.jsonl
"""
_POLARITY = """\
    train: {folder}/rt_polarity.train.jsonl
test_split: test
output_type: multiple_choice
fewshot_split: train
fewshot_config:
  sampler: first_n
num_fewshot: {n_shot}
doc_to_text: "Review: {{{{input}}}}\\nVerdict:"
doc_to_target: label
doc_to_choice: ["It is a bad film.", "It is a good film."]
metric_list:
  - metric: acc
"""
_SCITLDR = """\
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{input}}"
metric_list:
  - metric: byte_perplexity
"""
# 16 tokens: what a server writes for the harness' type "gguf", which names no number.
_COMMONGEN = """\
test_split: test
output_type: generate_until
doc_to_text: "Write one sentence that uses these words: {{input}}.\\nSentence:"
doc_to_target: "{{input}}"
generation_kwargs:
  until: ["\\n"]
  max_gen_toks: 16
  do_sample: false
process_results: !function coverage.process_results
metric_list:
  - metric: coverage
    aggregation: mean
    higher_is_better: true
"""
_COVERAGE = '''\
"""How many of a row's words a text uses, in any of their forms."""

import re


def process_results(doc, results):
    words = set(re.findall(r"[a-z]+", results[0].lower()))
    forms = [set(doc["forms"][word]) for word in doc["concepts"]]
    return {"coverage": sum(bool(words & each) for each in forms) / len(forms)}
'''


def rows(path: Path, n: int, by: str | None) -> list[dict[str, Any]]:
    """The first `n` rows of a JSON-lines file, in turn of the values of field `by`."""
    found = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    if by is None:
        return found[:n]
    groups = [[r for r in found if r[by] == v] for v in sorted({r[by] for r in found})]
    return [row for each in zip(*groups, strict=False) for row in each][:n]


def write_tasks(data: Path, folder: Path, n: int) -> list[str]:
    """Write data and task files of `n` items each into `folder`; the tasks' names."""
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for name, part, source, by in _FILES:
        n_rows = n if part == "test" else _N_SHOT
        text = "".join(
            json.dumps({field: row[field] for field in _FIELDS[name]}) + "\n"
            for row in rows(data / name / f"{source}.jsonl", n_rows, by)
        )
        (folder / f"{name}.{part}.jsonl").write_text(text, "utf-8")
    bodies = {
        "deal_polarity": ("rt_polarity", _POLARITY.format(folder=folder, n_shot=0)),
        "deal_polarity_5shot": (
            "rt_polarity",
            _POLARITY.format(folder=folder, n_shot=_N_SHOT),
        ),
        "deal_scitldr": ("scitldr", _SCITLDR),
        "deal_commongen": ("commongen", _COMMONGEN),
    }
    for name, (source, body) in bodies.items():
        head = _HEAD.format(name=name, folder=folder, data=source)
        (folder / f"{name}.yaml").write_text(head + body, "utf-8")
    (folder / "coverage.py").write_text(_COVERAGE, "utf-8")
    return list(bodies)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of data sets")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("-n", type=int, default=40, help="items of each task")
    args = parser.parse_args()
    print(",".join(write_tasks(args.data, args.out, args.n)))


if __name__ == "__main__":
    main()
