"""The files of cluster/: by Ray's own validation and planning, and by the rules of cluster_checks.

Each rule has a mutation that it must catch; one that Ray's validation refuses needs no rule. No cloud is
asked, and nothing starts Ray.
"""

import copy
import os
import re
import shlex
import shutil
import subprocess
import textwrap
from collections.abc import Callable
from typing import Any

import click
import pytest
import yaml

from lr_ray.cli import options as cli
from lr_ray.config import Config, Place, ServeConfig, read_tree, resolve
from tests.unit import cluster_checks as checks
from tests.unit.cluster_checks import ROOT, Tree

CLUSTER = ROOT / "cluster"
LAUNCHERS = {
    name: yaml.safe_load((CLUSTER / f"{name}.yaml").read_text()) for name in ("aws", "gcp")
}
MANIFESTS = {
    file.stem: list(yaml.safe_load_all(file.read_text()))
    for file in sorted((CLUSTER / "kuberay").glob("*.yaml"))
}
DOCKERFILE = (CLUSTER / "Dockerfile").read_text()
README = (CLUSTER / "README.md").read_text()
ROLES = ("expert", "amateur", "trainer", "server")


def at(tree: Any, path: str) -> tuple[Any, Any]:
    """Container and key of a path, a word a level; numbers count in lists."""
    *parents, last = (int(part) if part.isdigit() else part for part in path.split())
    for part in parents:
        tree = tree[part]
    return tree, last


def put(path: str, value: Any) -> Callable[[Any], None]:
    def change(tree: Any) -> None:
        holder, key = at(tree, path)
        holder[key] = value

    return change


def drop(path: str) -> Callable[[Any], None]:
    def change(tree: Any) -> None:
        holder, key = at(tree, path)
        del holder[key]

    return change


def rename(path: str, name: str) -> Callable[[Any], None]:
    def change(tree: Any) -> None:
        holder, key = at(tree, path)
        holder[name] = holder.pop(key)

    return change


def replaced(path: str, old: str, new: str) -> Callable[[Any], None]:
    def change(tree: Any) -> None:
        holder, key = at(tree, path)
        assert old in holder[key]
        holder[key] = holder[key].replace(old, new)

    return change


def mutated(tree: Any, *changes: Callable[[Any], None]) -> Any:
    # Through text, so that what a YAML alias shares in the file is apart here.
    tree = yaml.safe_load(yaml.dump(tree, Dumper=_NoAliases))
    for change in changes:
        change(tree)
    return tree


