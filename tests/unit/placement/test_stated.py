"""What `auto` makes of the numbers that a config states beside it."""

import json
import re

import pytest

from lr_ray.config import Place, Serving
from lr_ray.engines.vllm import most_sequences
from lr_ray.errors import UserError
from lr_ray.placement import arrange, find_models, needs
from lr_ray.placement.arrange import for_serving
from lr_ray.placement.cards import Cards, pretended
from lr_ray.placement.processes import at_once
from lr_ray.placement.sizes import describe
from lr_ray.placement.ways import splits
from tests.unit.placement.test_arrange import LLAMA, configured, placed


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize(("cpu", "gpu"), [("expert", "amateur"), ("amateur", "expert")])
def test_a_model_on_the_cpus_leaves_all_gpus_to_the_other(count, cpu, gpu):
    config, _ = placed(pretended(count, 80e9), "qwen2.5-math-1.5b", f"--resources.{cpu}.gpus=0")
    sampling, resources = config.sampling, config.resources
    assert resources.sampling == "together"
    assert (getattr(resources, cpu).gpus, getattr(resources, gpu).gpus) == (0, 1)
    assert (getattr(sampling, cpu).most, getattr(sampling, gpu).most) == (1, count)


@pytest.mark.parametrize(
    ("count", "expert", "amateur", "engines"),
    [
        (8, 1, 1, (6, 2)),  # as where nothing is stated
        (4, 0.4, "auto", (6, 1)),  # two on each of three
        (2, 0.5, 0.5, (3, 1)),
        (2, 0.7, 0.3, (2, 2)),
        (2, 0.4, 0.3, (3, 2)),
        (1, 0.4, 0.3, (1, 1)),
        (5, 2, 0.5, (2, 2)),
    ],
)
def test_stated_gpus_are_all_taken_and_no_more(count, expert, amateur, engines):
    stated = [f"--resources.expert.gpus={expert}", f"--resources.amateur.gpus={amateur}"]
    config, models = placed(pretended(count, 80e9), "qwen2.5-math-1.5b", *stated)
    assert config.resources.sampling == "together"
    assert (config.sampling.expert.most, config.sampling.amateur.most) == engines
    assert at_once(needs.processes(config, models, "sampling"), True, most=True) <= count


@pytest.mark.parametrize(
    ("stated", "engines"),
    [
        ({"amateur": 1}, (7, 1)),
        ({"expert": 3}, (3, 5)),
        ({"expert": 1}, (1, 7)),
        ({"amateur": 4}, (6, 4)),  # at most: by the sizes there are two
        ({"expert": 2, "amateur": 2}, (2, 2)),
        ({}, (6, 2)),
    ],
)
def test_what_one_pool_leaves_by_its_stated_engines_is_the_others(stated, engines):
    limits = [f"--sampling.{role}.max_engines={most}" for role, most in stated.items()]
    config, models = placed(pretended(8, 80e9), "qwen2.5-math-1.5b", *limits)
    sampling = config.sampling
    assert config.resources.sampling == "together"
    assert (sampling.expert.most, sampling.amateur.most) == engines
    assert at_once(needs.processes(config, models, "sampling"), True) <= 8
    for role in {"expert", "amateur"} - stated.keys():  # all GPUs are taken at once
        assert getattr(sampling, role).min_engines == getattr(sampling, role).most


def test_shares_of_several_gpus_do_not_reach_over_two_of_them():
    apart = ("--resources.sampling=apart", "--resources.expert.gpus=0.4")
    config, _ = placed(Cards((4, 1), 80e9), "qwen2.5-math-1.5b", *apart)
    assert config.sampling.expert.most == 10


