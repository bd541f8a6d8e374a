"""What `auto` chooses: pure arithmetic on models' sizes and pretended GPUs; nothing starts."""

import json
import re
import shlex
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import Qwen2Config, Qwen2ForCausalLM

from lr_ray.cli.options import parse
from lr_ray.config import STAGES, Config, Place, Serving, changed, resolve
from lr_ray.config.resources import AUTO
from lr_ray.errors import UserError
from lr_ray.placement import arrange, find_models, needs
from lr_ray.placement.arrange import for_serving
from lr_ray.placement.cards import NONE, Cards, pretended
from lr_ray.placement.processes import USABLE, Processes, at_once
from lr_ray.placement.sizes import Models
from lr_ray.placement.trainer import trained, trainers

PAPER = ["qwen2.5-math-1.5b", "qwen2.5-math-7b", "qwen2.5-math-7b-instruct"]
CARDS = {
    "one 24 GB": pretended(1, 24e9),
    "one 48 GB": pretended(1, 48e9),
    "one 80 GB": pretended(1, 80e9),
    "two 80 GB": pretended(2, 80e9),
    "eight 80 GB": pretended(8, 80e9),
}


def configured(preset: str, *overrides: str) -> Config:
    return parse("", ["--config", preset, *overrides]).config


def placed(cards: Cards, preset: str, *overrides: str) -> tuple[Config, Models]:
    config = configured(preset, *overrides)
    models, unknown = find_models(config)
    assert not unknown
    return arrange(config, models, cards), models


def used(p: Processes) -> float:
    """Bytes of a GPU that a process takes."""
    return p.fixed + 1e9 * (p.place.cache_gb or 0)


@pytest.mark.parametrize("name", CARDS)
@pytest.mark.parametrize("preset", PAPER)
def test_no_process_needs_more_than_there_is(preset, name):
    cards = CARDS[name]
    config, models = placed(cards, preset)
    for stage in STAGES:
        processes = needs.processes(config, models, stage)
        together = needs.together(config, stage)
        assert at_once(processes, together, most=True) <= cards.count
        for p in processes:
            assert p.weights
            assert used(p) <= USABLE * min(1, p.place.gpus) * cards.memory
            assert p.role == "trainer" or p.place.cache_gb * 1e9 >= 0.99 * p.fewest
        if together and cards.count == 1:
            on_it = sum(used(p) * (2 if p.role == "server" else 1) for p in processes)
            assert on_it <= USABLE * cards.memory


@pytest.mark.parametrize(
    ("preset", "name", "sampling", "evaluation"),
    [
        ("qwen2.5-math-1.5b", "one 24 GB", "together", "together"),
        ("qwen2.5-math-7b", "one 24 GB", "apart", "apart"),
        ("qwen2.5-math-7b", "one 48 GB", "together", "together"),
        ("qwen2.5-math-7b", "two 80 GB", "together", "together"),
    ],
)
def test_models_follow_one_another_only_where_both_do_not_fit(preset, name, sampling, evaluation):
    config, _ = placed(CARDS[name], preset)
    assert (config.resources.sampling, config.resources.evaluation) == (sampling, evaluation)
    if CARDS[name].count == 1 and sampling == "together":
        assert 0 < config.resources.expert.gpus < 1
        assert config.resources.expert.gpus + config.resources.amateur.gpus <= 1
        assert config.resources.server.gpus == 0.5
    else:
        assert config.resources.expert.gpus == config.resources.amateur.gpus == 1


@pytest.mark.parametrize(
    ("preset", "engines"), [("qwen2.5-math-1.5b", (6, 2)), ("qwen2.5-math-7b", (7, 1))]
)
def test_eight_gpus_are_shared_out_by_the_models_sizes(preset, engines):
    config, _ = placed(CARDS["eight 80 GB"], preset)
    sampling = config.sampling
    assert (sampling.expert.max_engines, sampling.amateur.max_engines) == engines
    assert (sampling.expert.min_engines, sampling.amateur.min_engines) == engines
    assert config.training.num_workers == 4  # four kept steps each
    assert config.serving.min_replicas == 4
    assert config.evaluation.concurrency == 1024  # serving.max_requests