class _NoAliases(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def by_ray(config: Tree) -> Tree:
    """The file as the launcher takes it: filled with Ray's defaults, and valid by its schema."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


# Launcher files


@pytest.mark.parametrize("cloud", LAUNCHERS)
def test_a_launcher_file_passes_rays_validation_and_ours(cloud):
    config = LAUNCHERS[cloud]
    prepared = by_ray(config)
    assert prepared["provider"]["type"] == cloud
    # Ray replaces whole keys, so its default of a nightly wheel and its client are not there.
    assert prepared["head_setup_commands"] == config["setup_commands"]
    assert prepared["worker_setup_commands"] == config["setup_commands"]
    assert checks.launcher_problems(config) == []


T = "available_node_types"
# Name, change, what our checks say, and whether Ray's validation refuses it too.
LAUNCHER_MUTATIONS: list[tuple[str, Callable[[Any], None], str, bool]] = [
    (
        "misspelt resource",
        rename(f"{T} expert resources lr_ray_expert", "lr_ray_exprt"),
        "unknown resource lr_ray_exprt",
        False,
    ),
    (
        "units beyond the GPUs",
        put(f"{T} expert resources lr_ray_expert", 2),
        "lr_ray_expert 2 is not its number of GPUs",
        False,
    ),
    ("misspelt field", rename(f"{T} expert max_workers", "max_worker"), "", True),
    ("a node always there", put(f"{T} trainer min_workers", 1), "min_workers is not 0", False),
    (
        "unknown node type",
        rename(f"{T} trainer-spot", "trianer-spot"),
        "trianer-spot: unknown node type",
        False,
    ),
    ("GPU on the head", put(f"{T} head resources GPU", 1), "the head has a GPU", False),
    (
        "CPUs on the head",
        put(f"{T} head resources CPU", 8),
        "would be placed on the head",
        False,
    ),
    (
        "engine's resource on the head",
        put(f"{T} head resources lr_ray_server", 1),
        "the head carries a custom resource",
        False,
    ),
    ("no setup commands", drop("setup_commands"), "nothing installs the lock", False),
    (
        "setup without the lock",
        put("setup_commands", ["pip install ray"]),
        "may change what is locked: pip install ray",
        False,
    ),
    (
        "spot without on-demand type",
        drop(f"{T} amateur"),
        "amateur-spot: no on-demand type",
        False,
    ),
    (
        "on-demand type switched off",
        put(f"{T} amateur max_workers", 0),
        "amateur-spot: no on-demand type",
        False,
    ),
    ("on demand first", put(f"{T} expert priority", 10), "not of lower priority", False),
    ("no idle timeout", put("idle_timeout_minutes", 0), "idle nodes would stay", False),
    (
        "head without authentication",
        replaced("head_start_ray_commands 1", "RAY_AUTH_MODE=token ", ""),
        "head_start_ray_commands: starts Ray without token",
        False,
    ),
    ("no token", drop("file_mounts ~/.ray/auth_token"), "no token for the nodes", False),
    (
        "open dashboard",
        replaced("head_start_ray_commands 1", "host=127.0.0.1", "host=0.0.0.0"),
        "the dashboard listens beyond the head",
        False,
    ),
    (
        "no autoscaler",
        replaced(
            "head_start_ray_commands 1", "--autoscaling-config=~/ray_bootstrap_config.yaml", ""
        ),
        "no autoscaler",
        False,
    ),
    ("missing folder", put("file_mounts ~/lr_ray/lr_ray", "lr_rays"), "does not exist", False),
    ("stopped nodes", put("provider cache_stopped_nodes", True), "their disks stay", False),
    (
        "package index",
        replaced("setup_commands 4", "pip ", "pip --index-url=https://example.org "),
        "names a package index",
        False,
    ),
]


@pytest.mark.parametrize(
    ("change", "said", "refused"),
    [m[1:] for m in LAUNCHER_MUTATIONS],
    ids=[m[0] for m in LAUNCHER_MUTATIONS],
)
def test_a_mutation_of_a_launcher_file_is_caught(change, said, refused):
    config = mutated(LAUNCHERS["aws"], change)
    if said:
        assert any(said in problem for problem in checks.launcher_problems(config))
    if refused:
        with pytest.raises(Exception, match=r"validat|schema|must be|smaller|minimum|unexpected"):
            by_ray(config)
    else:
        by_ray(config)  # what our checks are for


RULE_8265 = {"FromPort": 8265, "ToPort": 8265, "IpProtocol": "tcp"}
CLOUD_MUTATIONS: list[tuple[str, str, Callable[[Any], None], str]] = [
    ("aws", "open port", put("provider security_group IpPermissions", [RULE_8265]), "opens 8265"),
    (
        "aws",
        "GPU machine as head",
        put(f"{T} head node_config InstanceType", "g6.xlarge"),
        "the head has a GPU",
    ),
    (
        "aws",
        "unknown machine",
        put(f"{T} expert node_config InstanceType", "g7.xlarge"),
        "expert: GPU 1, but g7.xlarge has 0",
    ),
    (
        "aws",
        "spot head",
        put(f"{T} head node_config InstanceMarketOptions", {"MarketType": "spot"}),
        "the head is a spot node",
    ),
    (
        "aws",
        "all rights",
        drop(f"{T} trainer node_config IamInstanceProfile"),
        "trainer: no IamInstanceProfile",
    ),
    (
        "aws",
        "old image",
        drop(f"{T} trainer node_config ImageId"),
        "trainer: no ImageId",
    ),
    (
        "aws",
        "open metadata",
        drop(f"{T} cpu node_config MetadataOptions"),
        "cpu: credentials",
    ),
    (
        "gcp",
        "GPU added to the head",
        put(f"{T} head node_config guestAccelerators", [{"acceleratorType": "nvidia-l4"}]),
        "the head has a GPU",
    ),
    (
        "gcp",
        "preemptible without on-demand type",
        put(f"{T} trainer node_config scheduling", [{"preemptible": True}]),
        "trainer-spot: no on-demand type",
    ),
    (
        "gcp",
        "spot left over",
        drop(f"{T} trainer-spot node_config scheduling instanceTerminationAction"),
        "trainer-spot: a preempted node would stay",
    ),
    (
        "gcp",
        "scope of everything",
        put(f"{T} expert node_config serviceAccounts 0 scopes 0", "cloud-platform"),
        "expert: its scopes reach beyond storage",
    ),
    ("gcp", "default network", drop(f"{T} expert node_config networkInterfaces"), "network"),
    ("gcp", "other zone", put("provider availability_zone", "us-central1-b"), "of another zone"),
]


@pytest.mark.parametrize(
    ("cloud", "change", "said"),
    [(m[0], *m[2:]) for m in CLOUD_MUTATIONS],
    ids=[f"{m[0]}: {m[1]}" for m in CLOUD_MUTATIONS],
)
def test_a_mutation_of_one_clouds_part_is_caught(cloud, change, said):
    config = mutated(LAUNCHERS[cloud], change)
    by_ray(config)  # Ray's validation does not look there
    assert any(said in problem for problem in checks.launcher_problems(config))


# What Ray's autoscaler would start, by its own planning


def node_types(config: Tree) -> Any:
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig

    return AutoscalingConfig(config, skip_content_hash=True)


def started(config: Tree, asked: list[dict[str, float]], **weights: float) -> dict[str, int]:
    """Nodes by type that Ray's scheduler starts for `asked`; `weights` are types that came late."""
    from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
    from ray.autoscaler.v2.utils import ResourceRequestUtil

    types = node_types(config)
    requests = [ResourceRequestUtil.make(bundle) for bundle in asked]
    reply = ResourceDemandScheduler(None).schedule(
        SchedulingRequest(
            disable_launch_config_check=True,
            node_type_configs=types.get_node_type_configs(),
            max_num_nodes=types.get_max_num_nodes(),
            resource_requests=ResourceRequestUtil.group_by_count(requests),
            recoverable_resource_availabilities=weights,
        )
    )
    if reply.infeasible_resource_requests:
        return {}
    return {launch.instance_type: launch.count for launch in reply.to_launch}


def bundle(role: str) -> dict[str, float]:
    return Place(gpus=1, custom={f"lr_ray_{role}": 1}).bundle()


@pytest.mark.parametrize("cloud", LAUNCHERS)
def test_the_autoscaler_starts_the_nodes_that_a_config_names(cloud):
    config = by_ray(LAUNCHERS[cloud])
    assert started(config, []) == {}
    for role in ROLES:
        node = {"server": "expert"}.get(role, role)
        assert started(config, [bundle(role)]) == {f"{node}-spot": 1}
        # At its max the spot type's on-demand twin comes.
        assert started(config, [bundle(role)] * 5) == {f"{node}-spot": 4, node: 1}
        # After a spot node that never came up too; availability weighs more than priority.
        assert started(config, [bundle(role)], **{f"{node}-spot": 0.5}) == {node: 1}
    assert started(config, [bundle("expert"), bundle("amateur")]) == {
        "expert-spot": 1,
        "amateur-spot": 1,
    }
    half = Place(gpus=0.5, custom={"lr_ray_amateur": 0.5}).bundle()
    assert started(config, [half, half]) == {"amateur-spot": 1}
    assert started(config, [{"CPU": 1.0}]) == {"cpu": 1}
    assert started(config, [{"lr_ray_exprt": 1.0}]) == {}
    accelerator = {"aws": "L40S", "gcp": "A100"}[cloud]
    typed = Place(gpus=1, accelerator=accelerator).bundle()
    assert started(config, [typed]) == {"trainer-spot": 1}


def test_only_a_node_that_came_and_failed_makes_the_autoscaler_turn_to_another_type():
    """What the files' comments and the README say of a refused launch, by Ray's own monitor."""
    from ray.autoscaler.v2.instance_manager.subscribers.cloud_resource_monitor import (
        CloudResourceMonitor,
    )
    from ray.core.generated.instance_manager_pb2 import Instance, InstanceUpdateEvent

    def scores(status: Any) -> dict[str, float]:
        monitor = CloudResourceMonitor()
        event = InstanceUpdateEvent(new_instance_status=status, instance_type="expert-spot")
        monitor.notify([event])
        return monitor.get_recoverable_resource_availabilities()

    assert scores(Instance.ALLOCATION_FAILED) == {}  # refused: spot is asked for again
    assert scores(Instance.ALLOCATION_TIMEOUT) == {"expert-spot": 0.0}
    raised = mutated(LAUNCHERS["aws"], put(f"{T} expert priority", 20))
    assert started(by_ray(raised), [bundle("expert")]) == {"expert": 1}  # what a user does


# Kubernetes manifests


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_has_no_problems(name):
    assert checks.manifest_problems(MANIFESTS[name]) == []


CONTAINER = "template spec containers 0"
MANIFEST_MUTATIONS: list[tuple[str, Callable[[Any], None], str]] = [
    ("other API", put("document apiVersion", "ray.io/v1alpha1"), "is not ray.io/v1"),
    ("no name", put("document metadata name", "Lr_ray"), "is no name"),
    ("latest image", put(f"head {CONTAINER} image", "ghcr.io/o/lr_ray:latest"), "not pinned"),
    (
        "no requests",
        drop(f"groups 1 {CONTAINER} resources requests"),
        "expert: no request or limit",
    ),
    (
        "request above limit",
        put(f"groups 1 {CONTAINER} resources requests memory", "24Ti"),
        "above its limit 24Gi",
    ),
    (
        "half of the GPUs",
        put(f"groups 1 {CONTAINER} resources requests nvidia.com/gpu", "2"),
        "GPUs requested and limited differ",
    ),
    ("root", put("groups 1 template spec securityContext runAsUser", 0), "expert: may run as root"),
    (
        "privileges",
        put(f"groups 1 {CONTAINER} securityContext allowPrivilegeEscalation", True),
        "expert: may gain privileges",
    ),
    (
        "capabilities",
        drop(f"groups 1 {CONTAINER} securityContext capabilities"),
        "keeps capabilities",
    ),
    ("host network", put("groups 1 template spec hostNetwork", True), "the host's namespaces"),
    ("no readiness", drop(f"groups 1 {CONTAINER} readinessProbe"), "expert: no readinessProbe"),
    ("group twice", put("groups 2 groupName", "expert"), "is there twice"),
    ("min above max", put("groups 1 minReplicas", 9), "expert: minReplicas 9"),
    (
        "other label",
        put("groups 1 template metadata labels app.kubernetes.io/component", "exprt"),
        "expert: its label",
    ),
    ("no toleration", drop("groups 1 template spec tolerations"), "expert: does not tolerate"),
    ("any node", drop("groups 1 template spec nodeSelector"), "expert: no nodeSelector"),
    (
        "misspelt resource",
        put("groups 1 rayStartParams resources", '"{\\"lr_ray_exprt\\": 1}"'),
        "unknown resource lr_ray_exprt",
    ),
    (
        "units beyond the GPUs",
        put("groups 1 rayStartParams resources", '"{\\"lr_ray_expert\\": 2}"'),
        "is not its number of GPUs",
    ),
    ("CPUs on the head", drop("head rayStartParams num-cpus"), "would be placed on it"),
    (
        "GPU on the head",
        put(f"head {CONTAINER} resources limits nvidia.com/gpu", "1"),
        "head: has a GPU",
    ),
    ("other port", put(f"head {CONTAINER} ports 0 containerPort", 6380), "head: its ports"),
    ("open head", put("head serviceType", "LoadBalancer"), "from outside the cluster"),
    ("no autoscaler", drop("spec enableInTreeAutoscaling"), "no autoscaler"),
    ("no authentication", drop("spec authOptions"), "no token authentication"),
    (
        "key written out",
        put(f"groups 1 {CONTAINER} env", [{"name": "LR_RAY_API_KEY", "value": "x"}]),
        "LR_RAY_API_KEY is written out",
    ),
    (
        "unknown volume",
        put(f"groups 1 {CONTAINER} volumeMounts 0 name", "shard"),
        "mounts shard, which is no volume",
    ),
    ("restarted pods", put("groups 1 template spec restartPolicy", "Always"), "restarted pod"),
]


def parts(documents: list[Tree]) -> Tree:
    """What the paths above begin with."""
    (document,) = (d for d in documents if d["apiVersion"] == "ray.io/v1")
    spec = checks.cluster_spec(document)
    groups = spec["workerGroupSpecs"]
    return {"document": document, "spec": spec, "head": spec["headGroupSpec"], "groups": groups}


@pytest.mark.parametrize(
    ("change", "said"),
    [m[1:] for m in MANIFEST_MUTATIONS],
    ids=[m[0] for m in MANIFEST_MUTATIONS],
)
def test_a_mutation_of_a_manifest_is_caught(change, said):
    documents = mutated(MANIFESTS["rayjob"])
    change(parts(documents))
    assert any(said in problem for problem in checks.manifest_problems(documents))


JOB_MUTATIONS: list[tuple[str, Callable[[Any], None], str]] = [
    ("cluster stays", put("1 spec shutdownAfterJobFinishes", False), "its cluster would stay"),
    ("no deadline", drop("1 spec activeDeadlineSeconds"), "no activeDeadlineSeconds"),
    (
        "submitter as root",
        drop("1 spec submitterPodTemplate spec securityContext"),
        "submitter: may run as root",
    ),
    ("unknown kind", put("1 kind", "RayJobs"), "unknown kind"),
]


@pytest.mark.parametrize(
    ("change", "said"), [m[1:] for m in JOB_MUTATIONS], ids=[m[0] for m in JOB_MUTATIONS]
)
def test_a_mutation_of_the_job_is_caught(change, said):
    documents = mutated(MANIFESTS["rayjob"], change)
    assert any(said in problem for problem in checks.manifest_problems(documents))


def kuberay_config(name: str) -> Tree:
    """A manifest as Ray's autoscaler reads it on Kubernetes, and validates it."""
    from ray.autoscaler._private.kuberay.autoscaling_config import (
        _derive_autoscaling_config_from_ray_cr,
    )

    (document,) = (d for d in MANIFESTS[name] if d["apiVersion"] == "ray.io/v1")
    metadata = document["metadata"] | {"namespace": "default"}
    cluster = {"metadata": metadata, "spec": checks.cluster_spec(document)}
    return _derive_autoscaling_config_from_ray_cr(cluster)


def job_config() -> Config:
    return resolve(yaml.safe_load(MANIFESTS["rayjob"][0]["data"]["run.yaml"]))


@pytest.mark.parametrize("name", ["raycluster", "rayjob"])
def test_the_autoscaler_on_kubernetes_starts_the_groups_that_a_config_names(name):
    config = kuberay_config(name)
    head = config["available_node_types"][config["head_node_type"]]["resources"]
    assert (head["CPU"], head["GPU"]) == (0, 0)
    for role in ROLES:
        place = getattr(job_config().resources, role)
        assert started(config, [place.bundle()]) == {{"server": "expert"}.get(role, role): 1}
    assert started(config, [{"CPU": 1.0}]) == {"cpu": 1}


def test_the_job_runs_a_job_of_ours_with_options_that_it_knows(tmp_path):
    config_map, job = MANIFESTS["rayjob"]
    program, script, *options = shlex.split(job["spec"]["entrypoint"])
    assert program == "python"
    # The image has jobs/ at /app, as its Dockerfile says.
    assert "WORKDIR /app" in DOCKERFILE
    assert (ROOT / script.removeprefix("/app/")).is_file()
    given = dict(zip(options[::2], options[1::2], strict=True))
    assert given["--run"].startswith("s3://")
    head = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    (mount,) = (m for m in head["containers"][0]["volumeMounts"] if m["name"] == "config")
    folder, _, file = given["--config"].rpartition("/")
    (volume,) = (v for v in head["volumes"] if v["name"] == "config")
    assert mount["mountPath"] == folder
    assert volume["configMap"]["name"] == config_map["metadata"]["name"]
    (tmp_path / file).write_text(config_map["data"][file])
    here = given | {"--config": str(tmp_path / file), "--run": str(tmp_path / "run")}
    asked = cli.parse("", [word for pair in here.items() for word in pair]).config
    preset = resolve(read_tree("qwen2.5-math-1.5b"))
    assert asked.model_copy(update={"resources": preset.resources}) == preset
    with pytest.raises(SystemExit):
        cli.parse("", ["--config", "demo", "--run", "x", "--resources.exprt.gpus", "1"])


def test_the_service_is_the_application_of_the_serve_file():
    from ray.serve.schema import ServeDeploySchema

    (service,) = MANIFESTS["rayservice"]
    tree = yaml.safe_load(service["spec"]["serveConfigV2"])
    (application,) = ServeDeploySchema.model_validate(tree).applications
    file = yaml.safe_load((CLUSTER / "serve.yaml").read_text())
    (there,) = file["applications"]
    assert application.import_path == there["import_path"]
    asked, serves = (resolve(a, ServeConfig) for a in (application.args, there["args"]))
    assert asked.serving == serves.serving
    assert set(asked.models) == set(serves.models)
    assert tree["http_options"] == file["http_options"] | {"host": "0.0.0.0"}

    config = kuberay_config("rayservice")
    replicas = len(asked.models) * (asked.serving.max_replicas or asked.serving.min_replicas)
    assert started(config, [asked.resources.server.bundle()] * replicas) == {"server": replicas}
    for group in (
        service["spec"]["rayClusterConfig"]["headGroupSpec"],
        *service["spec"]["rayClusterConfig"]["workerGroupSpecs"],
    ):
        env = {e["name"]: e for e in group["template"]["spec"]["containers"][0]["env"]}
        assert "secretKeyRef" in env["LR_RAY_API_KEY"]["valueFrom"]


def test_claims_and_accounts_are_those_of_the_storage_file():
    names = {(d["kind"], d["metadata"]["name"]) for d in MANIFESTS["storage"]}
    (claim,) = (d for d in MANIFESTS["storage"] if d["kind"] == "PersistentVolumeClaim")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for name in ("raycluster", "rayjob", "rayservice"):
        (document,) = (d for d in MANIFESTS[name] if d["apiVersion"] == "ray.io/v1")
        spec = checks.cluster_spec(document)
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            pod = group["template"]["spec"]
            assert ("ServiceAccount", pod["serviceAccountName"]) in names
            claims = [v.get("persistentVolumeClaim") for v in pod["volumes"]]
            assert {"claimName": "lr-ray-shared"} in claims
        assert spec["rayVersion"] == re.search(r"^ray==(.+)$", lock("gpu"), re.MULTILINE)[1]


def lock(device: str) -> str:
    return (ROOT / f"requirements/{device}.txt").read_text()


@pytest.mark.parametrize("cloud", LAUNCHERS)
def test_a_clouds_packages_are_pinned_and_leave_the_lock_alone(cloud):
    text = (CLUSTER / f"requirements-{cloud}.txt").read_text()
    for device in ("cpu", "gpu"):
        assert checks.requirement_problems(text, lock(device)) == []
    for line, said in (("fsspec==2026.9.0", "is in the lock"), ("boto3>=1", "not pinned")):
        (problem,) = checks.requirement_problems(f"{text}{line}\n", lock("gpu"))
        assert problem == f"{line}: {said}"


# Dockerfile


def test_the_dockerfile_has_no_problems():
    assert checks.dockerfile_problems(DOCKERFILE) == []
    sources = checks.copied_sources(DOCKERFILE)
    assert checks.ignore_problems((ROOT / ".dockerignore").read_text(), sources) == []


DOCKER_MUTATIONS = [
    ("base without tag", ":3.11.14-slim-bookworm", "", "not pinned"),
    ("root by number", "USER 1000:1000", "USER 0", "USER: the last is 0"),
    ("no user", "USER 1000:1000", "", "USER: the last is missing"),
    ("work after", "USER 1000:1000", "USER 1000\nRUN true", "work goes on after it"),
    ("missing source", "COPY jobs/", "COPY job/", "COPY: job/ does not exist"),
    ("missing pins", "requirements-${CLOUD}", "requirement-${CLOUD}", "aws.txt does not exist"),
    ("no lock", "RUN make install DEVICE=${DEVICE}", "RUN true", "nothing installs the lock"),
    ("other target", "RUN make install", "RUN make instal", "has no target instal"),
    ("own resolution", "--no-deps ", "", "may change what is locked"),
    ("index", "pip --disable", "pip --index-url=https://example.org --disable", "package index"),
    ("secret", "ENV PIP", "ENV HF_TOKEN=x PIP", "a secret would stay"),
]


@pytest.mark.parametrize(
    ("old", "new", "said"), [m[1:] for m in DOCKER_MUTATIONS], ids=[m[0] for m in DOCKER_MUTATIONS]
)
def test_a_mutation_of_the_dockerfile_is_caught(old, new, said):
    assert old in DOCKERFILE
    problems = checks.dockerfile_problems(DOCKERFILE.replace(old, new))
    assert any(said in problem for problem in problems)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("*\n!Makefile", "!Makefile", "leaving out everything"),
        ("!jobs/", "!runs/", "lets runs in"),
        ("!jobs/", "", "leaves out jobs"),
    ],
)
def test_a_mutation_of_the_dockerignore_is_caught(old, new, said):
    text = (ROOT / ".dockerignore").read_text()
    assert old in text
    problems = checks.ignore_problems(text.replace(old, new), checks.copied_sources(DOCKERFILE))
    assert any(said in problem for problem in problems)


