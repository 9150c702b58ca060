"""What is installed, what is missing, and the one command that mends it."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

CPU_FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")


@dataclass(frozen=True)
class Check:
    """One line of the doctor's report. `fix` is empty where all is well or nothing needs to be done."""

    name: str
    found: str
    fix: str = ""
    needed: bool = True


def checks(folder: Path) -> list[Check]:
    """Everything the doctor looks at; `folder` is where runs would be written."""
    return [_python(), *_packages(), _processor(), _memory(), _accelerator(), _disk(folder)]


def requirements() -> list[tuple[str, str, str]]:
    """(package, lowest version, extra) as the installed didact declares them; extra is "" for the core."""
    found = []
    for line in metadata.requires("didact") or ():
        match = re.match(r"([A-Za-z0-9_.-]+)>=([0-9.]+)(?:.*extra == ['\"](\w+)['\"])?", line)
        if match and match[3] not in ("dev", "all"):
            found.append((match[1], match[2], match[3] or ""))
    return found


def package_check(package: str, lowest: str, extra: str) -> Check:
    """Is a package there, and new enough?"""
    install = f"pip install '{f'didact[{extra}]' if extra else 'didact'}'"
    needed = extra in ("", "tune")
    try:
        version = metadata.version(package)
    except metadata.PackageNotFoundError:
        return Check(package, "not installed", install, needed)
    if _numbers(version) < _numbers(lowest):
        return Check(package, f"{version}, older than {lowest}", f"pip install '{package}>={lowest}'", needed)
    return Check(package, version)


def _python() -> Check:
    version, place = platform.python_version(), sys.prefix
    fix = "" if sys.version_info >= (3, 11) else "install Python 3.11 or newer"
    return Check("python", f"{version} in {place}", fix)


def _packages() -> list[Check]:
    return [package_check(*requirement) for requirement in requirements()]


def _processor() -> Check:
    flags = set[str]()
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8", errors="replace")
        flags = set(" ".join(re.findall(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)).split())
    except OSError:
        pass
    known = [feature for feature in CPU_FEATURES if feature in flags]
    pays = any("bf16" in feature for feature in known)
    speed = "bf16 pays" if pays else "bf16 does not pay, fp32 is used"
    return Check("processor", f"{os.cpu_count()} cores, {' '.join(known) or platform.machine()}; {speed}")


def _memory() -> Check:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return Check("memory", "unknown")
    size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return Check("memory", f"{size:.1f} GiB", "" if size >= 2 else "2 GiB are needed for the demo", needed=False)


def _accelerator() -> Check:
    try:
        import torch
    except ImportError:
        return Check("accelerator", "cannot be asked without torch")
    if torch.cuda.is_available():
        return Check("accelerator", torch.cuda.get_device_name(0))
    return Check("accelerator", "none; the processor is used")


def _disk(folder: Path) -> Check:
    free = shutil.disk_usage(folder).free / 2**30
    fix = "" if free >= 1 else f"free some space: a run of the demo needs 0.2 GiB and {folder} has less than 1"
    return Check("disk", f"{free:.1f} GiB free in {folder}", fix)


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)[:3]]