def test_numbers_of_the_config_stay():
    config, models = placed(
        CARDS["eight 80 GB"], "qwen2.5-math-1.5b",
        "--resources.expert.gpus", "2", "--resources.amateur.gpus", "0.5", "--resources.amateur.cache_gb", "3",
        "--sampling.expert.max_engines", "2", "--training.num_workers", "2", "--evaluation.concurrency", "7",
        "--serving.min_replicas", "3", "--training.micro_batch_tokens", "4096",
    )  # fmt: skip
    assert (config.resources.expert.gpus, config.resources.amateur.gpus) == (2, 0.5)
    assert (config.sampling.expert.max_engines, config.sampling.expert.min_engines) == (2, 1)
    assert config.resources.amateur.cache_gb == 3
    assert config.resources.expert.cache_gb > 0  # stated all the same
    assert config.training.num_workers == 2
    assert config.training.micro_batch_tokens == 4096
    assert (config.serving.min_replicas, config.evaluation.concurrency) == (3, 7)
    assert needs.processes(config, models, "training")[0].most == 2


def test_numbers_that_do_not_fit_at_once_follow_one_another():
    both = ("--resources.expert.gpus", "1", "--resources.amateur.gpus", "1")
    config, _ = placed(CARDS["one 80 GB"], "qwen2.5-math-1.5b", *both)
    assert config.resources.sampling == "apart"
    config, _ = placed(CARDS["two 80 GB"], "qwen2.5-math-1.5b", *both)
    assert config.resources.sampling == "together"
    shared, _ = placed(CARDS["one 80 GB"], "qwen2.5-math-1.5b", "--resources.expert.gpus", "0.7")
    assert shared.resources.sampling == "together"
    assert (shared.resources.expert.gpus, shared.resources.amateur.gpus) == (0.7, 0.3)


def test_cpus_are_left_alone_and_need_no_gpu():
    config = configured("demo")
    models, _ = find_models(config)
    assert arrange(config, models, NONE) == config
    real = configured("qwen2.5-math-1.5b", "--device", "cpu")
    assert {
        getattr(real.resources, role).gpus for role in ("expert", "amateur", "trainer", "server")
    } == {0}
    assert arrange(real, find_models(real)[0], NONE) == real
    again = configured("qwen2.5-math-1.5b", "--device", "cpu", "--resources.trainer.gpus", "1")
    assert (again.resources.expert.gpus, again.resources.trainer.gpus) == (0, 1)


@pytest.mark.parametrize("stage", STAGES)
def test_without_a_gpu_one_line_says_how_to_go_on(stage):
    config = configured("qwen2.5-math-1.5b")
    with pytest.raises(
        UserError, match=r"^resources: no GPU here .*; --device cpu runs .*doctor"
    ) as error:
        arrange(config, find_models(config)[0], NONE, [stage])
    assert "\n" not in str(error.value)


def test_a_cluster_that_may_start_nodes_gets_a_gpu_an_engine():
    config = configured("qwen2.5-math-1.5b")
    to_come = Cards((), 24e9, fixed=False, measured=False)
    found = arrange(config, find_models(config)[0], to_come)
    assert (found.resources.expert.gpus, found.resources.amateur.gpus) == (1, 1)
    assert found.resources.sampling == "together"
    assert (found.sampling.expert.min_engines, found.sampling.expert.most) == (1, 1)
    assert (found.training.num_workers, found.serving.min_replicas) == (1, 1)
    grown = arrange(config, find_models(config)[0], Cards((8,), 80e9, fixed=False))
    assert (grown.sampling.expert.min_engines, grown.sampling.expert.most) == (1, 6)


