"""What `auto` chooses where nobody knows yet which GPUs there will be."""

import pytest

from lr_ray.config import STAGES, Place, Serving
from lr_ray.errors import UserError
from lr_ray.placement import arrange, cards, find_models, needs
from lr_ray.placement.arrange import for_serving, settings
from lr_ray.placement.cards import ASSUMED, Cards, pretended
from lr_ray.placement.nvidia import Gpu
from lr_ray.placement.site import site
from tests.unit.placement.test_arrange import configured, placed, used

TO_COME = Cards((), ASSUMED[0], fixed=False, measured=False)
SILENT = Cards((8,), ASSUMED[0], fixed=False, measured=False)  # its drivers tell no sizes
LARGE = ("--models.expert", "Qwen/Qwen2.5-Math-72B")


@pytest.mark.parametrize("there", [TO_COME, SILENT])
@pytest.mark.parametrize(
    "overrides", [(), LARGE, (*LARGE, "--resources.expert.gpus=4", "--resources.server.gpus=4")]
)
def test_a_size_that_is_not_known_leaves_no_auto_and_refuses_nothing_that_is_sold(there, overrides):
    config, models = placed(there, "qwen2.5-math-7b", *overrides)
    for stage in STAGES:
        chosen = {k: v for k, v in settings(config, stage).items() if "engines" not in k}
        assert "auto" not in chosen.values()
        for p in needs.processes(config, models, stage):
            assert used(p) <= 0.9 * min(1, p.place.gpus) * ASSUMED[-1]


def test_the_smallest_gpu_is_assumed_on_which_a_stage_fits():
    config, models = placed(TO_COME, "qwen2.5-math-7b", "--sampling.expert.dtype", "float32")
    engine = needs.processes(config, models, "sampling")[0]
    assert engine.place.gpus == 2  # 30 GB of weights over two of 24 GB
    stated = ("--sampling.expert.dtype=float32", "--resources.expert.gpus=1")
    config, models = placed(TO_COME, "qwen2.5-math-7b", *stated)
    engine = needs.processes(config, models, "sampling")[0]
    assert engine.fixed < used(engine) <= 0.9 * 48e9


def test_nodes_to_come_are_as_large_as_is_stated():
    sixteen = [f"--resources.{role}.gpus=16" for role in ("expert", "server")]
    config = configured("qwen2.5-math-7b", *sixteen)
    models = {"expert": None, "amateur": find_models(config)[0]["amateur"]}
    arranged = arrange(config, models, TO_COME)
    assert arranged.resources.expert.gpus == arranged.resources.server.gpus == 16


def test_what_fits_on_no_gpu_to_come_is_refused():
    with pytest.raises(
        UserError, match=r"sampling does not fit on 8 GPUs of 288 GB \(assumed\).*gpus 0\.01"
    ):
        placed(TO_COME, "qwen2.5-math-7b", "--resources.expert.gpus=0.01")


def test_models_of_an_endpoint_share_gpus_where_they_are_more():
    model = find_models(configured("qwen2.5-math-1.5b"))[0]["expert"]
    two, serving = pretended(2, 80e9), Serving()
    assert for_serving(serving, Place(), model, 3, two).gpus == 0.5
    assert for_serving(serving, Place(), model, 5, two).gpus == 0.33
    assert for_serving(serving, Place(), model, 2, two).gpus == 1
    twice = Serving(min_replicas=2)
    assert for_serving(twice, Place(), model, 1, pretended(1, 80e9)).gpus == 0.5
    growing = Cards((2,), 80e9, fixed=False)  # the third may get a GPU that is yet to come
    assert for_serving(serving, Place(), model, 3, growing).gpus == 1
    assert for_serving(serving, Place(), model, 1, TO_COME).cache_gb > 0


def test_models_of_an_endpoint_whose_size_is_not_known_are_told_what_to_state():
    with pytest.raises(
        UserError, match=r"2 models do not fit on 1 GPU .*size of one is not known.*server\.gpus, such as 0\.5"
    ) as error:  # fmt: skip
        for_serving(Serving(), Place(), None, 2, pretended(1, 24e9))
    assert "0 GB" not in str(error.value)
    assert for_serving(Serving(), Place(gpus=0.5), None, 2, pretended(1, 24e9)).gpus == 0.5


T4, A100 = {"GPU": 1.0, "accelerator_type:T4": 1.0}, {"GPU": 4.0, "accelerator_type:A100": 1.0}
LARGE_ONLY = [f"--resources.{role}.accelerator=A100" for role in ("expert", "trainer", "server")]
OLD_TOO = tuple(
    f"--{name}.dtype=float32"
    for name in ("sampling.expert", "sampling.amateur", "training", "serving")
)


