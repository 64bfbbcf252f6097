"""What every table says of where it was measured."""

from __future__ import annotations

from typing import Any


def machine_line(environment: dict[str, Any]) -> str:
    """Machine, commit and versions of one measurement."""
    machine, commit = environment["machine"], environment["commit"]
    versions = environment["versions"]
    cpu = machine["cpu"]
    if machine.get("cpu_family") and machine.get("cpu_model"):
        cpu += f" (family {machine['cpu_family']}, model {machine['cpu_model']})"
    revision = (commit["id"] or "unknown")[:12]
    if commit["is_dirty"]:
        revision += " with local changes"
    core = versions.get("core", {})
    return (
        f"{cpu}, {machine['cores']} cores, {machine['system']}; commit {revision}; "
        f"deal-lm {versions.get('deal-lm')}, Python {versions['python']}, NumPy "
        f"{versions['numpy']}; kernels {core.get('kernels')}, {core.get('blas')}; "
        f"{environment['date'][:10]}"
    )
