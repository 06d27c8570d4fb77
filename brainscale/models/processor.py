"""This machine's processors: name and instructions of the CPU, and whether there is a GPU."""

import os
import platform
from collections.abc import Iterator
from functools import cache
from pathlib import Path

INT8_INSTRUCTIONS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp"})
"""Instructions that add products of 8-bit integers, as the kernel calls them: VNNI and AMX, and Arm's dot products."""
BF16_INSTRUCTIONS = frozenset({"amx_bf16"})
"""Instructions that multiply matrices of bfloat16 fast; AVX-512's are no faster than those for float32."""


@cache
def read_cpu_model() -> str:
    """Return the name of the CPU, as the kernel gives it."""
    return next(_read_cpu_lines("model name"), platform.processor())


@cache
def read_cpu_instructions() -> frozenset[str]:
    """Return the names of the CPU's instruction sets, as the kernel gives them; none where it gives none."""
    lines = (*_read_cpu_lines("flags"), *_read_cpu_lines("Features"))
    return frozenset(lines[0].split()) if lines else frozenset()


def _read_cpu_lines(name: str) -> Iterator[str]:
    """Yield the values of the lines with a name in /proc/cpuinfo, one for each CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    yield from (line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == name)


def has_gpu() -> bool:
    """Return whether this machine has a GPU that CUDA may use; neither torch nor CUDA is loaded for this."""
    return os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1") and any(Path("/dev").glob("nvidia[0-9]*"))
