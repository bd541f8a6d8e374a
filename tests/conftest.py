"""What pytest-xdist runs in one worker, and what it begins with (see the Makefile)."""

from collections import defaultdict

import pytest

# Fixtures that take long to make: all files that use one go to one worker. The longest come first.
SHARED = ("ray_cluster", "whole", "nodes", "served")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    used = defaultdict(set)
    for item in items:
        used[item.path].update(getattr(item, "fixturenames", ()))
    rank = {}
    for path, fixtures in used.items():
        is_unit = "unit" in path.parts
        # The cluster that `whole` is made on is its worker's own.
        shared = [name for name in reversed(SHARED) if name in fixtures and not is_unit]
        group = shared[0] if shared else str(path)
        rank[path] = (SHARED.index(group) if shared else len(SHARED) + is_unit, group)
    items.sort(key=lambda item: rank[item.path][0])
    for item in items:
        item.add_marker(pytest.mark.xdist_group(rank[item.path][1]))
