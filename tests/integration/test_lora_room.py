"""The room for adapters that placement counts, against the buffers of vLLM's own LoRA layers."""

import json
import subprocess
import sys
from pathlib import Path

from lr_ray.placement.sizes import describe

ROOT = Path(__file__).parents[2]
SHAPE = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 160, "vocab_size": 320, "max_position_embeddings": 256, "head_dim": 16,
    "rms_norm_eps": 1e-6, "hidden_act": "silu", "tie_word_embeddings": False, "pad_token_id": 0,
}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
MODELS = [  # the first has experts, as vLLM makes their process group with the others
    ("MixtralForCausalLM", {"model_type": "mixtral", "num_local_experts": 4, **EXPERTS}),
    ("Qwen3MoeForCausalLM", {"model_type": "qwen3_moe", **EXPERTS, "mlp_only_layers": [0]}),
    ("Qwen2ForCausalLM", {"model_type": "qwen2"}),
    ("LlamaForCausalLM", {"model_type": "llama"}),
    ("LlamaForCausalLM", {"model_type": "llama", "tie_word_embeddings": True}),
    ("Qwen3ForCausalLM", {"model_type": "qwen3"}),
    ("MistralForCausalLM", {"model_type": "mistral"}),
    ("Phi3ForCausalLM", {"model_type": "phi3"}),
    ("GemmaForCausalLM", {"model_type": "gemma"}),
    ("Gemma2ForCausalLM", {"model_type": "gemma2"}),
    ("Gemma3ForCausalLM", {"model_type": "gemma3_text"}),
]


def test_vllm_reserves_for_adapters_what_placement_counts(tmp_path):
    configs = [SHAPE | more | {"architectures": [name]} for name, more in MODELS]
    folders = [tmp_path / str(i) for i in range(len(configs))]
    for folder, config in zip(folders, configs, strict=True):
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
    command = [sys.executable, "-m", "tests.integration.lora_room", *map(str, folders)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    counted = [sum(describe(config).adapter) for config in configs]
    assert [json.loads(line) for line in done.stdout.splitlines()] == counted, done.stderr