@pytest.mark.parametrize(
    ("cards", "overrides", "said"),
    [
        (pretended(1, 16e9), (), r"sampling does not fit on 1 GPU of 16 GB .*expert: 18\.\d GB at least, 15\.2 of them weights.*it takes more GPUs or larger ones"),
        (pretended(1, 80e9), ("--resources.sampling", "together", "--resources.expert.gpus", "1"), r"resources\.expert\.gpus 1,.*; it fits with --resources\.expert\.gpus 0\.\d+"),
        (pretended(2, 80e9), ("--resources.expert.gpus", "4"), r"expert\.gpus 4.*; it fits with --resources\.expert\.gpus 1"),
        (pretended(2, 80e9), ("--sampling.expert.min_engines", "20"), r"sampling does not fit on 2 GPUs.*; it fits with .*--sampling\.expert\.min_engines 1"),
        (pretended(4, 80e9), ("--training.num_workers", "9"), r"training does not fit on 4 GPUs of 80 GB.*--training\.num_workers 4"),
        (pretended(2, 80e9), ("--serving.min_replicas", "3"), r"evaluation does not fit.*--serving\.min_replicas 1"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_with_what_would(cards, overrides, said):
    config = configured("qwen2.5-math-7b", *overrides)
    models, _ = find_models(config)
    with pytest.raises(UserError, match=said) as error:
        arrange(config, models, cards)
    advice = str(error.value).partition("it fits with ")[2]
    if advice:  # followed, it leaves nothing to say
        followed = configured("qwen2.5-math-7b", *overrides, *shlex.split(advice))
        arrange(followed, models, cards)


def test_large_models_are_split_within_a_node():
    expert = ("--models.expert", "Qwen/Qwen2.5-Math-72B")
    config, models = placed(CARDS["eight 80 GB"], "qwen2.5-math-7b", *expert)
    assert config.resources.expert.gpus == 4
    assert config.training.zero_stage == 3
    weights = needs.processes(config, models, "training")[0].weights
    lora = trained(config, models["expert"])
    assert weights == 2 * (72_706_203_648 + lora) / config.training.num_workers
    with pytest.raises(UserError, match=r"sampling does not fit on 8 GPUs"):
        placed(pretended(8, 80e9, per_node=2), "qwen2.5-math-7b", *expert)


def test_training_takes_fewer_tokens_a_forward_then_checkpoints():
    roomy = placed(CARDS["one 48 GB"], "qwen2.5-math-1.5b")[0].training
    assert (roomy.micro_batch_tokens, roomy.gradient_checkpointing) == (8192, False)
    tight = placed(CARDS["one 24 GB"], "qwen2.5-math-1.5b")[0].training
    assert (tight.micro_batch_tokens, tight.gradient_checkpointing) == (4096, False)
    tighter = placed(CARDS["one 24 GB"], "qwen2.5-math-7b")[0].training
    assert tighter.gradient_checkpointing
    assert tighter.zero_stage == 2


def test_a_model_whose_size_is_not_known_has_a_gpu_to_itself():
    config = configured("qwen2.5-math-1.5b", "--models.amateur", "org/unknown")
    models, unknown = find_models(config)
    assert "org/unknown/config.json is not here" in unknown["amateur"]
    alone = arrange(config, models, CARDS["one 80 GB"])
    assert (alone.resources.sampling, alone.resources.expert.gpus) == ("apart", 1)
    assert alone.resources.amateur.cache_gb is None
    assert arrange(config, models, CARDS["two 80 GB"]).resources.sampling == "together"


def test_rejection_needs_the_expert_alone():
    config, models = placed(CARDS["one 24 GB"], "qwen2.5-math-7b", "--sampling.method", "rejection")
    assert [p.role for p in needs.processes(config, models, "sampling")] == ["expert"]
    assert config.resources.expert.gpus == 1
    assert config.resources.amateur.gpus == AUTO  # nobody asked


def test_what_is_arranged_is_arranged_again_to_the_same():
    for preset in PAPER:
        for cards in CARDS.values():
            config, models = placed(cards, preset)
            assert arrange(config, models, cards) == config
            assert resolve(config.model_dump(mode="json")) == config


def test_placement_changes_no_result():
    config = configured("qwen2.5-math-7b")
    assert placed(CARDS["one 24 GB"], "qwen2.5-math-7b")[0].digest() == config.digest()


def test_models_of_an_endpoint_share_a_gpu_or_have_one_each():
    model = find_models(configured("qwen2.5-math-1.5b"))[0]["expert"]
    serving, auto = Serving(), Place()
    shared = for_serving(serving, auto, model, 3, CARDS["one 48 GB"])
    assert shared.gpus == 0.33
    assert shared.cache_gb > 0
    assert for_serving(serving, auto, model, 2, CARDS["two 80 GB"]).gpus == 1
    assert for_serving(serving, Place(gpus=0), model, 9, NONE).gpus == 0
    with pytest.raises(
        UserError, match=r"^serving: 9 models do not fit on 1 GPU of 24 GB.*serve fewer"
    ):
        for_serving(serving, auto, model, 9, CARDS["one 24 GB"])
    with pytest.raises(UserError, match="no GPU here"):
        for_serving(serving, auto, model, 1, NONE)


def test_adapters_on_a_gpu_are_served_in_bfloat16_alone():
    ours = ("--serving.adapters", "true", "--serving.dtype", "float32")
    with pytest.raises(UserError, match=r"^serving.dtype float32: .* --serving.dtype bfloat16, or"):
        placed(CARDS["one 80 GB"], "qwen2.5-math-1.5b", *ours)
    on_cpu = configured("qwen2.5-math-1.5b", *ours, "--device", "cpu")
    assert arrange(on_cpu, find_models(on_cpu)[0], NONE) == on_cpu


def test_demands_are_those_of_the_processes():
    for preset in ("demo", *PAPER):
        config, models = placed(CARDS["eight 80 GB"], preset)
        for stage in ("sampling", "training"):
            asked = {
                p.role: [p.place.bundle()] * p.least for p in needs.processes(config, models, stage)
            }
            assert needs.demands(config, stage) == [asked]
        servers = needs.processes(config, models, "evaluation")[0]
        assert len(needs.demands(config, "evaluation")[0]["server"]) == servers.least
    apart, _ = placed(CARDS["one 24 GB"], "qwen2.5-math-7b")
    assert [list(wanted) for wanted in needs.demands(apart, "sampling")] == [
        ["expert"],
        ["amateur"],
    ]


def test_shares_fill_whole_gpus():
    def gpus(expert: float, amateur: float, experts: int = 1) -> int:
        config = configured("demo", f"--resources.expert.gpus={expert}", f"--resources.amateur.gpus={amateur}",
                            f"--sampling.expert.min_engines={experts}")  # fmt: skip
        return at_once(needs.processes(config, find_models(config)[0], "sampling"), True)

    assert gpus(0.7, 0.3) == 1
    assert gpus(0.7, 0.4) == 2
    assert gpus(0.6, 0.3, experts=3) == 3  # 2.1 GPUs, but no two experts share one
    assert gpus(2, 0.5) == 3
    assert gpus(0, 0) == 0


def test_memory_of_the_paper_pair():
    config, models = placed(CARDS["one 80 GB"], "qwen2.5-math-1.5b")
    expert, amateur = needs.processes(config, models, "sampling")
    assert expert.weights == 2 * 1_543_714_304
    assert (expert.token, amateur.token) == (2 * 28 * 2 * 128 * 2, 2 * 24 * 2 * 64 * 2)
    assert expert.sequence == amateur.sequence == 4096  # the shorter context of the two
    assert expert.usual == 640  # 512 of a prompt, 128 decoded
    lora = 28 * 8 * ((1536 + 1536) + (1536 + 256))
    assert models["expert"] is not None
    assert trained(config, models["expert"]) == lora == 1_089_536
    assert needs.processes(config, models, "training")[0].state == 16 * lora


LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 128256,
    "max_position_embeddings": 131072, "num_key_value_heads": 8, "intermediate_size": 8192,
    "tie_word_embeddings": True,
}  # fmt: skip


def test_models_that_read_long_texts_take_no_more_than_is_sampled(tmp_path):
    """With room for all that it reads, a cache of Llama 3.2 3B would take 15 GB."""
    sizes = {
        "expert": {"hidden_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 24},
        "amateur": {"hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32},
    }
    for role, size in sizes.items():
        (tmp_path / role).mkdir()
        (tmp_path / role / "config.json").write_text(json.dumps(LLAMA | size))
    pair = [f"--models.{role}={tmp_path / role}" for role in sizes]
    config, models = placed(CARDS["one 24 GB"], "llama-3.2-3b-instruct", *pair)
    expert, amateur = needs.processes(config, models, "sampling")
    assert (config.resources.sampling, expert.sequence, amateur.sequence) == (
        "together",
        4096,
        4096,
    )
    longer = ["--sampling.max_model_len=131072"]
    with pytest.raises(UserError, match="sampling does not fit on 1 GPU of 24 GB"):
        placed(CARDS["one 24 GB"], "llama-3.2-3b-instruct", *pair, *longer)


def test_zero_stages_divide_state_and_weights():
    for zero, weights in ((2, 2 * 7_615_616_512), (3, 7_615_616_512 / 2)):
        config = configured(
            "qwen2.5-math-7b", "--training.method=full", "--training.num_workers=4",
            f"--training.zero_stage={zero}", "--resources.trainer.gpus=1",
        )  # fmt: skip
        trainer = needs.processes(config, find_models(config)[0], "training")[0]
        assert trainer.weights == weights
        assert trainer.state == 4 * 7_615_616_512


ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def peft_numbers(rank: int) -> int:
    """Weights of a LoRA beside all layers of Qwen2.5-Math-7B, as PEFT makes it, without storage."""
    shape = Qwen2Config(
        hidden_size=3584, num_hidden_layers=28, num_attention_heads=28, num_key_value_heads=4,
        intermediate_size=18944, vocab_size=152064, tie_word_embeddings=False,
    )  # fmt: skip
    with torch.device("meta"):
        model = get_peft_model(Qwen2ForCausalLM(shape), LoraConfig(r=rank, target_modules=ALL))
    return sum(w.numel() for w in model.parameters() if w.requires_grad)


def test_an_engine_has_room_for_its_adapters_and_for_one_more():
    lora = peft_numbers(256)
    asked = ("--serving.adapters=true", "--training.lora.rank=256")
    config, models = placed(CARDS["one 24 GB"], "qwen2.5-math-7b", *asked)
    [server] = needs.processes(config, models, "evaluation")
    merged = changed(config, {"serving.adapters": False})
    [alone] = needs.processes(merged, models, "evaluation")
    assert server.fixed - alone.fixed == 2 * 2 * lora  # bfloat16, two slots
    assert used(server) <= 0.9 * 24e9
    larger = changed(config, {"training.lora.rank": 512, "resources.server.gpus": "auto"})
    with pytest.raises(UserError, match="evaluation does not fit on 1 GPU of 24 GB"):
        arrange(larger, models, CARDS["one 24 GB"], ["evaluation"])


def test_adapters_of_a_comparison_each_have_room_of_the_largest():
    config = configured("qwen2.5-math-7b", "--serving.adapters=true", "--resources.server.gpus=1")
    models = find_models(config)[0]
    assert models["expert"]
    several = {"expert": replace(models["expert"], ranks=(8, 200, 16))}
    own, grid = (needs.processes(config, m, "evaluation")[0] for m in (models, several))
    one = peft_numbers(1)
    assert grid.fixed - own.fixed == 2 * one * (4 * 256 - 2 * 8)
    split = changed(config, {"resources.server.gpus": 2})
    of_two = needs.processes(split, several, "evaluation")[0].overhead
    # Of 7 layers' outputs or inputs, those as wide as the model are whole on both.
    wide = 7 * 28 * 3584
    bare = needs.processes(changed(split, {"serving.adapters": False}), several, "evaluation")[0]
    assert of_two - bare.overhead == 2 * 4 * 256 * (wide + (one - wide) / 2)


def test_training_of_a_large_rank_counts_its_weights_twice_and_its_gradients():
    asked = [f"--training.lora.targets={json.dumps(ALL)}", "--resources.trainer.gpus=1",
             "--training.num_workers=2"]  # fmt: skip
    small, large = (
        trainers(config, find_models(config)[0])
        for config in (configured("qwen2.5-math-7b", f"--training.lora.rank={rank}", *asked)
                       for rank in (8, 256))
    )  # fmt: skip
    count, fewer = peft_numbers(256), peft_numbers(8)
    assert large.weights == 2 * (7_615_616_512 + count)
    assert (small.state, large.state) == (16 * fewer / 2, 16 * count / 2)
    kept = 8192 * 2 * 7 * 28 * (256 - 8)  # of activations
    bucket = 2 * (500_000_000 - fewer)
    assert large.overhead - small.overhead == kept + bucket


def test_cards_say_what_they_are():
    assert str(pretended(1, 24e9)) == "1 GPU of 24 GB"
    assert str(pretended(128, 80e9)) == "128 GPUs of 80 GB"
    assert pretended(20, 80e9).nodes == (8, 8, 4)
    assert re.search("assumed", str(Cards((2,), 24e9, measured=False)))


def test_adapters_need_one_engine_where_two_models_would_be_asked_one_after_the_other():
    merged, models = placed(CARDS["one 24 GB"], "qwen2.5-math-7b")
    shared, _ = placed(CARDS["one 24 GB"], "qwen2.5-math-7b", "--serving.adapters=true")
    assert (merged.resources.evaluation, shared.resources.evaluation) == ("apart", "together")
    (servers,) = needs.processes(shared, models, "evaluation")
    assert (servers.least, servers.place.gpus) == (1, 1)
    assert needs.together(
        configured("demo", "--serving.adapters=true", "--resources.evaluation=apart"), "evaluation"
    )
