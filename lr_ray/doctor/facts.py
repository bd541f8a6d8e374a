"""The facts of a node, read through libraries and the operating system; `checks` judges them.

Picklable, so that a task can send a node's facts to the driver. Imports neither torch nor vLLM, and Ray
for a cluster's nodes alone.
"""

import os
import platform
import resource
import runpy
import shutil
import socket
import sysconfig
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import metadata, util
from pathlib import Path

import psutil

from lr_ray.doctor.installed import Differing, differing, engines
from lr_ray.placement.nvidia import Seen, cards_on_bus, look
from lr_ray.runtime.cluster import ask_nodes, joins, nodes
from lr_ray.runtime.connection import PROXIES, scheme_of

# What Ray puts below its temporary directory, with its socket of the longest name
# (ray/_private/node.py); the process id follows the third part.
_SESSION = "ray/session_2026-01-01_00-00-00_000000_{pid}/sockets/plasma_store"
_PROBE_S = 60.0
_LOOPBACK = "127.0.0.1"  # a run's own endpoint


@dataclass(frozen=True)
class Folder:
    """A folder that may not exist yet. `refuses`: why no file can be made in it, None if one can."""

    path: str
    free: int  # bytes
    total: int
    refuses: str | None = None


@dataclass(frozen=True)
class Torch:
    """torch's build: version with its local part, and CUDA's version, None for a CPU build."""

    version: str
    cuda: str | None


@dataclass(frozen=True)
class Proxy:
    """A proxy variable, without its user and password."""

    variable: str
    scheme: str
    well_formed: bool
    takes_loopback: bool  # requests to this machine would go through it


@dataclass(frozen=True)
class Facts:
    """What one node has. Folders are those that programs would use, whether they exist or not."""

    host: str
    python: str
    cpus: int
    memory: int  # bytes
    seen: Seen
    gpu_users: tuple[str, ...]  # processes that compute on GPUs, a text each
    cards: int  # NVIDIA cards on the PCI bus
    compiler: str | None
    headers: bool  # Python.h
    nvcc: str | None  # or what stands for it, see `_nvcc`
    lscpu: bool
    torch: Torch | None
    engines: tuple[str, ...]  # distributions of vLLM
    differing: tuple[Differing, ...] | None  # None: not looked at
    shm: Folder
    temp: Folder
    home: Folder
    caches: tuple[tuple[str, Folder], ...]  # of compiled kernels, with the variables that name them
    hub: Folder
    run: Folder | None
    open_files: int  # that a process may raise its limit to
    socket_path: str  # a socket's path under Ray's session
    joins: str | None  # RAY_ADDRESS: Ray starts nothing here
    ray_token: bool  # Ray needs to write no token into HOME
    hub_token: bool
    proxies: tuple[Proxy, ...]
    socks: bool  # httpx can use a SOCKS proxy


def gather(
    run: str | None = None, environ: Mapping[str, str] | None = None, versions: bool = True
) -> Facts:
    """Looks at this machine, about a tenth of a second.

    `run` is a local run directory. `environ` stands for os.environ. Without `versions` the installed
    distributions are not compared with those asked for.
    """
    environ = os.environ if environ is None else environ
    home = environ.get("HOME") or os.path.expanduser("~")
    temp = environ.get("RAY_TMPDIR") or environ.get("TMPDIR") or "/tmp"  # as Ray chooses
    temp = os.path.abspath(temp)
    cache = environ.get("XDG_CACHE_HOME") or os.path.join(home, ".cache")
    # As huggingface_hub/constants.py chooses, for which an empty name is the working directory.
    shared = environ.get("XDG_CACHE_HOME", os.path.join(home, ".cache"))
    hub_home = os.path.expanduser(environ.get("HF_HOME", os.path.join(shared, "huggingface")))
    hub = environ.get("HUGGINGFACE_HUB_CACHE", os.path.join(hub_home, "hub"))
    hub = os.path.expanduser(environ.get("HF_HUB_CACHE", hub))  # where models are kept
    seen, found = look(environ), engines()
    return Facts(
        host=socket.gethostname(),
        python=platform.python_version(),
        cpus=os.cpu_count() or 1,
        memory=psutil.virtual_memory().total,
        seen=seen,
        gpu_users=_users(seen),
        cards=cards_on_bus(),
        compiler=_compiler(environ),
        headers=_headers(),
        nvcc=_nvcc(environ),
        lscpu=shutil.which("lscpu", path=environ.get("PATH")) is not None,
        torch=_torch(),
        engines=found,
        differing=differing(found) if versions else None,
        shm=_folder("/dev/shm"),
        temp=_folder(temp),
        home=_folder(home),
        caches=_caches(environ, home, cache),
        hub=_folder(hub),
        run=_folder(run) if run is not None else None,
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        socket_path=os.path.join(temp, _SESSION.format(pid=os.getpid())),
        joins=joins(environ),
        ray_token=_has_ray_token(environ, home),
        hub_token=_has_hub_token(environ, hub_home),
        proxies=_proxies(environ),
        socks=util.find_spec("socksio") is not None,
    )


