"""Which GPUs are seen, from a driver that is pretended: NVML's library compiled here, or nvidia-smi as a script."""

import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from lr_ray.placement.nvidia import Gpu, Seen, visible

# What NVML is asked, for two cards of which the second is busy.
NVML = """
#include <string.h>
typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned int pid; unsigned long long used; unsigned int gi, ci; } process_t;
static char cards[2];
static int second(void *card) { return card == &cards[1]; }
int nvmlInitWithFlags(unsigned int flags) { return INIT; }
int nvmlInit_v2(void) { return INIT; }
int nvmlShutdown(void) { return 0; }
int nvmlSystemGetDriverVersion(char *out, unsigned int size) { strcpy(out, "580.65.06"); return 0; }
int nvmlSystemGetCudaDriverVersion(int *out) { *out = 13000; return 0; }
int nvmlDeviceGetCount_v2(unsigned int *out) { *out = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int i, void **out) { *out = &cards[i]; return 0; }
int nvmlDeviceGetUUID(void *card, char *out, unsigned int size) {
  strcpy(out, second(card) ? "GPU-bbbb-2" : "GPU-aaaa-1"); return 0; }
int nvmlDeviceGetName(void *card, char *out, unsigned int size) {
  strcpy(out, second(card) ? "NVIDIA L4" : "NVIDIA H100"); return 0; }
int nvmlDeviceGetMemoryInfo(void *card, memory_t *out) {
  out->total = second(card) ? 24000000000ULL : 85000000000ULL;
  out->used = 0;  /* without the driver's own reserve */
  out->free = out->total - (second(card) ? 4000000000ULL : 500000000ULL); return 0; }
int nvmlDeviceGetCudaComputeCapability(void *card, int *major, int *minor) {
  *major = second(card) ? 8 : 9; *minor = second(card) ? 9 : 0; return 0; }
int nvmlDeviceGetComputeRunningProcesses_v3(void *card, unsigned int *count, process_t *out) {
  if (!second(card)) { *count = 0; return 0; }
  if (*count < 1) { *count = 1; return 7; }
  out[0].pid = 4242; out[0].used = 3500000000ULL; *count = 1; return 0; }
"""
H100 = Gpu("NVIDIA H100", 85_000_000_000, 500_000_000, (9, 0), "580.65.06")
L4 = Gpu("NVIDIA L4", 24_000_000_000, 4_000_000_000, (8, 9), "580.65.06", ((4242, 3_500_000_000),))
MIB = 1 << 20
SMI = """#!/bin/sh
echo "GPU-aaaa-1, NVIDIA H100, 81559, 81000, 9.0, 570.86.15"
echo "GPU-bbbb-2, NVIDIA L4, 23034, 1000, 8.9, 570.86.15"
"""


@pytest.fixture(scope="module")
def nvml(tmp_path_factory):
    """Makes an environment in which nvidia-ml-py finds the library above, whose start returns a code."""
    if shutil.which("gcc") is None:
        pytest.skip("compiles a library")
    # nvidia-ml-py is not in the CPU lock; Ray carries a copy.
    library = metadata.distribution("ray").locate_file("ray/_private/thirdparty/pynvml")

    def made(code=0):
        folder = tmp_path_factory.mktemp("nvml")
        target = str(folder / "libnvidia-ml.so.1")
        command = ["gcc", "-shared", "-fPIC", f"-DINIT={code}", "-xc", "-", "-o", target]
        subprocess.run(command, input=NVML, text=True, check=True)
        return {"LD_LIBRARY_PATH": str(folder), "PYTHONPATH": f"{library}:{os.getcwd()}"}

    return made


def seen(env, *asked) -> list[Seen]:
    """What a new process sees for each value of CUDA_VISIBLE_DEVICES."""
    code = (
        "from lr_ray.placement.nvidia import *\n"
        f"print([look({{}} if one is None else {{'CUDA_VISIBLE_DEVICES': one}}) for one in {asked}])"
    )
    command = [sys.executable, "-c", code]
    out = subprocess.run(command, env=os.environ | env, capture_output=True, text=True, check=True)
    return eval(out.stdout, {"Seen": Seen, "Gpu": Gpu})


def test_cards_of_the_drivers_library_in_the_order_that_is_asked_for(nvml):
    assert seen(nvml(), None, "1,0", "GPU-b", "") == [
        Seen((H100, L4), cuda=13),
        Seen((L4, H100), cuda=13),
        Seen((L4,), hidden=1, cuda=13),
        Seen((), hidden=2, cuda=13),
    ]


@pytest.mark.parametrize(
    ("code", "trouble"), [(9, None), (18, "RM has detected an NVML/RM version mismatch.")]
)
def test_no_driver_is_no_gpu_and_a_driver_in_trouble_is_told(nvml, code, trouble):
    assert seen(nvml(code), None) == [Seen(trouble=trouble)]


def smi(folder, script) -> dict[str, str]:
    """An environment with this nvidia-smi and without nvidia-ml-py."""
    file = folder / "nvidia-smi"
    file.write_text(script)
    file.chmod(0o755)
    (folder / "pynvml.py").write_text("raise ImportError")
    return {"PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": f"{folder}:{os.getcwd()}"}


def test_without_the_library_nvidia_smi_is_asked(tmp_path):
    both, one = seen(smi(tmp_path, SMI), None, "1")
    first, second = both.gpus
    assert first == Gpu("NVIDIA H100", 81559 * MIB, 559 * MIB, (9, 0), "570.86.15")
    assert second == Gpu("NVIDIA L4", 23034 * MIB, 22034 * MIB, (8, 9), "570.86.15")
    assert one == Seen((second,), hidden=1)


@pytest.mark.parametrize(
    ("script", "trouble"),
    [
        ("#!/bin/sh\necho cannot talk to the driver\nexit 9\n", "cannot talk to the driver"),
        ("#!/bin/sh\necho something else\n", "nvidia-smi says something else"),
        ("#!/bin/sh\n", None),
    ],
)
def test_what_nvidia_smi_says_instead_of_cards_is_told(tmp_path, script, trouble):
    assert seen(smi(tmp_path, script), None) == [Seen(trouble=trouble)]


@pytest.mark.parametrize(
    ("asked", "indices"),
    [
        (None, [0, 1, 2]),
        ("2,0", [2, 0]),
        (" 1 , 2 ", [1, 2]),
        ("", []),
        ("-1", []),
        ("0,3,1", [0]),
        ("1,1", [1]),
        ("GPU-b,GPU-a1", [2, 0]),
        ("GPU-a", []),  # two begin so
        ("NoDevFiles", []),
    ],
)
def test_visible_devices_are_read_as_cuda_does(asked, indices):
    assert visible(["GPU-a1", "GPU-a2", "GPU-b1"], asked) == indices


def test_this_machine_is_asked_without_torch_or_ray():
    code = "import sys; from lr_ray.doctor.facts import gpus; gpus(); print({'torch','ray','vllm'} & {*sys.modules})"
    root = Path(__file__).parents[2]
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert out.stdout == "set()\n"
