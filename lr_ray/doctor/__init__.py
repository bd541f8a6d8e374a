"""What a machine has and lacks for lr_ray: facts, and checks on them.

Importing it loads neither torch nor vLLM nor Ray.
"""

from lr_ray.doctor.checks import check_config, check_machine, check_serving
