"""The training workers, and the GPU memory that each takes. Nothing is started or downloaded.

Exercised by `pytest tests/unit/placement tests/unit/test_memory.py`.
"""

from collections.abc import Sequence
from dataclasses import replace

from lr_ray.config import Config
from lr_ray.placement.processes import CONTEXT_BYTES, PROMPT_TOKENS, Processes, bytes_of
from lr_ray.placement.sizes import Model, Models

_STATE_BYTES = 16  # a trained weight's float32 copy, two moments of AdamW and gradient
_STEP_BYTES = 4  # of it beside them while AdamW steps: a square root of all second moments
_WORKSPACE_BYTES = 1.5e9  # of training: temporaries of a backward, the allocator's gaps
MOST_BUCKET = 500_000_000  # weights whose gradients are reduced at once: DeepSpeed's own
_GATHERED = 1_000_000_000  # weights that ZeRO 3 has whole at once (DeepSpeed's max_live_parameters)
_KEPT_LOGIT_BYTES = 12  # of a logit in training: its log-softmax and two gradients, in float32
_HEAD_ROWS = 256  # of logits in training at once (`training.model.HEAD_ROWS`, which needs torch)


def trainers(config: Config, models: Models) -> Processes:
    """The training workers. Their fewest divide what a ZeRO stage partitions."""
    asked, model = config.training, models["expert"]
    least = asked.min_workers or asked.workers
    found = Processes("trainer", config.resources.trainer, least, asked.workers, asked.dtype, None)
    if model is None:
        return found
    size = bytes_of(asked.dtype)
    kept = asked.batch_size * (1 if asked.batch_by == "step" else config.sampling.longest)
    targets = asked.lora.targets if asked.method == "lora" else ()
    # A trajectory is not split, however few tokens a micro-batch has.
    trajectory = min(PROMPT_TOKENS + config.sampling.longest, config.sampling.room, model.context)
    tokens = max(asked.micro_batch_tokens, trajectory)
    checkpointing, rank = asked.gradient_checkpointing, asked.lora.rank
    activations = activation_bytes(model, targets, rank, tokens, size, checkpointing)
    logits = _KEPT_LOGIT_BYTES * model.rows * min(kept, _HEAD_ROWS)
    count = trained(config, model)
    beside = count if asked.method == "lora" else 0  # LoRA's own weights, beside the frozen ones
    backward = activations + logits + size * min(count, MOST_BUCKET)
    stepping = _STEP_BYTES * count / least  # when activations are gone
    gathered = size * min(model.parameters, _GATHERED) * (asked.zero_stage == 3 and least > 1)
    return replace(
        found,
        weights=(model.parameters + beside) * size / (least if asked.zero_stage == 3 else 1),
        overhead=CONTEXT_BYTES + _WORKSPACE_BYTES + gathered + max(backward, stepping),
        state=count * _STATE_BYTES / least,
    )


def activation_bytes(
    model: Model,
    lora_targets: Sequence[str],
    rank: int,
    tokens: int,
    dtype_bytes: int,
    checkpointing: bool,
) -> int:
    """Bytes that autograd keeps of a packed forward over `tokens` tokens, logits apart: an estimate.

    Of a Llama or Qwen2 under PyTorch's own kernels. Without `lora_targets` all weights are trained. With
    `checkpointing`, each layer's input and the whole of one layer, which is there while its backward runs.
    On top come what the backward holds for a moment (about three times `intermediate` a token) and the
    padding inside attention, which may double attention's part where rows differ in length.
    """
    hidden, heads = model.hidden, model.heads
    kv_heads = heads if dtype_bytes == 4 else model.kv_heads  # repeated, see `training.rows`
    queries = heads * model.head_dim
    widths = {"o_proj": queries, "down_proj": model.intermediate}
    inputs = [widths.get(target.rpartition(".")[2], hidden) for target in lora_targets]
    norm = 4 * hidden + 4  # normalised in float32
    # Queries, keys, values, output; a logarithm a head.
    attention = dtype_bytes * model.head_dim * 2 * (heads + kv_heads) + 4 * heads
    mlp = dtype_bytes * 3 * model.intermediate  # gate, its activation, up
    lora = dtype_bytes * (sum(inputs) + rank * len(inputs))  # what LoRA's A and B read
    layer = model.norms * norm + attention + mlp + lora
    if not lora_targets:  # a weight's gradient needs its input: of norms and of linear layers
        layer += dtype_bytes * (4 * hidden + queries + model.intermediate)
    numbers = 4 * max(inputs, default=0)  # of the dropout masks
    layers = model.layers
    kept = layers * dtype_bytes * hidden + layer if checkpointing else layers * layer
    return tokens * (kept + norm + numbers)


def trained(config: Config, expert: Model) -> int:
    """Trained parameters: all, or rank * (inputs + outputs) of each layer among LoRA's targets."""
    if config.training.method == "full":
        return expert.parameters
    lora = config.training.lora
    return sum(lora.rank * expert.lora.get(target, 0) for target in lora.targets)
