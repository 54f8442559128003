"""What a published number must name: machine, commit, command, versions, weights."""

import contextlib
import hashlib
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def git(*args: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *args], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""


def cpu_facts() -> tuple[str, list[str]]:
    """The processor's name, and which of the features that decide its speed here it has."""
    name, flags = platform.processor(), set()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                name = value.strip()
            if key.strip() == "flags":
                flags = set(value.split())
                break
    wanted = ["avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_tile"]
    return name, [flag for flag in wanted if flag in flags]


def machine() -> dict[str, Any]:
    name, flags = cpu_facts()
    memory_kib = 0
    with contextlib.suppress(OSError):
        memory_kib = int(Path("/proc/meminfo").read_text(encoding="utf-8").split()[1])
    return {
        "cpu": name,
        "cpu_features": flags,
        "cores": os.cpu_count(),
        "memory_gib": round(memory_kib / 2**20, 1),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def shown(argument: str) -> str:
    """An argument without the folders of this machine, for a file that is committed."""
    path = Path(argument)
    if not path.is_absolute():
        return argument
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else f"<{path.name}>"


def weights_sha256(model_dir: Path) -> str:
    return hashlib.sha256((model_dir / "model.safetensors").read_bytes()).hexdigest()


def versions(*packages: str) -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in packages:
        found[package] = metadata.version(package)
    return found


def provenance(command: str, model_dir: Path) -> dict[str, Any]:
    return {
        "machine": machine(),
        "commit": git("rev-parse", "HEAD"),
        # Not the results: the stages before this one wrote them.
        "uncommitted_changes": bool(
            git("status", "--porcelain", "--", ".", ":(exclude)benches/results")
        ),
        "command": " ".join(map(shown, command.split())),
        "weights_sha256": weights_sha256(model_dir),
    }
