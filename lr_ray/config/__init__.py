"""What a run is asked to do: one pydantic tree, read from a YAML preset or file plus dotted overrides.

Importing this package loads neither torch nor ray nor vllm, so that `--help` and usage errors are
immediate. `lr-ray run --help-all` lists every field.
"""

from lr_ray.config.reading import (
    ENDPOINT_PRESET,
    changed,
    endpoint_tree,
    merge,
    preset_names,
    read_tree,
    resolve,
)
from lr_ray.config.resources import ROLES, Place, Resources
from lr_ray.config.sections import (
    Data,
    Evaluation,
    Fields,
    Models,
    Pool,
    Sampling,
    Serving,
    Training,
)
from lr_ray.config.tree import (
    STAGES,
    Change,
    Config,
    EndpointConfig,
    ServeConfig,
    Tree,
    digest_of,
    flatten,
    roles_of,
    unflatten,
    uses_gpus,
    value_at,
)
