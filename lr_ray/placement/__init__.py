"""Who runs where: what each stage needs, which GPUs there are, and how `auto` chooses.

sizes     how large the models are
needs     the processes of each stage, and the memory that each takes
cards     the GPUs of this machine or of the connected cluster
arrange   the pure function from the three to a config without `auto`
room      whether the connected cluster has room, and sees the run
"""

from lr_ray.placement.arrange import arrange
from lr_ray.placement.needs import demands, replica_bundles
from lr_ray.placement.room import (
    await_room,
    check_head,
    check_model,
    check_room,
    check_visible,
    lacking,
)
from lr_ray.placement.sizes import find_models
