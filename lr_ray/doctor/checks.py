"""What a node's facts mean for a run: pure functions from facts to findings.

pytest tests/unit/test_doctor.py
"""

from lr_ray.doctor import gpu_checks, node_checks
from lr_ray.doctor.facts import Facts
from lr_ray.doctor.finding import Finding, Need

_CHECKS = (
    gpu_checks.gpu,
    gpu_checks.driver,
    gpu_checks.compiler,
    gpu_checks.torch_build,
    gpu_checks.versions,
    node_checks.shared_memory,
    node_checks.open_files,
    node_checks.temporary,
    node_checks.home,
    node_checks.run,
    node_checks.hub,
    node_checks.proxies,
)


def judge(facts: Facts, need: Need) -> list[Finding]:
    """All findings, in the order in which a person would check them."""
    return [finding for check in _CHECKS for finding in check(facts, need)]