# README


def commands(text: str, program: str) -> list[list[str]]:
    """Words of the page's indented and quoted commands of `program`, continued lines joined."""
    lines = text.replace("\\\n", " ").splitlines()
    indented = [line.strip() for line in lines if line.startswith("    ")]
    quoted = re.findall(r"`([^`\n]+)`", text)
    found = [line for line in [*indented, *quoted] if line.startswith(f"{program} ")]
    return [shlex.split(line, comments=True) for line in found]


def unknown_options(words: list[str]) -> list[str]:
    """Words of a `ray` command that Ray's own command line does not know."""
    from ray.scripts.scripts import cli as ray

    command: click.Command = ray
    words = words[1:]
    while isinstance(command, click.Group):
        name = words.pop(0)
        if name not in command.commands:
            return [name]
        command = command.commands[name]
    known = {option for p in command.params for option in (*p.opts, *p.secondary_opts)}
    own = words[: words.index("--")] if "--" in words else words
    return [w for w in own if w.startswith("-") and w.partition("=")[0] not in known]


def test_the_readmes_ray_commands_exist_with_their_options():
    found = commands(README, "ray")
    assert len(found) > 10
    assert [(c, unknown_options(c)) for c in found if unknown_options(c)] == []
    assert unknown_options(["ray", "up", "--yess", "x"]) == ["--yess"]
    assert unknown_options(["ray", "upp"]) == ["upp"]


