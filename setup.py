"""Builds the C core: one extension, with flags of their own for the files that need
an instruction set. Metadata is in pyproject.toml.

Switches (environment): DEAL_DEBUG=1 (-O0, asserts), DEAL_SANITIZE=address,undefined,
DEAL_SYSTEM_BLAS=1 (OpenBLAS through pkg-config instead of the scipy-openblas32 wheel),
DEAL_WERROR=1.
"""

import os
import platform
import shutil
import subprocess
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
X86_FLAGS = {
    "kernels_avx2.c": AVX2,
    "kernels_avxvnni.c": [*AVX2, "-mavxvnni"],
    "kernels_avx512.c": [
        *AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni",
        "-mprefer-vector-width=512",
    ],
}  # fmt: skip
ARM_FLAGS = {"kernels_neon.c": ["-march=armv8.2-a+dotprod"]}
if platform.system() != "Darwin":
    # GCC would move loads ahead until the product's sums leave the registers, and keep
    # exp() scalar for the sake of exception flags, which nobody reads.
    ARM_FLAGS["kernels_neon.c"] += ["-fno-schedule-insns", "-fno-trapping-math"]
MACHINE_FLAGS = {
    "x86_64": X86_FLAGS, "AMD64": X86_FLAGS, "aarch64": ARM_FLAGS, "arm64": ARM_FLAGS,
}  # fmt: skip
# Products and sums may fuse there: a row's result stays the same on one processor.
KERNEL_FLAGS = ["-ffp-contract=fast"]


def compile_flags() -> list[str]:
    flags = ["-std=c11", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wshadow"]
    flags += ["-O0", "-g", "-UNDEBUG"] if os.environ.get("DEAL_DEBUG") else ["-O3"]
    if sanitize := os.environ.get("DEAL_SANITIZE"):
        flags += [f"-fsanitize={sanitize}", "-fno-omit-frame-pointer", "-g"]
    if os.environ.get("DEAL_WERROR"):
        flags.append("-Werror")
    return flags


def pkg_config(option: str) -> list[str]:
    command = ["pkg-config", option, "openblas"]
    return subprocess.run(
        command, check=True, capture_output=True, text=True
    ).stdout.split()


class BuildExt(build_ext):
    """Adds NumPy and BLAS, and the flags of single files."""

    def build_extension(self, ext: Extension) -> None:
        import numpy

        ext.include_dirs += [str(ROOT / "csrc"), numpy.get_include()]
        version = self.distribution.get_version()
        ext.define_macros.append(("DEAL_VERSION", f'"{version}"'))
        self.add_blas(ext)
        compile_one = self.compiler._compile

        def compile_with_flags(obj, src, ext_name, cc_args, extra, pp_opts):
            name = os.path.basename(src)
            if name.startswith("kernels_"):
                extra = [*extra, *KERNEL_FLAGS]
            flags = MACHINE_FLAGS.get(platform.machine(), {})
            extra = [*extra, *flags.get(name, [])]
            compile_one(obj, src, ext_name, cc_args, extra, pp_opts)

        self.compiler._compile = compile_with_flags
        try:
            super().build_extension(ext)
        finally:
            self.compiler._compile = compile_one

    def add_blas(self, ext: Extension) -> None:
        if os.environ.get("DEAL_SYSTEM_BLAS"):
            ext.extra_compile_args += pkg_config("--cflags")
            ext.extra_link_args += pkg_config("--libs")
            return
        import scipy_openblas32

        library_dir = scipy_openblas32.get_lib_dir()
        ext.include_dirs.append(scipy_openblas32.get_include_dir())
        ext.define_macros.append(("DEAL_SCIPY_OPENBLAS", "1"))
        ext.library_dirs.append(library_dir)
        ext.libraries.append("scipy_openblas")
        origin = "@loader_path" if platform.system() == "Darwin" else "$ORIGIN"
        ext.extra_link_args.append(f"-Wl,-rpath,{origin}/../scipy_openblas32/lib")


def copy_headers() -> None:
    """The public headers are installed as deal/*.h under deal/include."""
    target = ROOT / "deal" / "include" / "deal"
    target.mkdir(parents=True, exist_ok=True)
    for name in ("reward.h", "control.h", "constraint.h"):
        shutil.copyfile(ROOT / "csrc" / "common" / name, target / name)


copy_headers()
sources = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "csrc").rglob("*.c"))
headers = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "csrc").rglob("*.h"))
sanitize = os.environ.get("DEAL_SANITIZE")
setup(
    ext_modules=[
        Extension(
            "deal._core",
            sources=sources,
            depends=headers,
            define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_25_API_VERSION")],
            extra_compile_args=compile_flags(),
            extra_link_args=["-lm", "-pthread"]
            + ([f"-fsanitize={sanitize}"] if sanitize else []),
        )
    ],
    cmdclass={"build_ext": BuildExt},
)