def gather_nodes(run: str | None) -> dict[str, Facts | str]:
    """Facts of the connected cluster's nodes by address, or a line on why a node gave none."""
    answers = ask_nodes(nodes(), gather, run, within_s=_PROBE_S)
    found: dict[str, Facts | str] = {}
    for node in nodes():
        if node["NodeID"] not in answers:  # it has come meanwhile
            continue
        answer, name = answers[node["NodeID"]], node["NodeManagerAddress"]
        name = f"{name} {node['NodeID'][:8]}" if name in found else name
        if isinstance(answer, Exception):
            lines = [line.strip() for line in str(answer).splitlines() if line.strip()]
            found[name] = lines[-1] if lines else type(answer).__name__
        else:
            found[name] = replace(answer, joins=name)
    return found


def _users(seen: Seen) -> tuple[str, ...]:
    told = {}
    for pid, used in (user for gpu in seen.gpus for user in gpu.users):
        try:
            name = psutil.Process(pid).name()
        except psutil.Error:  # of another container
            name = "process"
        told[pid] = f"{name} {pid}" + ("" if used is None else f" ({used / 1e9:.1f} GB)")
    return tuple(told.values())


def _compiler(environ: Mapping[str, str]) -> str | None:
    """Triton's choice (triton/runtime/build.py): CC, gcc, clang."""
    path = environ.get("PATH")
    named = environ.get("CC")
    names = [named.split()[0]] if named and named.split() else ["gcc", "clang"]
    return next((found for name in names if (found := shutil.which(name, path=path))), None)


def _headers() -> bool:
    scheme = sysconfig.get_default_scheme()
    scheme = "posix_prefix" if scheme == "posix_local" else scheme  # as Triton does for Debian's
    return Path(sysconfig.get_paths(scheme=scheme)["include"], "Python.h").is_file()


def _nvcc(environ: Mapping[str, str]) -> str | None:
    """As FlashInfer looks for it (flashinfer/jit/cpp_ext.py), or its kernels in a package of their own."""
    if util.find_spec("flashinfer_jit_cache"):
        return "flashinfer-jit-cache"
    if home := environ.get("CUDA_HOME") or environ.get("CUDA_PATH"):
        return shutil.which("nvcc", path=os.path.join(home, "bin"))
    path = environ.get("PATH")
    return shutil.which("nvcc", path=path) or shutil.which("nvcc", path="/usr/local/cuda/bin")


def _torch() -> Torch | None:
    """From torch/version.py, which says more than its distribution's metadata; torch is not imported."""
    try:
        found = metadata.distribution("torch")
        said = runpy.run_path(str(found.locate_file("torch/version.py")))
    except (metadata.PackageNotFoundError, OSError):
        return None
    return Torch(said["__version__"], said.get("cuda"))


def _folder(path: str) -> Folder:
    """A file is tried where the folder is, or would be made."""
    there = Path(os.path.abspath(path))
    while not os.path.exists(there) and there != there.parent:
        there = there.parent
    refuses = None
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        refuses = error.strerror or str(error)
    try:
        usage = shutil.disk_usage(there)
    except OSError as error:
        return Folder(path, 0, 0, refuses or error.strerror)
    return Folder(path, usage.free, usage.total, refuses)


def _caches(environ: Mapping[str, str], home: str, cache: str) -> tuple[tuple[str, Folder], ...]:
    """As triton/knobs.py and vllm/envs.py choose."""
    triton = os.path.join(environ.get("TRITON_HOME") or home, ".triton", "cache")
    return (
        ("TRITON_CACHE_DIR", _folder(environ.get("TRITON_CACHE_DIR") or triton)),
        ("VLLM_CACHE_ROOT", _folder(environ.get("VLLM_CACHE_ROOT") or os.path.join(cache, "vllm"))),
    )


def _has_hub_token(environ: Mapping[str, str], hub_home: str) -> bool:
    """Whether one is there; it is not read."""
    file = environ.get("HF_TOKEN_PATH") or os.path.join(hub_home, "token")
    named = environ.get("HF_TOKEN") or environ.get("HUGGING_FACE_HUB_TOKEN")
    return bool(named) or _is_file(file)


def _has_ray_token(environ: Mapping[str, str], home: str) -> bool:
    """Whether Ray makes none (ray/_private/authentication/authentication_token_setup.py)."""
    mode = environ.get("RAY_AUTH_MODE", "token").lower()
    named = environ.get("RAY_AUTH_TOKEN") or environ.get("RAY_AUTH_TOKEN_PATH")
    return mode != "token" or bool(named) or _is_file(os.path.join(home, ".ray", "auth_token"))


def _is_file(path: str) -> bool:
    return os.path.isfile(os.path.expanduser(path))


def _proxies(environ: Mapping[str, str]) -> tuple[Proxy, ...]:
    """The variables that the clients of endpoints and of the hub read (httpx2/_utils.py)."""
    no_proxy = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    bypassed = {host.strip() for host in no_proxy.split(",")}
    found = []
    for name, value in sorted(environ.items()):
        kind = name.lower().removesuffix("_proxy")
        if kind not in ("http", "https", "all") or name.lower() == kind:
            continue
        if not value or "*" in bypassed:
            continue
        scheme, is_address = scheme_of(value)
        takes_loopback = kind != "https" and _LOOPBACK not in bypassed
        found.append(Proxy(name, scheme, is_address and scheme in PROXIES, takes_loopback))
    return tuple(found)
