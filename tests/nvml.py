"""NVIDIA's driver, pretended: a library for nvidia-ml-py that tells of cards which are not there."""

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

SOURCE = """
#include <string.h>
typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned int pid; unsigned long long used; unsigned int gi, ci; } process_t;
typedef struct { const char *uuid, *name; memory_t memory; int major, minor; process_t user;
  unsigned long long slice; } card_t;
static card_t cards[] = { CARDS };
#define CARD ((card_t *) card)
int nvmlInitWithFlags(unsigned int flags) { return INIT; }
int nvmlInit_v2(void) { return INIT; }
int nvmlShutdown(void) { return 0; }
int nvmlSystemGetDriverVersion(char *out, unsigned int size) { strcpy(out, DRIVER); return 0; }
int nvmlSystemGetCudaDriverVersion(int *out) { *out = CUDA; return 0; }
int nvmlDeviceGetCount_v2(unsigned int *out) { *out = sizeof cards / sizeof *cards; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int i, void **out) { *out = &cards[i]; return 0; }
int nvmlDeviceGetUUID(void *card, char *out, unsigned int size) { strcpy(out, CARD->uuid); return 0; }
int nvmlDeviceGetName(void *card, char *out, unsigned int size) { strcpy(out, CARD->name); return 0; }
int nvmlDeviceGetMemoryInfo(void *card, memory_t *out) {
  *out = CARD->memory; return CARD->slice ? 4 : 0; }  /* in a pod with a slice, no permission */
int nvmlDeviceGetMigMode(void *card, unsigned int *now, unsigned int *next) {
  *now = *next = CARD->slice != 0; return 0; }
int nvmlDeviceGetMaxMigDeviceCount(void *card, unsigned int *out) { *out = 7; return 0; }
int nvmlDeviceGetMigDeviceHandleByIndex(void *card, unsigned int i, void **out) {
  static card_t part;
  if (i != 2 || !CARD->slice) return 6;
  part = *CARD; part.uuid = "MIG-cccc-1"; part.memory.total = part.memory.free = CARD->slice; part.slice = 0;
  *out = &part; return 0; }
int nvmlDeviceGetCudaComputeCapability(void *card, int *major, int *minor) {
  *major = CARD->major; *minor = CARD->minor; return 0; }
int nvmlDeviceGetComputeRunningProcesses_v3(void *card, unsigned int *count, process_t *out) {
  unsigned int there = CARD->user.pid != 0, room = *count;
  *count = there;
  if (room < there) return 7;
  if (there) out[0] = CARD->user;
  return 0; }
"""


class Card(NamedTuple):
    """Bytes `used` by its processes come without the driver's own reserve, as NVML tells them."""

    uuid: str
    name: str
    total: int
    free: int
    capability: tuple[int, int]
    user: tuple[int, int] = (0, 0)  # process id, bytes
    slice: int = 0  # bytes of the one slice of it (MIG) that is seen

    def __str__(self) -> str:
        memory = f"{{{self.total}ULL, {self.free}ULL, 0}}"
        (major, minor), (pid, used), mig = self.capability, self.user, self.slice
        user = f"{{{pid}, {used}ULL, 0, 0}}"
        return f'{{"{self.uuid}", "{self.name}", {memory}, {major}, {minor}, {user}, {mig}ULL}}'


def pretend(
    folder: Path, *cards: Card, driver: str = "580.65.06", cuda: int = 13000, init: int = 0
) -> dict[str, str]:
    """Compiles the library into a folder; the environment in which it is found. `init`: NVML's code."""
    if shutil.which("gcc") is None:
        pytest.skip("compiles a library")
    source = SOURCE.replace("CARDS", ", ".join(map(str, cards)))
    defined = [f'-DDRIVER="{driver}"', f"-DCUDA={cuda}", f"-DINIT={init}"]
    target = str(folder / "libnvidia-ml.so.1")
    command = ["gcc", "-shared", "-fPIC", *defined, "-xc", "-", "-o", target]
    subprocess.run(command, input=source, text=True, check=True)
    return {"LD_LIBRARY_PATH": str(folder)}
