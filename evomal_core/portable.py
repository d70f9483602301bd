"""Portable numerics: with EVOMAL_PORTABLE=1 a record is the same to the last digit on any x86-64 CPU.

Libraries choose their kernels by what the CPU can do, and kernels differ in the order of sums and in fused
multiply-adds. The settings here hold each library to the kernels that every x86-64 CPU of the last fifteen years has, and
to one thread. They are read when the process starts or a library is loaded, so they have to stand in the environment
before that: `./run` puts them there, and without it

    export EVOMAL_PORTABLE=1; eval "$(python path/to/evomal_core/portable.py)"

The package refuses to be imported with EVOMAL_PORTABLE=1 and other settings. What is promised needs the same versions of
the packages and of the C library, which a record names. A GPU has numerics of its own; "auto" stands for the CPU here.
"""

import os
import platform
import shlex

SETTINGS = {
    "ATEN_CPU_CAPABILITY": "default",  # PyTorch's own kernels: widths of vectors, and so the order of sums
    "MKL_CBWR": "COMPATIBLE",  # products and factorisations of matrices in PyTorch
    "ONEDNN_MAX_CPU_ISA": "SSE41",  # convolutions in PyTorch
    "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_ICL AVX512_SPR",  # NumPy's own kernels
    "OPENBLAS_CORETYPE": "Nehalem",  # products and factorisations of matrices in NumPy and SciPy
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA,-FMA4,-AVX2_Usable,-FMA_Usable,-FMA4_Usable",  # exp, log, tanh …
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


def enabled() -> bool:
    """Does the environment ask for portable numerics?"""
    return os.environ.get("EVOMAL_PORTABLE", "") not in ("", "0")


def check_environment() -> None:
    """Raise RuntimeError if portable numerics are asked for, and cannot be had in this process."""
    if not enabled():
        return
    if platform.machine() not in ("x86_64", "AMD64") or platform.libc_ver()[0] != "glibc":
        here = f"{platform.system()} on {platform.machine()}"
        raise RuntimeError(f"EVOMAL_PORTABLE=1 needs Linux with the GNU C library on x86-64, got {here}")
    wrong = [f"{name}={os.environ.get(name)!r}" for name, value in SETTINGS.items() if os.environ.get(name) != value]
    if wrong:
        how = 'use ./run, or `eval "$(python evomal_core/portable.py)"` before Python starts'
        raise RuntimeError(
            f"EVOMAL_PORTABLE=1 needs settings of its own in the environment, got {', '.join(wrong)}; {how}"
        )


if __name__ == "__main__":
    for name, value in SETTINGS.items():
        print(f"export {name}={shlex.quote(value)}")
