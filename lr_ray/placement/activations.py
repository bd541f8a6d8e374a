"""What training keeps in memory besides weights: an estimate from a model's shape, without torch.

It counts what autograd keeps of a packed forward of a Llama or Qwen2 under PyTorch's own kernels. On top
come what the backward holds for a moment (about three times `intermediate` a token) and the padding
inside attention, which may double attention's part where rows differ in length.
Exercised by `pytest tests/unit/test_memory.py`.
"""

from collections.abc import Sequence

_HEAD_ROWS = 256  # `model.HEAD_ROWS`, which needs torch


def activation_bytes(
    hidden: int,
    intermediate: int,
    layers: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    lora_targets: Sequence[str],
    tokens: int,
    dtype_bytes: int,
    checkpointing: bool,
) -> int:
    """Bytes kept for the backward of one forward over `tokens` tokens.

    Without `lora_targets` all weights are trained. With `checkpointing`, each layer's input and the whole
    of one layer, which is there while its backward runs. The logits come on top, see `head_bytes`.
    """
    queries = heads * head_dim
    widths = {"o_proj": queries, "down_proj": intermediate}
    inputs = [widths.get(target.rpartition(".")[2], hidden) for target in lora_targets]
    norm = 4 * hidden + 4  # normalised in float32
    # Queries, keys, values, output; a logarithm a head.
    attention = dtype_bytes * head_dim * 2 * (heads + kv_heads) + 4 * heads
    mlp = dtype_bytes * 3 * intermediate  # gate, its activation, up
    layer = 2 * norm + attention + mlp + dtype_bytes * sum(inputs)
    if not lora_targets:  # a weight's gradient needs its input: of norms and of linear layers
        layer += dtype_bytes * (4 * hidden + queries + intermediate)
    numbers = 4 * max(inputs, default=0)  # of the dropout masks
    kept = layers * dtype_bytes * hidden + layer if checkpointing else layers * layer
    return tokens * (kept + norm + numbers)


def head_bytes(vocabulary: int, kept_steps: int) -> int:
    """Most bytes of logits that exist at once: their log-softmax and two gradients, in float32."""
    return 12 * vocabulary * min(kept_steps, _HEAD_ROWS)
