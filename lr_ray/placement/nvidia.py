"""The NVIDIA GPUs of this machine, asked of its driver without CUDA, torch or Ray.

pytest tests/unit/placement/test_nvidia.py
"""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pynvml as nvml

_PCI = Path("/sys/bus/pci/devices")
_PCI_NVIDIA, _PCI_DISPLAY = "0x10de", "0x03"  # vendor; first byte of the class

Capability = tuple[int, int]  # major and minor version of a GPU's architecture
# From which on vLLM takes bfloat16 (vllm/platforms/cuda.py check_if_supports_dtype), and those of torch's
# kernels for attention that do not keep all scores (ATen, sdp_utils.cpp).
BFLOAT16: Capability = (8, 0)


@dataclass(frozen=True)
class Gpu:
    """A GPU that this process may use."""

    name: str
    memory_bytes: int
    used_bytes: int  # that a new process could not get, the driver's own reserve included
    capability: Capability
    driver: str
    # Processes that compute on it: id (the host's, in a container), and bytes where the driver tells.
    users: tuple[tuple[int, int | None], ...] = ()


@dataclass(frozen=True)
class Seen:
    """GPUs of a machine that CUDA_VISIBLE_DEVICES leaves, and what else the driver said."""

    gpus: tuple[Gpu, ...] = ()
    hidden: int = 0  # GPUs that CUDA_VISIBLE_DEVICES takes away
    cuda: int = 0  # newest major version of CUDA that the driver runs; 0 where it does not tell
    trouble: str | None = None  # why a driver that is there does not answer
    # Number of the slice (MIG) of its GPU that CUDA_VISIBLE_DEVICES names, where no GPU has that number.
    unlisted: int | None = None


def gpus(environ: Mapping[str, str] | None = None) -> list[Gpu]:
    """GPUs in the order of CUDA_VISIBLE_DEVICES; [] without a GPU, a driver or an answer of it."""
    return list(look(environ).gpus)


def look(environ: Mapping[str, str] | None = None) -> Seen:
    """The GPUs and what else the driver says, by NVML."""
    asked = (os.environ if environ is None else environ).get("CUDA_VISIBLE_DEVICES")
    try:
        nvml.nvmlInit()
        try:
            return _seen(asked)
        finally:
            nvml.nvmlShutdown()
    except (nvml.NVMLError_LibraryNotFound, nvml.NVMLError_DriverNotLoaded):
        return Seen()
    except nvml.NVMLError as error:  # such as an updated driver whose module is not loaded yet
        return Seen(trouble=str(error))


def dotted(capability: Capability) -> str:
    return ".".join(map(str, capability))


def cards_on_bus() -> int:
    """NVIDIA display controllers that the kernel sees, with or without a driver."""
    found = 0
    for device in _PCI.glob("*"):
        try:
            vendor, kind = (device / "vendor").read_text(), (device / "class").read_text()
        except OSError:
            continue
        found += vendor.strip() == _PCI_NVIDIA and kind.startswith(_PCI_DISPLAY)
    return found


def visible(uuids: Sequence[str], asked: str | None) -> list[int]:
    """Indices of the devices that CUDA takes for a value of CUDA_VISIBLE_DEVICES, in its order.

    An entry that names no device ends the list (CUDA C++ programming guide, environment variables), and
    so does one that comes again.
    """
    if asked is None:
        return list(range(len(uuids)))
    found: list[int] = []
    for entry in (part.strip() for part in asked.split(",")):
        if entry.isdecimal():
            named = [int(entry)] if int(entry) < len(uuids) else []
        else:
            named = [i for i, uuid in enumerate(uuids) if entry and uuid.startswith(entry)]
        if len(named) != 1 or named[0] in found:
            break
        found += named
    return found


def _seen(asked: str | None) -> Seen:
    handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
    driver = nvml.nvmlSystemGetDriverVersion()
    cuda = _cuda()
    if asked and asked.startswith("MIG-"):
        named = _mig(handles, asked)
        if named is None:
            return Seen(cuda=cuda)
        number, part, whole = named
        unlisted = number if number >= len(handles) else None
        return Seen((_gpu(part, whole, driver),), cuda=cuda, unlisted=unlisted)
    uuids = [nvml.nvmlDeviceGetUUID(handle) for handle in handles]
    chosen = [handles[i] for i in visible(uuids, asked)]
    found = tuple(_gpu(_part(whole), whole, driver) for whole in chosen)
    return Seen(found, len(handles) - len(found), cuda)


def _cuda() -> int:
    """Of the installed libcuda, which may be newer than the driver (CUDA's compatibility packages)."""
    try:
        return int(nvml.nvmlSystemGetCudaDriverVersion()) // 1000
    except nvml.NVMLError:
        return 0


def _mig(handles: Sequence[Any], asked: str) -> tuple[int, Any, Any] | None:
    """The slice that CUDA takes (never more than one, the first that is named), its number and its GPU."""
    for whole in handles:
        try:
            for number, part in _slices(whole):
                if nvml.nvmlDeviceGetUUID(part).startswith(asked.split(",")[0].strip()):
                    return number, part, whole
        except nvml.NVMLError_NotSupported:
            continue
    return None


def _part(whole: Any) -> Any:
    """The slice that CUDA takes of a GPU that is split (MIG), its first; else the GPU."""
    try:
        if nvml.nvmlDeviceGetMigMode(whole)[0] == nvml.NVML_DEVICE_MIG_ENABLE:
            return next((part for _, part in _slices(whole)), whole)
    except nvml.NVMLError:  # not told of most cards
        pass
    return whole


def _slices(whole: Any) -> Iterator[tuple[int, Any]]:
    """Those that this process may see, by their numbers; in a pod one of several, by any."""
    for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(whole)):
        with contextlib.suppress(nvml.NVMLError_NotFound):
            yield index, nvml.nvmlDeviceGetMigDeviceHandleByIndex(whole, index)


def _gpu(handle: Any, whole: Any, driver: str) -> Gpu:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    try:
        running = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
    except nvml.NVMLError:  # not told in some containers
        running = []
    return Gpu(
        name=nvml.nvmlDeviceGetName(handle),
        memory_bytes=int(memory.total),
        used_bytes=int(memory.total) - int(memory.free),
        capability=tuple(nvml.nvmlDeviceGetCudaComputeCapability(whole)),
        driver=driver,
        users=tuple((int(one.pid), one.usedGpuMemory) for one in running),
    )
