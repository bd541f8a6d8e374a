"""How many cases a property is tried on: the same few in each run, many with `--hypothesis-profile`.

pytest tests/unit/properties --hypothesis-profile=thorough
"""

from hypothesis import HealthCheck, settings

_SLOW_TO_DRAW = [HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile(
    "quick",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=60,
    suppress_health_check=_SLOW_TO_DRAW,
)
settings.register_profile(
    "thorough",
    settings.get_profile("quick"),
    derandomize=False,
    max_examples=600,
)
settings.load_profile("quick")
