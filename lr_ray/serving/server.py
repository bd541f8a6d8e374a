"""The deployment of one model: `ray.serve.llm`'s, which reports usage only where Ray may.

pytest tests/integration/endpoint/test_serving.py
"""

from ray._common.usage.usage_lib import usage_stats_enabled

from lr_ray.runtime.imports import uncollected

with uncollected():
    from ray.serve.llm import deployment


class LLMServer(deployment.LLMServer):
    """Ray's own keeps a process of 400 MB for its report even where usage statistics are off."""

    async def _start_engine(self) -> None:
        if usage_stats_enabled():
            await super()._start_engine()
        else:
            await self.engine.start()
