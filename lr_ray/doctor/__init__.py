"""What a machine has and lacks for this program: facts, checks on them, and the job that prints both.

Importing it loads neither torch nor vLLM nor Ray.
"""

from lr_ray.doctor.checks import check_config, check_machine, check_serving

__all__ = ["check_config", "check_machine", "check_serving"]