LLAMA_3B = describe(
    LLAMA | {"hidden_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 24}
)


def test_a_model_is_split_as_vllm_can():
    assert splits(LLAMA_3B, 24) == [1, 2, 4, 8]  # 24 heads, 8 of keys and values
    # 12 heads, 2 of keys and values, and a sixth of 8960 columns is no whole number.
    assert splits(describe(json.loads(MATH)), 12) == [1, 2, 4]


MATH = """{"model_type": "qwen2", "hidden_size": 1536, "num_hidden_layers": 28, "num_attention_heads": 12,
"num_key_value_heads": 2, "intermediate_size": 8960, "vocab_size": 151936, "tie_word_embeddings": true,
"max_position_embeddings": 4096}"""


@pytest.mark.parametrize(("role", "gpus"), [("expert", 3), ("expert", 6), ("server", 8)])
def test_a_number_of_gpus_that_vllm_cannot_split_over_is_refused(role, gpus):
    wrong = rf"^resources\.{role}\.gpus {gpus}: .*12 attention heads \(2 of .*give 1, 2, 4 or auto$"
    with pytest.raises(UserError, match=wrong):
        placed(pretended(8, 80e9), "qwen2.5-math-1.5b", f"--resources.{role}.gpus={gpus}")
    even = placed(pretended(8, 80e9), "qwen2.5-math-1.5b", f"--resources.{role}.gpus=4")[0]
    assert getattr(even.resources, role).gpus == 4


def test_an_endpoint_is_refused_a_number_that_vllm_cannot_split_over():
    with pytest.raises(UserError, match=r"^resources\.server\.gpus 3: .*24 attention heads"):
        for_serving(Serving(), Place(gpus=3), LLAMA_3B, 1, pretended(8, 80e9))


def test_training_has_room_for_a_trajectory_longer_than_a_micro_batch():
    long = ("--sampling.max_new_tokens=3072", "--evaluation.max_new_tokens=1024")

    def needed(tokens: int, *changes: str) -> float:
        stated = ("--resources.trainer.gpus=1", f"--training.micro_batch_tokens={tokens}")
        config, models = placed(pretended(1, 288e9), "qwen2.5-math-1.5b", *stated, *changes)
        return needs.processes(config, models, "training")[0].needed

    assert needed(2048, *long) == needed(3584, *long)  # 512 of a prompt
    assert needed(2048) < needed(2048, *long) < needed(8192, *long)
    assert needed(8192, *long) == needed(8192)
    # No trajectory is longer than what the expert reads.
    assert needed(2048, "--sampling.max_new_tokens=8192") == needed(4096)


def test_full_training_has_room_for_what_a_step_of_adamw_takes():
    full = ("--training.method=full", "--resources.trainer.gpus=1")
    small = ("--training.micro_batch_tokens=512", "--training.gradient_checkpointing=true")
    config, models = placed(pretended(1, 288e9), "qwen2.5-math-1.5b", *full, *small)
    [trainer] = needs.processes(config, models, "training")
    assert trainer.overhead > 4 * 1_543_714_304
    assert trainer.state == 16 * 1_543_714_304


def test_a_cache_of_few_sequences_is_taken_where_no_other_fits(tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps(
            LLAMA | {"hidden_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 24}
        )
    )
    pair = [f"--models.{role}={tmp_path}" for role in ("expert", "amateur")]
    config, models = placed(pretended(1, 12e9), "llama-3.2-3b-instruct", *pair)
    [server] = needs.processes(config, models, "evaluation")
    assert config.resources.evaluation == "apart"
    assert server.longest == 4096 * 2 * 28 * 8 * 128 * 2
    assert server.longest < 1e9 * server.place.cache_gb < server.fewest
    assert server.fixed + 1e9 * server.place.cache_gb <= 0.9 * 12e9
    # Sixteen sequences of 16 896 tokens would take 31 GB.
    long = ["--sampling.max_new_tokens=16384", "--sampling.expert.max_engines=1"]
    config, models = placed(pretended(1, 24e9), "llama-3.2-3b-instruct", *pair, *long)
    expert = needs.processes(config, models, "sampling")[0]
    assert expert.longest < 1e9 * expert.place.cache_gb < expert.fewest


def test_a_cache_has_room_for_one_longest_sequence_in_whole_blocks():
    config, models = placed(
        pretended(1, 80e9), "qwen2.5-math-1.5b", "--sampling.max_model_len=4001"
    )
    [expert, _] = needs.processes(config, models, "sampling")
    assert expert.longest == 4016 * 28672
    stated = ("--resources.expert.gpus=1", "--resources.amateur.gpus=1")
    config = configured("qwen2.5-math-1.5b", "--sampling.max_model_len=4001", *stated)
    least = pretended(1, (needs.sampling(config, models)[0].needed + 1) / 0.9)
    tight = arrange(config, models, least, ["sampling"])  # to the byte
    assert int(1e9 * tight.resources.expert.cache_gb) >= 4016 * 28672
    with pytest.raises(UserError, match="sampling does not fit"):
        arrange(config, models, pretended(1, least.memory - 1e7), ["sampling"])


def test_the_least_that_training_takes_is_that_of_its_tightest_way():
    config = configured("qwen2.5-math-7b")
    models, _ = find_models(config)
    with pytest.raises(UserError, match=r"trainer: 18\.\d GB at least, 15\.2 of them") as error:
        arrange(config, models, pretended(1, 16e9), ["training"])
    least = float(re.findall(r"trainer: ([0-9.]+) GB", str(error.value))[0])
    arrange(config, models, pretended(1, 1e9 * (least + 0.1) / 0.9), ["training"])
    stated = configured(
        "qwen2.5-math-7b", "--resources.trainer.gpus=1"
    )  # which is all that is tried
    with pytest.raises(UserError, match=r"trainer: 57\.\d GB at least"):
        arrange(stated, models, pretended(1, 16e9), ["training"])


def test_a_share_of_a_gpu_has_one_training_worker():
    config, _ = placed(pretended(8, 80e9), "qwen2.5-math-1.5b", "--resources.trainer.gpus=0.5")
    assert config.training.num_workers == 1
    with pytest.raises(
        UserError, match=r"trainer\.gpus = 0\.5 with training\.num_workers = 2: NCCL"
    ):
        configured("qwen2.5-math-1.5b", "--resources.trainer.gpus=0.5", "--training.num_workers=2")


@pytest.mark.parametrize(("role", "other"), [("expert", "amateur"), ("amateur", "expert")])
def test_engines_share_a_gpu_beside_a_stated_cache(role, other):
    config, models = placed(
        pretended(1, 80e9), "qwen2.5-math-1.5b", f"--resources.{role}.cache_gb=30"
    )
    assert config.resources.sampling == "together"
    assert getattr(config.resources, role).cache_gb == 30
    assert getattr(config.resources, other).cache_gb > 1
    pair = needs.sampling(config, models)
    assert sum(p.fixed + 1e9 * p.place.cache_gb for p in pair) <= 0.9 * 80e9


@pytest.mark.parametrize(
    ("changes", "decoded"),
    [
        ([], 256),
        (["--sampling.batch_size=512"], 512),
        (["--sampling.batch_size=4096"], 1024),
        (["--sampling.method=rejection", "--sampling.rejection.samples=16"], 1024),
    ],
)
def test_logits_are_counted_of_all_sequences_that_an_engine_decodes_at_once(changes, decoded):
    config, models = placed(pretended(1, 80e9), "qwen2.5-math-1.5b", *changes)
    usual, _ = placed(pretended(1, 80e9), "qwen2.5-math-1.5b")
    assert needs.decoded_at_once(config) == most_sequences(config, cpu=False) == decoded
    more = needs.sampling(config, models)[0].overhead - needs.sampling(usual, models)[0].overhead
    assert more == pytest.approx((decoded - 256) * 151936 * 10)


def test_engines_that_are_split_have_to_fit_on_nodes():
    four = ("--resources.expert.gpus=4", "--resources.sampling=apart")
    six = Cards((6, 6), 80e9)
    wanted = "--sampling.expert.min_engines={0}", "--sampling.expert.max_engines={0}"
    config, _ = placed(six, "qwen2.5-math-1.5b", *four, *[one.format(2) for one in wanted])
    assert config.sampling.expert.min_engines == 2
    with pytest.raises(UserError, match="sampling does not fit on 12 GPUs"):
        placed(six, "qwen2.5-math-1.5b", *four, *[one.format(3) for one in wanted])


def test_zero_3_has_room_for_weights_that_are_gathered():
    def takes(stage: int, workers: int) -> float:
        config = configured(
            "qwen2.5-math-7b", f"--training.zero_stage={stage}", "--resources.trainer.gpus=1",
            f"--training.num_workers={workers}",
        )  # fmt: skip
        return needs.processes(config, find_models(config)[0], "training")[0].overhead

    assert takes(3, 4) - takes(2, 4) == 2e9  # in bfloat16
    assert takes(3, 1) == takes(2, 1)
