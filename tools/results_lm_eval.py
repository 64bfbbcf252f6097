"""The result of benchmarks/lm_eval.py as Markdown."""

from __future__ import annotations

from typing import Any

from results_machine import machine_line

_WHAT = {
    "deal_polarity": "choices, no examples",
    "deal_polarity_5shot": "choices, 5 examples",
    "deal_scitldr": "perplexity",
    "deal_commongen": "generated texts",
}
_BOS = (
    " A begin token stands before every text. gguf: llama-cpp-python's server of the "
    "same file."
)


def lm_eval_section(result: dict[str, Any], source: str) -> list[str]:
    """One row a task and model type: times, their ratio, and agreement."""
    settings = result["settings"]
    reference, threads = settings["reference"], settings["threads"]
    lines = [
        f"**lm-evaluation-harness**, {settings['model']} "
        f"(`{settings['model_file']}`; hf: the same file dequantised, batches of "
        f"{settings['batch_size']}), {settings['n']} items a task, "
        f"{threads} thread{'s' * (threads > 1)}, medians of {settings['rounds']} "
        f"rounds that take turns." + _BOS * settings.get("adds_bos", False),
        "",
        f"| task | model type | s | times {reference} | processor s "
        f"| times {reference} | nats per token from {reference}, at most "
        "| same answers |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for task, found in result["tasks"].items():
        base = found["models"][reference]
        what = f"{_WHAT[task]}: {found['n_requests']} requests"
        for name, row in found["models"].items():
            nats = row["nats_per_token_max"]
            cells = [what, name]
            for key in ("seconds_median", "cpu_seconds_median"):
                if key in row:
                    cells += [f"{row[key]:.2f}", f"{row[key] / base[key]:.2g}"]
                else:  # not known of a server
                    cells += ["", ""]
            if name == reference:
                cells += ["", ""]
            else:
                cells.append("" if nats is None else f"{nats:.1e}")
                n = row["n_compared"]
                cells.append(f"{row['same']} of {n}" if n else "")
            lines.append(f"| {' | '.join(cells)} |")
            what = ""
    notes = (
        "s: wall time inside the model type's methods; processor s: what the process "
        "got of its processors in that time, which load beside it moves less. Same "
        "answers: whether a continuation is the greedy one, and generated texts."
    )
    versions = "; ".join(
        f"{name} {version}"
        for name, version in settings["packages"].items()
        if version is not None
    )
    machine = machine_line(result["environment"])
    return [*lines, "", notes, "", f"{machine} (`{source}`). {versions}."]
