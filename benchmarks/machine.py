"""What a measurement was taken on, so that a table can name it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
"""The instruction sets that decide how fast integers and bfloat16 are."""

BUSY = 0.5
"""The load average from which on timings are not to be trusted."""

PACKAGES = ("fxcompress", "torch", "onnx", "onnxruntime", "openvino", "nncf", "torchvision")


def describe_machine() -> dict[str, Any]:
    """CPU, cores, instruction sets, versions, and the load average of the last minute before the measurement."""
    cpu = _cpu_info()
    flags = set(cpu.get("flags", "").split())
    return {
        "cpu": cpu.get("model name") or platform.processor() or platform.machine(),
        "cores": cores(),
        "flags": [flag for flag in FLAGS if flag in flags],
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "load average before": round(load_average(), 2),
    }


def one_line(machine: dict[str, Any]) -> str:
    """The machine in a line for under a table."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    return f"{processor(machine)}; Python {machine['python']}, {versions}"


def processor(machine: dict[str, Any]) -> str:
    """What counts for numbers and times: the processor and what it can do."""
    return f"{machine['cpu']}, {machine['cores']} cores ({' '.join(machine['flags'])})"


def cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load_average() -> float:
    """Runnable processes over the last minute; NaN where the system does not say."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")


def warn_if_busy(report: Callable[[str], None]) -> None:
    """Report, as `rich` prints it, that something else is running, where that is so."""
    if load_average() > BUSY:
        report(
            f"[yellow]load average {load_average():.1f} on {cores()} cores: something else is running; wait until "
            "it is done, or do not trust the timings[/]"
        )


def _cpu_info() -> dict[str, str]:
    """The first processor's entry of /proc/cpuinfo; empty on other systems."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return {}
    entry = path.read_text().split("\n\n")[0]
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in entry.splitlines())}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
