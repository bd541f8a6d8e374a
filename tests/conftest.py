"""What pytest-xdist runs in one worker, and what it begins with (see the Makefile)."""

from pathlib import PurePath
from typing import Any

import pytest

# Files of tests/integration by the fixture that they share, which takes long to make: each group is one
# worker's. The longest come first.
TOGETHER = {
    "ray_cluster": (
        "test_activity", "test_audit", "test_extending", "test_faults", "test_interchange",
        "test_metrics", "test_pretended_gpus", "test_room", "test_sampling", "test_serving_start",
        "test_smollm2", "test_training",
    ),
    "whole": ("test_kills", "test_training_workers"),  # the cluster that it is made on is its worker's own
    "nodes": ("test_placement", "test_submit"),
    "served": ("test_evaluation", "test_serving"),
}  # fmt: skip


def group_of(path: PurePath) -> str:
    """The group that a file of tests is in, or the file alone."""
    names = [name for name, files in TOGETHER.items() if path.stem in files]
    return names[0] if names and "integration" in path.parts else str(path)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadScopeScheduling

    class Together(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(PurePath(nodeid.split("::")[0]))

    return Together(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = list(TOGETHER)

    def rank(item: pytest.Item) -> int:
        group = group_of(item.path)
        return order.index(group) if group in order else len(order) + ("unit" in item.path.parts)

    for item in items:
        used = [name for name in order if name in getattr(item, "fixturenames", ())]
        if used and "integration" in item.path.parts and group_of(item.path) not in order:
            raise pytest.UsageError(f"{item.path.name} uses {used[-1]}: add it to {__file__}")
    items.sort(key=rank)
