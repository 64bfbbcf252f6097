"""What every benchmark records, machine, commit and versions, and how it writes."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_PACKAGES = (
    "deal-lm",
    "numpy",
    "scipy-openblas32",
    "tokenizers",
    "sentencepiece",
    "jinja2",
)
_CPU_FLAGS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "asimd",
    "i8mm",
)


def machine() -> dict[str, Any]:
    """Processor, cores, memory and operating system.

    Returns
    -------
    dict
        ``cpu`` is the system's own name of the processor; where that says little, as on
        virtual machines, ``cpu_family`` and ``cpu_model`` (x86) tell the core.
    """
    info = _cpuinfo()
    flags = set((info.get("flags") or info.get("Features") or "").split())
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    return {
        "cpu": info.get("model name") or _sysctl_cpu() or platform.processor(),
        "cpu_family": info.get("cpu family"),
        "cpu_model": info.get("model"),
        "cpu_flags": [flag for flag in _CPU_FLAGS if flag in flags],
        "cores": len(usable) if usable is not None else os.cpu_count(),
        "memory_bytes": _memory_size(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def commit() -> dict[str, Any]:
    """Commit of the working tree, and whether tracked files differ from it."""
    try:
        return {"id": _git("rev-parse", "HEAD"), "is_dirty": bool(_git_changes())}
    except (OSError, subprocess.CalledProcessError):
        return {"id": None, "is_dirty": None}


def versions() -> dict[str, Any]:
    """Python, the packages that take part, and how the C core was built."""
    from deal import _core

    found: dict[str, Any] = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found | {"core": _core.build_info()}


def peak_memory() -> int | None:
    """Largest resident size of this process so far, in bytes; None on Windows."""
    try:
        # NB: not ru_maxrss, which on Linux counts the parent that forked this process.
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) * 1024
    except (OSError, TypeError):
        pass
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def environment() -> dict[str, Any]:
    """Everything that names the place and time of a measurement."""
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(
            timespec="seconds"
        ),
        "machine": machine(),
        "commit": commit(),
        "versions": versions(),
        "variables": {name: os.environ[name] for name in names if name in os.environ},
    }


def write_json(path: Path, result: dict[str, Any]) -> None:
    """Write a result, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    text = json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False)
    part.write_text(text + "\n", encoding="utf-8")
    os.replace(part, path)


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def _git_changes() -> str:
    # Results and the tables made of them are written by the benchmarks themselves.
    results = (":(exclude)benchmarks/results", ":(exclude)README.md", ":(exclude)docs")
    return _git("status", "--porcelain", "--untracked-files=no", "--", ".", *results)


def _cpuinfo() -> dict[str, str]:
    """First processor of /proc/cpuinfo; empty where there is none."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _sysctl_cpu() -> str:
    command = ["sysctl", "-n", "machdep.cpu.brand_string"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def _memory_size() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def what_was_run(lm: Any, data: Path) -> dict[str, Any]:
    """Settings that tell which model, and which items, a result comes from."""
    return {
        "model_file": lm.path.name,
        "compute": lm.compute,
        "threads": lm.threads,
        "data": data.name,
        "data_sha256": hashlib.sha256(data.read_bytes()).hexdigest(),
    }
