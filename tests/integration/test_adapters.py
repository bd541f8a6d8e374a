"""An adapter on the expert's engine answers as the merged model does, whoever is asked beside it."""

import asyncio

import openai
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from lr_ray import embedded, serving
from lr_ray.config import Resources, Serving
from tests.integration.conftest import EXPERT
from tests.ports import free_port

PROBLEMS = [row["problem"] for row in embedded.generate("heldout", 12, seed=3)]


def greedy(path) -> list[str]:
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype="float32")
    said = []
    for problem in PROBLEMS:
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": problem}],
            add_generation_prompt=True, return_tensors="pt", return_dict=True,
        )  # fmt: skip
        output = model.generate(**prompt, do_sample=False, max_new_tokens=64)
        tokens = output[0, prompt["input_ids"].shape[1] :]
        said.append(tokenizer.decode(tokens, skip_special_tokens=True))
    return said


async def asked_at_once(url: str, names: list[str]) -> dict[str, list[str]]:
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:

        async def one(name: str, problem: str) -> str:
            done = await client.chat.completions.create(
                model=name, messages=[{"role": "user", "content": problem}],
                temperature=0, max_tokens=64,
            )  # fmt: skip
            assert done.model == name
            return done.choices[0].message.content or ""

        many = [one(name, problem) for problem in PROBLEMS for name in names]
        said = await asyncio.gather(*many)
    return {name: list(said[i :: len(names)]) for i, name in enumerate(names)}


def test_requests_for_the_expert_and_for_adapters_in_one_batch_get_their_own_models(whole):
    settings = Serving(port=free_port(), dtype="float32", max_model_len=512)
    place = Resources.model_validate({"server": {"gpus": 0}})
    models = {"expert": EXPERT, "improved": str(whole / "adapter"), "again": str(whole / "adapter")}
    url = serving.start(models, settings, place)
    try:
        said = asyncio.run(asked_at_once(url, [*models]))
        with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
            assert [card.id for card in client.models.list()] == [*models]
            with pytest.raises(openai.NotFoundError, match="there are expert, improved, again"):
                client.completions.create(model="other", prompt="1")
    finally:
        serving.stop()
    expert, improved = greedy(EXPERT), greedy(whole / "model")
    assert said == {"expert": expert, "improved": improved, "again": improved}
    assert sum(a != b for a, b in zip(expert, improved, strict=True)) > 3
