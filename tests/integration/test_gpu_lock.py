"""The GPU lock on a machine without a GPU: what is installed, and what engines get on pretended cards.

LR_RAY_GPU_PYTHON names the Python of an environment with the lock; `make test-gpu-lock` makes one.
"""

import ctypes
import json
import os
import subprocess
from pathlib import Path

import pytest

from lr_ray.embedded import expert_path
from tests.integration.pretended_card import CARDS
from tests.unit.locks import PYTHONS, ROOT, unmet

pytestmark = pytest.mark.long

VARIABLE = "LR_RAY_GPU_PYTHON"
# Functions of the driver that vLLM's libraries name; none of them is called here.
DRIVER_FUNCTIONS = ("cuGetProcAddress_v2", "cuPointerGetAttribute", "cuTensorMapEncodeTiled")
CUDA_13, NO_DEVICE = "13.", 100
# Qwen2.5-Math-1.5B and Qwen2.5-0.5B, but for their tokenizers.
SHAPES = {
    "expert": {
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
    },
    "amateur": {
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32768,
    },
}
VOCABULARY = 151936
COMMON = {
    "v2": True,
    "dtype": "torch.bfloat16",
    "head_dtype": "torch.bfloat16",
    "max_model_len": 4096,
    "chunked_prefill": True,
    "prefix_caching": True,
    "attention": "FLASH_ATTN",  # FlashInfer would compile with nvcc
    "ranks": 1,
    "executor": "uni",
    "seed": 0,
}
DECODING = {
    **COMMON,
    "architecture": "Qwen2ForCausalLM",
    "runner": "generate",
    "async_scheduling": True,
    "eager": False,
    "compiled": "NONE",  # which takes longer than a run's decoding
    "graphs": "FULL_DECODE_ONLY",
}
EXPECTED = {
    "expert": {**DECODING, "max_logprobs": VOCABULARY, "memory_share": 0.9},
    "amateur": {
        **COMMON,
        "architecture": "LrRayScorerQwen2ForCausalLM",
        "runner": "pooling",
        "async_scheduling": False,
        "memory_share": 0.45,
    },
    "server": {**DECODING, "memory_share": 0.45, "max_num_seqs": 256},
    "server of adapters": {**DECODING, "memory_share": 0.45, "max_num_seqs": 256},
}


@pytest.fixture(scope="module")
def python() -> Path:
    """The GPU environment's."""
    named = os.environ.get(VARIABLE)
    if not named:
        pytest.skip(f"{VARIABLE} names no Python with the GPU lock; see make test-gpu-lock")
    found = Path(named).parent / Path(named).name
    if not (site_packages(found) / "vllm").is_dir():
        pytest.skip(f"{VARIABLE}: {named} has no vllm")
    return found


def site_packages(python: Path) -> Path:
    (found,) = python.parent.parent.glob("lib/python3*/site-packages")
    return found


def run(python: Path, *arguments: str, **environment: str) -> str:
    """Standard output's last line."""
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **environment}
    done = subprocess.run(
        [python, *arguments],
        env=variables,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, str]:
    folders = {}
    for role, shape in SHAPES.items():
        folder = tmp_path_factory.mktemp(role)
        config = json.loads((expert_path() / "config.json").read_text())
        extent = {"vocab_size": VOCABULARY, "tie_word_embeddings": True, "dtype": "bfloat16"}
        config = {k: v for k, v in config.items() if k not in ("layer_types", "head_dim")}
        (folder / "config.json").write_text(json.dumps(config | shape | extent))
        for file in expert_path().glob("*token*"):
            (folder / file.name).write_bytes(file.read_bytes())
        folders[role] = str(folder)
    return folders


@pytest.fixture(scope="module")
def driver(tmp_path_factory) -> dict[str, str]:
    """Environment in which libraries that link to the driver load: a stand-in where there is none."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        pass
    else:
        return {}
    folder = tmp_path_factory.mktemp("driver")
    source = "".join(f"int {name}(void) {{ return {NO_DEVICE}; }}\n" for name in DRIVER_FUNCTIONS)
    library = folder / "libcuda.so.1"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", library],
        input=source,
        text=True,
        check=True,
    )
    return {"LD_LIBRARY_PATH": f"{folder}:{os.environ.get('LD_LIBRARY_PATH', '')}".rstrip(":")}


def test_torch_is_built_for_cuda_and_vllm_imports(python):
    code = "import torch, vllm; print(torch.version.cuda)"
    assert run(python, "-c", code).startswith(CUDA_13)


@pytest.mark.parametrize("version", PYTHONS)
def test_the_gpu_lock_is_complete_on_each_python(python, version):
    assert unmet("gpu", site_packages(python), version) == []


@pytest.mark.parametrize("card", CARDS)
def test_engines_get_the_runner_and_the_kernels_that_need_no_nvcc(python, models, driver, card):
    script = Path(__file__).with_name("pretended_card.py")
    found = json.loads(run(python, str(script), card, *models.values(), **driver))
    assert list(found) == list(EXPECTED)
    for role, expected in EXPECTED.items():
        assert {name: found[role][name] for name in expected} == expected, role
        print(card, role, found[role])


FAKE_NORM = """
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm
from lr_ray.training import kernels

class Names(TorchDispatchMode):
    def __torch_dispatch__(self, operator, types, arguments=(), options=None):
        names.append(operator.name())
        return operator(*arguments, **(options or {}))

names = []
torch.set_default_dtype(torch.bfloat16)
with FakeTensorMode(), torch.no_grad(), torch.device("cuda"):
    norm, x = Qwen2RMSNorm(64), torch.empty(1, 9, 64)
    kernels.install(norm)
    with Names():
        norm(x)
print([name for name in names if name.startswith("aten::")])
"""


def test_a_norm_is_one_kernel_on_a_gpu(python, driver):
    assert run(python, "-c", FAKE_NORM, **driver) == "['aten::_fused_rms_norm']"
