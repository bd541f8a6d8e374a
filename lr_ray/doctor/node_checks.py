"""Whether memory, folders, limits and the environment let a run work.

pytest tests/unit/test_doctor.py
"""

from lr_ray.doctor.facts import Facts
from lr_ray.doctor.finding import Finding, Findings, Level, Need, gb, room

# Ray raises its limit as far as it may and warns below this (ray/_private/worker.py).
OPEN_FILES = 4096
# Ray's object store takes this share of the memory, at most so many bytes unless /dev/shm is larger
# (ray/_private/utils.py resolve_object_store_memory), and goes to TMPDIR where /dev/shm is smaller.
_STORE_SHARE, _STORE_BYTES = 0.3, 10e9
SOCKET_PATH = 107  # bytes (ray/_private/utils.py validate_socket_filepath)
LEAST = 100e6  # bytes for the logs of Ray's session, and for a run's small files
_SPILL_SHARE = 0.05  # free, below which Ray spills no objects (RAY_local_fs_capacity_threshold)


def shared_memory(facts: Facts, need: Need) -> Findings:
    wanted = min(_STORE_SHARE * facts.memory, max(_STORE_BYTES, 0.95 * facts.shm.free))
    if facts.shm.refuses or facts.shm.free < wanted:
        what = facts.shm.refuses or f"{gb(facts.shm.free)} free"
        what += f"; Ray's object store of {gb(wanted)} goes to TMPDIR, which is slow"
        advice = f"docker run --shm-size={wanted / 1e9:.0f}g, or free some"
        yield Finding("warn", "/dev/shm", what, advice)
    else:
        yield Finding("ok", "/dev/shm", f"{gb(facts.shm.free)} free")


def open_files(facts: Facts, need: Need) -> Findings:
    if 0 <= facts.open_files < OPEN_FILES:
        what = f"{facts.open_files} at most, few for Ray's connections"
        yield Finding("warn", "open files", what, "raise the hard limit, as ulimit -Hn 65536 does")
    else:
        many = "unlimited" if facts.open_files < 0 else f"{facts.open_files} at most"
        yield Finding("ok", "open files", many)


def temporary(facts: Facts, need: Need) -> Findings:
    temp, excess = facts.temp, len(facts.socket_path.encode()) - SOCKET_PATH
    if excess > 0 and not facts.joins:
        what = f"{temp.path} makes paths of Ray's sockets {excess} characters too long"
        advice = f"give one of at most {len(temp.path.encode()) - excess} characters"
        yield Finding("bad", "TMPDIR", what, advice)
    yield from room("TMPDIR", temp, LEAST, "name another folder with TMPDIR")
    if temp.total and LEAST <= temp.free < _SPILL_SHARE * temp.total:
        what = f"{temp.path} is over {1 - _SPILL_SHARE:.0%} full; Ray spills no objects there"
        yield Finding("warn", "TMPDIR", what, "free some, or name another folder with TMPDIR")


def home(facts: Facts, need: Need) -> Findings:
    """Ray writes its token there; Triton and vLLM keep what they compile for a GPU."""
    if facts.home.refuses:
        stops = not (facts.ray_token or facts.joins)
        what = f"{facts.home.path} cannot be written: {facts.home.refuses}"
        what += "; Ray keeps its token there" if stops else ""
        yield Finding("bad" if stops else "warn", "HOME", what, "set HOME to a folder that can be")
    else:
        yield Finding("ok", "HOME", f"{facts.home.path} can be written")
    for variable, folder in facts.caches:
        if folder.refuses and need.on_gpu(facts) and need.engines and not facts.joins:
            what = f"{folder.path} cannot be written: {folder.refuses}"
            yield Finding("bad", variable, what, f"name another folder with {variable}")


def run(facts: Facts, need: Need) -> Findings:
    if facts.run is not None:
        wanted = 0 if need.run_bytes is None else need.run_bytes + LEAST
        yield from room("run", facts.run, wanted, "give another --run, or free some")


def hub(facts: Facts, need: Need) -> Findings:
    level: Level = "bad" if need.hub_bytes else "warn"
    advice = "name another folder with HF_HUB_CACHE"
    yield from room("HF cache", facts.hub, need.hub_bytes, advice, level)
    token = "there" if facts.hub_token else "none; public models alone can be fetched"
    yield Finding("ok", "HF token", token)


def proxies(facts: Facts, need: Need) -> Findings:
    asks = "evaluation" in need.stages
    for proxy in facts.proxies:
        wrong = None
        if not proxy.well_formed:
            wrong = "is not an address such as http://host:3128"
        elif proxy.scheme.startswith("socks") and not facts.socks:
            wrong = f"is a {proxy.scheme} proxy, which takes the package socksio"
        if wrong:
            level: Level = "bad" if asks or need.hub_bytes else "warn"
            yield Finding(level, "proxy", f"{proxy.variable} {wrong}", f"unset {proxy.variable}")
        elif proxy.takes_loopback:  # `connection.client` goes past it
            what = f"{proxy.variable}, for this machine itself too; evaluations go past it"
            yield Finding("ok", "proxy", what)
        else:
            yield Finding("ok", "proxy", f"{proxy.variable}, not for this machine itself")


CHECKS = (shared_memory, open_files, temporary, home, run, hub, proxies)
