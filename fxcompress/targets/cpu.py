"""What the CPU of this machine can do."""

from __future__ import annotations

from torch import cpu


def has_vnni() -> bool:
    """Whether this x86 CPU adds up products of bytes in 32 bits (AVX512-VNNI or AVX-VNNI), so that none saturates.

    Where it does not, quantize with ``reduce_range="pairs"``, the default, or True. Other CPUs than x86 need neither.
    """
    if not hasattr(cpu, "get_capabilities"):  # torch before it could tell AVX-VNNI
        return cpu._is_vnni_supported()
    found = cpu.get_capabilities()
    return bool(found.get("avx512_vnni") or found.get("avx_vnni"))