def test_the_readmes_resources_are_a_config():
    block = re.search(r"^    resources:\n(?:      .+\n)+", README, re.MULTILINE)[0]
    config = resolve(read_tree("qwen2.5-math-1.5b") | yaml.safe_load(textwrap.dedent(block)))
    assert config.resources.wait_s == 3600
    for role in ROLES:
        assert getattr(config.resources, role).bundle() == bundle(role)


@pytest.mark.parametrize("cloud", LAUNCHERS)
def test_the_nodes_user_may_write_the_folders_that_the_readme_names(cloud, tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    (command,) = (c for c in LAUNCHERS[cloud]["setup_commands"] if "mountpoint" in c)
    programs = tmp_path / "bin"
    programs.mkdir()
    log = tmp_path / "as_root"
    for name, body in {"sudo": f'echo "$@" >> {log}', "mountpoint": "true"}.items():
        (programs / name).write_text(f"#!/bin/sh\n{body}\n")
        (programs / name).chmod(0o755)
    env = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}", "USER": "somebody"}
    for _ in range(2):  # `ray up` may run it again
        subprocess.run(["bash", "-c", command.replace("/shared", str(shared))], env=env, check=True)
    # What a new file system has is root's: a folder below it is made by who owns it.
    assert f"chown somebody {shared}" in log.read_text().splitlines()
    assert {"runs", "huggingface", "tmp"} == {folder.name for folder in shared.iterdir()}
    assert "--run /shared/runs/" in README


