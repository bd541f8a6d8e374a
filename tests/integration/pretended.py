"""The sampling stage in a process of its own, on a Ray that is told it has GPUs; engines run on the CPU.

python -m tests.integration.pretended GPUS FOLDER '{"NAME": {"resources": ..., "sampling": ...}, ...}'
"""

import json
import logging
import os
import sys
from pathlib import Path

os.environ |= {"RAY_USAGE_STATS_ENABLED": "0"}
os.environ.pop("RAY_ADDRESS", None)


def main(gpus: int, folder: Path, cases: dict[str, dict]) -> None:
    """Samples each case into a folder of its name; prints what was chosen for it, a JSON line a case."""
    import ray

    from lr_ray.placement import find_models
    from lr_ray.placement.arrange import settings
    from lr_ray.placement.cards import of_cluster
    from lr_ray.placement.site import Site
    from tests.integration.conftest import demo_config, sample_demo

    ray.init("local", num_cpus=4, num_gpus=gpus, include_dashboard=False, log_to_driver=False,
             logging_level=logging.ERROR)  # fmt: skip
    for name, sections in cases.items():
        amateur = {"amateur": None} if sections["sampling"].get("method") == "rejection" else {}
        config = demo_config(**sections)
        site = Site(of_cluster(), find_models(config)[0])
        arranged = site.arranged(config, ["sampling"])
        sample_demo(folder / name, options=amateur, resources=arranged.resources.model_dump(),
                    **sections["sampling"], **engines(arranged))  # fmt: skip
        print(json.dumps({name: settings(arranged, "sampling")}), flush=True)


def engines(config) -> dict:
    """The pools of an arranged config, as sections."""
    return {role: getattr(config.sampling, role).model_dump() for role in ("expert", "amateur")}


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]))