def mixed(monkeypatch: pytest.MonkeyPatch, *resources: dict[str, float]) -> Cards:
    """A cluster with nodes of these resources."""
    sizes = {"T4": 16_000_000_000, "A100": 80_000_000_000}
    ages = {"T4": (7, 5), "A100": (8, 0)}
    there = [{"NodeID": str(i), "Resources": found} for i, found in enumerate(resources)]

    def drivers(asked, question, within_s):
        kinds = {node["NodeID"]: next(k for k in sizes if f"accelerator_type:{k}" in node["Resources"])
                 for node in asked}  # fmt: skip
        return {i: [Gpu(kind, sizes[kind], 0, ages[kind], "580")] for i, kind in kinds.items()}

    monkeypatch.setattr(cards, "nodes", lambda: there)
    monkeypatch.setattr(cards, "ask_nodes", drivers)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    return cards.of_cluster()


def test_of_mixed_nodes_those_count_that_have_what_is_named(monkeypatch):
    cluster = mixed(monkeypatch, T4, A100, {"CPU": 8.0})
    assert (cluster.nodes, cluster.memory) == ((4, 1), 16e9)
    with pytest.raises(
        UserError, match=r"sampling does not fit on 5 GPUs of 16 GB.*expert\.gpus 1"
    ):
        placed(cluster, "qwen2.5-math-7b", "--resources.expert.gpus=1", *OLD_TOO)
    config, models = placed(
        cluster, "qwen2.5-math-7b", "--resources.expert.gpus=1", *LARGE_ONLY, OLD_TOO[1]
    )
    expert, amateur = needs.processes(config, models, "sampling")
    assert 16e9 < used(expert) <= 0.9 * 80e9
    assert used(amateur) <= 0.9 * 16e9
    assert config.resources.server.gpus == 1
    assert config.training.micro_batch_tokens == 8192


def test_what_is_named_may_be_yet_to_come(monkeypatch):
    config, _ = placed(mixed(monkeypatch, T4), "qwen2.5-math-7b", *LARGE_ONLY, OLD_TOO[1])
    assert config.resources.expert.cache_gb is None  # vLLM measures
    assert config.resources.amateur.cache_gb > 0


def test_a_comparison_has_room_for_all_of_its_adapters(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(cards, "local", lambda: pretended(1, 24e9))
    own = ("--serving.adapters=true", "--training.lora.rank=64")
    config = configured("qwen2.5-math-7b", *own)
    with site(config, ["evaluation"]) as there:
        assert there.arranged(config, ["evaluation"]).resources.server.gpus == 1
    with (
        pytest.raises(UserError, match="evaluation does not fit on 1 GPU of 24 GB"),
        site(config, ["evaluation"], [64] * 20),
    ):
        pass


def test_bfloat16_on_nodes_that_vllm_refuses_it_on_is_refused_before_anything_starts(monkeypatch):
    old = mixed(monkeypatch, T4)
    said = r"GPUs of compute capability 8\.0 or newer, and there is one of 7\.5; give "
    expert, amateur = "--sampling.expert.dtype float32", "--sampling.amateur.dtype float32"
    with pytest.raises(UserError, match=rf"^sampling: .*{said}{expert} {amateur}$"):
        placed(old, "qwen2.5-math-1.5b")
    with pytest.raises(UserError, match=rf"^training: .*{said}--training.dtype float32$"):
        placed(old, "qwen2.5-math-1.5b", *OLD_TOO[:2])
    with pytest.raises(UserError, match=rf"^evaluation: .*{said}--serving.dtype float32$"):
        placed(old, "qwen2.5-math-1.5b", *OLD_TOO[:3])
    merged = "--serving.dtype float32 --serving.adapters false"
    with pytest.raises(UserError, match=rf"{said}{merged}$"):
        placed(old, "qwen2.5-math-1.5b", *OLD_TOO[:3], "--serving.adapters=true")
    config, models = placed(old, "qwen2.5-math-1.5b", *OLD_TOO)
    assert config.training.micro_batch_tokens
    model = models["expert"]
    with pytest.raises(UserError, match=rf"^serving: .*{said}--serving.dtype float32$"):
        for_serving(Serving(), Place(), model, 1, old)
    assert for_serving(Serving(dtype="float32"), Place(), model, 1, old).gpus == 1
    named = rf"{expert} {amateur}, or name newer ones by resources.expert.accelerator and resources"
    with pytest.raises(UserError, match=named):
        placed(mixed(monkeypatch, T4, A100), "qwen2.5-math-1.5b")


def test_the_cards_of_this_machine_are_as_old_as_the_oldest(monkeypatch):
    two = [
        Gpu("A100", 40_000_000_000, 0, (8, 0), "580"),
        Gpu("T4", 16_000_000_000, 0, (7, 5), "580"),
    ]
    monkeypatch.setattr(cards, "gpus", lambda: two)
    with pytest.raises(UserError, match=r"^sampling: .* one of 7\.5; give [^,]*$"):
        placed(cards.local(), "qwen2.5-math-1.5b")