def test_the_readme_names_files_and_jobs_that_exist():
    for path in re.findall(r"\b(?:cluster|jobs|requirements|tests)/[\w./-]+\.\w+", README):
        assert (ROOT / path).exists(), path
    for path in re.findall(
        r"\bkuberay/\w+\.yaml|^    (\w+\.yaml|Dockerfile) ", README, re.MULTILINE
    ):
        assert (CLUSTER / path).exists(), path


@pytest.mark.parametrize(
    ("model", "layers", "kv_heads", "head_dim", "bytes_a_token", "gigabytes"),
    [
        ("Qwen2.5-Math-1.5B", 28, 2, 1536 // 12, 28672, "7.5"),
        ("Qwen2.5-0.5B", 24, 2, 896 // 14, 12288, "3.2"),
        ("Qwen2.5-Math-7B", 28, 4, 3584 // 28, 57344, "15.0"),
    ],
)
def test_the_readmes_cache_sizes(model, layers, kv_heads, head_dim, bytes_a_token, gigabytes):
    assert 2 * layers * kv_heads * head_dim * 2 == bytes_a_token
    (row,) = (line for line in README.splitlines() if line.startswith(f"| {model} "))
    assert f"2 x {layers} x {kv_heads} x {head_dim} x 2 = {bytes_a_token} B" in row
    assert f"{bytes_a_token * 64 * 4096 / 1e9:.1f}" == gigabytes
    assert row.endswith(f"| {gigabytes} GB |")


# Slurm and Docker


def test_the_batch_script_is_bash_and_its_options_of_ray_exist():
    script = CLUSTER / "slurm.sbatch"
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
    text = script.read_text()
    start = text[text.index("start_node() {") : text.index("functions=")]
    used = set(re.findall(r"--[a-z-]+", start))
    assert {"--head", "--address", "--num-gpus", "--block"} <= used
    assert unknown_options(["ray", "start", *used]) == []
    assert "--dashboard-host=127.0.0.1" in start
    assert "RAY_AUTH_MODE=token" in text
    directives = [i for i, line in enumerate(text.splitlines()) if line.startswith("#SBATCH")]
    first = next(i for i, line in enumerate(text.splitlines()) if line and line[0] != "#")
    assert max(directives) < first  # Slurm reads none after the first command


@pytest.mark.parametrize(
    ("named", "interfaces", "address"),
    [
        ("10.1.2.3 STREAM node1\n10.1.2.3 DGRAM", "192.168.0.9", "10.1.2.3"),
        ("127.0.1.1 STREAM node1\n127.0.1.1 DGRAM", "169.254.3.1 192.168.0.9 10.0.0.2 fd00::1", "192.168.0.9"),
        ("", "fd00::1 10.0.0.2", "10.0.0.2"),
        ("127.0.0.1 STREAM localhost", "", None),
    ],
)  # fmt: skip
def test_nodes_of_slurm_are_reached_by_no_loopback_address(tmp_path, named, interfaces, address):
    for name, said in (("getent", named), ("hostname", interfaces)):
        (tmp_path / f"{name}.txt").write_text(said + "\n" * bool(said))
        missing = " && false" * (not said)
        (tmp_path / name).write_text(f"#!/bin/sh\ncat {tmp_path}/{name}.txt{missing}\n")
        (tmp_path / name).chmod(0o755)
    text = (CLUSTER / "slurm.sbatch").read_text()
    function = text[text.index("own_address() {") : text.index("# This script runs on")]
    begin = text[text.index("LR_RAY_HEAD=") : text.index("export LR_RAY_HEAD")]
    done = subprocess.run(
        ["bash", "-c", f"set -euo pipefail; {function}{begin}echo $LR_RAY_HEAD"],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURMD_NODENAME": "node1", "SLURM_JOB_ID": "7"},
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.stdout == (f"{address}:20007\n" if address else "")
    assert done.stderr == ("" if address else "error: node1 has no IPv4 address but loopback\n")
    assert done.returncode == (not address)
    assert '--node-ip-address="$address"' in text


def test_the_readmes_docker_line_runs_the_built_image_with_options_that_exist(capsys):
    (built,) = (c for c in commands(README, "docker") if c[1] == "build")
    (line,) = (c for c in commands(README, "docker") if c[1] == "run")
    image = line.index(built[built.index("-t") + 1])
    options, inner = line[2:image], line[image + 1 :]
    assert inner[:2] == ["lr-ray", "run"]
    with pytest.raises(SystemExit):
        cli.parse("", ["--help-all"])
    known = capsys.readouterr().out
    assert [w for w in inner if w.startswith("--") and w not in known] == []
    if shutil.which("docker") is None:
        pytest.skip("no docker to ask for its options")
    said = subprocess.run(["docker", "run", "--help"], capture_output=True, text=True).stdout
    assert [o for o in options if f"{o.partition('=')[0]} " not in said] == []
