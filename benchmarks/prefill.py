"""What a mere prompt reaches: the untouched embedded expert, with "Step by step." put in its mouth.

    python benchmarks/prefill.py [--problems 1000]

Prints pass@1 on held-out problems without and with the prefix, and for the amateur. One process.
"""

import argparse

from lr_ray.config import Place, Pool
from lr_ray.embedded import amateur_path, expert_path, generate
from lr_ray.engines.loop import EngineLoop
from lr_ray.engines.vllm import Steps, start_engine
from lr_ray.grading.judging import is_correct
from lr_ray.grading.reading import extract_answer
from lr_ray.models.models import context_length, load_tokenizer, render_prompt, stop_token_ids

PREFIX = "Step by step."


def accuracy(model: str, problems: list[dict[str, str]], prefix: str) -> float:
    from vllm import SamplingParams

    tokenizer = load_tokenizer(model)
    forced = tokenizer(prefix, add_special_tokens=False)["input_ids"]
    prompts = [render_prompt(tokenizer, p["problem"], None) + forced for p in problems]
    pool, room = Pool(dtype="float32"), context_length(model)
    loop = EngineLoop(lambda: Steps(start_engine(model, pool, Place(gpus=0), room)))
    params = SamplingParams(
        temperature=0, max_tokens=128, stop_token_ids=stop_token_ids(model), detokenize=False
    )
    outputs = loop.run(prompts, [params] * len(prompts))
    texts = [tokenizer.decode(o.outputs[0].token_ids, skip_special_tokens=True) for o in outputs]
    answers = [extract_answer(text, "demo") for text in texts]
    right = [is_correct(p["answer"], a, "demo") for p, a in zip(problems, answers, strict=True)]
    return sum(right) / len(right)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=2, help="of the held-out problems")
    args = parser.parse_args()
    problems = generate("heldout", args.problems, args.seed)
    expert, amateur = str(expert_path()), str(amateur_path())
    for name, model, prefix in (
        ("expert", expert, ""),
        (f"expert, prefilled {PREFIX!r}", expert, PREFIX),
        ("amateur", amateur, ""),
    ):
        print(f"{name:<36} {accuracy(model, problems, prefix):.1%} of {len(problems)} problems")


if __name__ == "__main__":
    main()
