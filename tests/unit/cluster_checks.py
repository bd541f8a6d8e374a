"""What must hold of the files of cluster/, beyond what Ray's own validation looks at.

Each function takes a parsed file and returns its problems, one line each; none when all is well.
"""

import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
ROLES = ("expert", "amateur", "trainer", "server")
RESOURCES = {"CPU", "GPU", "memory", *(f"lr_ray_{role}" for role in ROLES)}
NODE_TYPES = {"head", "cpu"} | {r + s for r in ROLES[:3] for s in ("", "-spot")}
# AWS names that bring GPUs: their number. Machine types of Google's that do: by prefix.
AWS_GPUS = {"g6.xlarge": 1, "g6.2xlarge": 1, "g6e.2xlarge": 1}
GCP_GPUS = {"g2-standard-4": 1, "g2-standard-8": 1, "a2-highgpu-1g": 1}
SSH = 22
_UNITS = {"": 1, "m": Decimal("0.001"), "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}

# Installs nothing but what a file of the repository pins, and from wherever pip is set up to look.
_ALL_PINNED = r"--no-deps\b.* -r \S+\.txt$"
_INDEX = r"index-url|find-links|https?://"

Tree = dict[str, Any]


# Launcher files


def launcher_problems(config: Tree) -> list[str]:
    return [
        *_node_type_problems(config),
        *_spot_problems(config),
        *_command_problems(config),
        *_access_problems(config),
        *_mount_problems(config),
    ]


def _node_type_problems(config: Tree) -> Iterator[str]:
    types, head = config.get("available_node_types", {}), config.get("head_node_type")
    for name in types.keys() - NODE_TYPES:
        yield f"{name}: unknown node type"
    for name, kind in types.items():
        if kind.get("min_workers", 0) != 0:
            yield f"{name}: min_workers is not 0"
        yield from _resource_problems(name, kind, is_head=name == head)
    if (config.get("idle_timeout_minutes") or 0) <= 0:
        yield "idle_timeout_minutes: idle nodes would stay"
    for role in ROLES:
        if not any(f"lr_ray_{role}" in kind["resources"] for kind in types.values()):
            yield f"no node type carries lr_ray_{role}"


def _resource_problems(name: str, kind: Tree, is_head: bool) -> Iterator[str]:
    resources = kind["resources"]
    for resource in resources:
        if resource not in RESOURCES and not resource.startswith("accelerator_type:"):
            yield f"{name}: unknown resource {resource}"
    machine = kind["node_config"].get("InstanceType") or kind["node_config"].get("machineType", "")
    gpus, really = resources.get("GPU"), (AWS_GPUS | GCP_GPUS).get(machine, 0)
    if is_head:
        if gpus != 0 or really or kind["node_config"].get("guestAccelerators"):
            yield f"{name}: the head has a GPU"
        if resources.get("CPU") != 0:
            yield f"{name}: work that asks for CPUs would be placed on the head"
        if any(r.startswith("lr_ray_") for r in resources):
            yield f"{name}: the head carries a custom resource"
        return
    if gpus != really:
        yield f"{name}: GPU {gpus}, but {machine} has {really}"
    for resource, amount in resources.items():
        if resource.startswith("lr_ray_") and amount != gpus:
            yield f"{name}: {resource} {amount} is not its number of GPUs, {gpus}"


def scheduling(node: Tree) -> Tree:
    """Of a Google machine; Ray's own examples write it as a list."""
    found = node.get("scheduling") or {}
    parts = found if isinstance(found, list) else [found]
    return {key: value for part in parts for key, value in part.items()}


def is_spot(kind: Tree) -> bool:
    node = kind["node_config"]
    google = scheduling(node)
    return (
        node.get("InstanceMarketOptions", {}).get("MarketType") == "spot"
        or google.get("provisioningModel") == "SPOT"
        or bool(google.get("preemptible"))
    )


def _spot_problems(config: Tree) -> Iterator[str]:
    types = config["available_node_types"]
    if is_spot(types.get(config["head_node_type"], {"node_config": {}})):
        yield "the head is a spot node"
    for name, kind in types.items():
        if not is_spot(kind):
            continue
        twins = [
            other
            for other in types.values()
            if not is_spot(other) and other["resources"] == kind["resources"]
        ]
        if not any(other.get("max_workers", 0) > 0 for other in twins):
            yield f"{name}: no on-demand type of the same resources to fall back on"
        if any(other.get("priority", 0) >= kind.get("priority", 0) for other in twins):
            yield f"{name}: its on-demand type is not of lower priority"


def _command_problems(config: Tree) -> Iterator[str]:
    setup = config.get("setup_commands") or []
    installs = [c for c in setup if re.search(r"\bmake\b.*\binstall\b.*\bDEVICE=gpu\b", c)]
    if not installs:
        yield "setup_commands: nothing installs the lock"
    for command in setup:
        if re.search(r"\bpip\b.*\binstall\b", command) and not re.search(_ALL_PINNED, command):
            yield f"setup_commands: may change what is locked: {command}"
        if re.search(_INDEX, command):
            yield f"setup_commands: names a package index: {command}"
    for part, option in (("head", "--head"), ("worker", "--address=$RAY_HEAD_IP:6379")):
        commands = config.get(f"{part}_start_ray_commands") or []
        starts = [c for c in commands if "ray start" in c]
        if len(starts) != 1 or option not in starts[0]:
            yield f"{part}_start_ray_commands: no one `ray start {option}`"
        elif not re.search(r"export [^;]*RAY_AUTH_MODE=token [^;]*RAY_AUTH_TOKEN_PATH=", starts[0]):
            yield f"{part}_start_ray_commands: starts Ray without token authentication"
    head = " ".join(config.get("head_start_ray_commands") or [])
    if "--autoscaling-config=~/ray_bootstrap_config.yaml" not in head:
        yield "head_start_ray_commands: no autoscaler"
    if "--dashboard-host=127.0.0.1" not in head:
        yield "head_start_ray_commands: the dashboard listens beyond the head"


def _access_problems(config: Tree) -> Iterator[str]:
    provider = config["provider"]
    for rule in provider.get("security_group", {}).get("IpPermissions", []):
        if (rule.get("FromPort"), rule.get("ToPort")) != (SSH, SSH):
            yield f"security_group: opens {rule.get('FromPort')} to {rule.get('ToPort')}"
    if provider["type"] == "aws":
        yield from _aws_problems(config)
    else:
        yield from _gcp_problems(config)
    if provider.get("cache_stopped_nodes") is not False:
        yield "provider: idle nodes are stopped, and their disks stay"


def _aws_problems(config: Tree) -> Iterator[str]:
    for name, kind in config["available_node_types"].items():
        node = kind["node_config"]
        if "IamInstanceProfile" not in node:
            yield f"{name}: no IamInstanceProfile of its own"
        elif name != config["head_node_type"] and "head" in node["IamInstanceProfile"]["Arn"]:
            yield f"{name}: has the head's rights"
        if node.get("MetadataOptions", {}).get("HttpTokens") != "required":
            yield f"{name}: credentials are to be had from the metadata service without a token"
        if not all(disk["Ebs"].get("Encrypted") for disk in node["BlockDeviceMappings"]):
            yield f"{name}: a disk is not encrypted"
        if not node.get("ImageId"):
            yield f"{name}: no ImageId; Ray's own is too old for the lock"


def _gcp_problems(config: Tree) -> Iterator[str]:
    zone = config["provider"]["availability_zone"]
    for name, kind in config["available_node_types"].items():
        node = kind["node_config"]
        if name != config["head_node_type"]:
            scopes = [s for a in node.get("serviceAccounts", []) for s in a["scopes"]]
            if not scopes:
                yield f"{name}: no service account of its own"
            if any("devstorage" not in scope for scope in scopes):
                yield f"{name}: its scopes reach beyond storage"
        if not node.get("tags", {}).get("items") or "networkInterfaces" not in node:
            yield f"{name}: not in the network whose rules are known"
        moved = scheduling(node).get("onHostMaintenance") != "TERMINATE"
        if kind["resources"].get("GPU") and moved:
            yield f"{name}: a GPU node cannot move to another host"
        if is_spot(kind) and scheduling(node).get("instanceTerminationAction") != "DELETE":
            yield f"{name}: a preempted node would stay as a stopped one"
        for disk in node["disks"]:
            if f"zones/{zone}/" not in disk["initializeParams"]["diskType"]:
                yield f"{name}: its disk is of another zone than {zone}"


def _mount_problems(config: Tree) -> Iterator[str]:
    mounts = config.get("file_mounts", {})
    for remote, local in mounts.items():
        if remote.startswith("/") or Path(local).is_absolute():
            yield f"file_mounts: {remote}: an absolute path"
        elif not local.startswith("~") and not (ROOT / local).exists():
            yield f"file_mounts: {local} does not exist"
    if "~/.ray/auth_token" not in mounts:
        yield "file_mounts: no token for the nodes"
    for needed in ("lr_ray", "requirements", "Makefile", "pyproject.toml"):
        if mounts.get(f"~/lr_ray/{needed}") != needed:
            yield f"file_mounts: {needed} is missing on the nodes"
    for file in re.findall(r"-r (\S+)", " ".join(config.get("setup_commands") or [])):
        if file not in mounts:
            yield f"file_mounts: {file}, which is installed, is missing on the nodes"


def requirement_problems(text: str, lock: str) -> list[str]:
    """Of packages installed beside a lock: pinned each, and none that is locked."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    locked = {line.partition("==")[0] for line in lock.splitlines()}
    loose = [f"{line}: not pinned" for line in lines if not re.fullmatch(r"[\w.-]+==[\w.]+", line)]
    return loose + [f"{line}: is in the lock" for line in lines if line.split("==")[0] in locked]


# Kubernetes manifests


def manifest_problems(documents: list[Tree]) -> list[str]:
    return [problem for document in documents for problem in _document_problems(document)]


def cluster_spec(document: Tree) -> Tree:
    """The RayCluster's part of a RayCluster, RayJob or RayService."""
    path = {"RayCluster": (), "RayJob": ("rayClusterSpec",), "RayService": ("rayClusterConfig",)}
    spec = document["spec"]
    for key in path[document["kind"]]:
        spec = spec[key]
    return spec


def _document_problems(document: Tree) -> Iterator[str]:
    kind, name = document.get("kind"), document.get("metadata", {}).get("name", "")
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", name):
        yield f"{kind}: {name!r} is no name"
    versions = {"PersistentVolumeClaim": "v1", "ServiceAccount": "v1", "ConfigMap": "v1"}
    wanted = versions.get(kind, "ray.io/v1")
    if kind not in (*versions, "RayCluster", "RayJob", "RayService"):
        yield f"{kind}: unknown kind"
    elif document.get("apiVersion") != wanted:
        yield f"{kind}: apiVersion {document.get('apiVersion')} is not {wanted}"
    elif kind not in versions:
        yield from _cluster_problems(cluster_spec(document))
        if kind == "RayJob":
            yield from _job_problems(document["spec"])


def _job_problems(spec: Tree) -> Iterator[str]:
    if spec.get("shutdownAfterJobFinishes") is not True:
        yield "RayJob: its cluster would stay"
    for field in ("entrypoint", "ttlSecondsAfterFinished", "activeDeadlineSeconds"):
        if not spec.get(field):
            yield f"RayJob: no {field}"
    yield from _pod_problems("submitter", spec["submitterPodTemplate"], probes=False)


def _cluster_problems(spec: Tree) -> Iterator[str]:
    if spec.get("enableInTreeAutoscaling") is not True:
        yield "no autoscaler"
    if spec.get("authOptions", {}).get("mode") != "token":
        yield "no token authentication"
    options = spec.get("autoscalerOptions", {})
    yield from _quantity_problems("autoscaler", options.get("resources", {}))
    head = spec["headGroupSpec"]
    start = head.get("rayStartParams", {})
    if (start.get("num-cpus"), start.get("num-gpus")) != ("0", "0"):
        yield "head: work that asks for CPUs or GPUs would be placed on it"
    limits = head["template"]["spec"]["containers"][0].get("resources", {}).get("limits", {})
    if any(key.endswith("gpu") for key in limits):
        yield "head: has a GPU"
    if head.get("serviceType", "ClusterIP") != "ClusterIP":
        yield "head: its service is reached from outside the cluster"
    ports = {p["name"]: p["containerPort"] for p in _container(head).get("ports", [])}
    if {"gcs": 6379, "dashboard": 8265}.items() - ports.items():
        yield f"head: its ports are {ports}"
    yield from _pod_problems("head", head["template"])
    groups = spec.get("workerGroupSpecs", [])
    names = [group["groupName"] for group in groups]
    if len(set(names)) < len(names):
        yield f"groupName: one of {', '.join(names)} is there twice"
    for group in groups:
        yield from _group_problems(group)


def _container(group: Tree) -> Tree:
    return group["template"]["spec"]["containers"][0]


def _group_problems(group: Tree) -> Iterator[str]:
    name, least, most = group["groupName"], group.get("minReplicas"), group.get("maxReplicas")
    if least is None or most is None:
        yield f"{name}: no minReplicas or maxReplicas"
    elif not least <= group.get("replicas", 0) <= most:
        yield f"{name}: minReplicas {least}, replicas {group.get('replicas', 0)}, maxReplicas {most}"
    pod, label = group["template"]["spec"], "app.kubernetes.io/component"
    if group["template"].get("metadata", {}).get("labels", {}).get(label) != name:
        yield f"{name}: its label {label} names another group"
    if pod.get("restartPolicy") != "Never":
        yield f"{name}: a restarted pod would be another Ray node of the same name"
    custom = custom_resources(group)
    for resource in custom:
        if resource not in RESOURCES:
            yield f"{name}: unknown resource {resource}"
    gpus = int(_container(group).get("resources", {}).get("limits", {}).get("nvidia.com/gpu", 0))
    if any(amount != gpus for amount in custom.values()):
        yield f"{name}: {custom} is not its number of GPUs, {gpus}"
    tolerated = [t.get("key") for t in pod.get("tolerations", [])]
    if gpus and "nvidia.com/gpu" not in tolerated:
        yield f"{name}: does not tolerate the taint of GPU nodes"
    if not pod.get("nodeSelector"):
        yield f"{name}: no nodeSelector"
    yield from _pod_problems(name, group["template"])


def custom_resources(group: Tree) -> dict[str, int]:
    """As `ray start` reads them: JSON in quotes that a shell takes away."""
    text = group.get("rayStartParams", {}).get("resources")
    return yaml.safe_load(text[1:-1].replace("\\", "")) if text else {}


def _pod_problems(name: str, template: Tree, probes: bool = True) -> Iterator[str]:
    pod = template["spec"]
    context = pod.get("securityContext", {})
    if context.get("runAsNonRoot") is not True or not context.get("runAsUser"):
        yield f"{name}: may run as root"
    if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield f"{name}: no seccompProfile"
    if any(pod.get(shared) for shared in ("hostNetwork", "hostPID", "hostIPC")):
        yield f"{name}: shares the host's namespaces"
    volumes = {volume["name"] for volume in pod.get("volumes", [])}
    for container in pod["containers"]:
        yield from _image_problems(name, container.get("image", ""))
        yield from _quantity_problems(name, container.get("resources", {}))
        rights = container.get("securityContext", {})
        if rights.get("allowPrivilegeEscalation") is not False or rights.get("privileged"):
            yield f"{name}: may gain privileges"
        if rights.get("capabilities", {}).get("drop") != ["ALL"]:
            yield f"{name}: keeps capabilities"
        for probe in ("readinessProbe", "livenessProbe"):
            if probes and "httpGet" not in container.get(probe, {}):
                yield f"{name}: no {probe}"
        for mount in container.get("volumeMounts", []):
            if mount["name"] not in volumes:
                yield f"{name}: mounts {mount['name']}, which is no volume"
        for variable in container.get("env", []):
            if re.search("KEY|TOKEN|SECRET|PASSWORD", variable["name"]) and "value" in variable:
                yield f"{name}: {variable['name']} is written out"


def _image_problems(name: str, image: str) -> Iterator[str]:
    tag = image.rpartition("/")[2].partition(":")[2]
    if not tag or tag.startswith("latest"):
        yield f"{name}: image {image} is not pinned by a tag"


def _quantity_problems(name: str, resources: Tree) -> Iterator[str]:
    requests, limits = resources.get("requests") or {}, resources.get("limits") or {}
    for what in ("cpu", "memory"):
        if what not in requests or what not in limits:
            yield f"{name}: no request or limit of {what}"
    for what, amount in requests.items():
        if what in limits and quantity(amount) > quantity(limits[what]):
            yield f"{name}: requests {amount} of {what}, above its limit {limits[what]}"
        if what.endswith("gpu") and limits.get(what) != amount:
            yield f"{name}: GPUs requested and limited differ"


def quantity(text: Any) -> Decimal:
    """A Kubernetes quantity as a number."""
    number, unit = re.fullmatch(r"([0-9.]+)(m|[KMGT]i)?", str(text)).groups()  # type: ignore[union-attr]
    return Decimal(number) * _UNITS[unit or ""]


# Dockerfile


def dockerfile_problems(text: str) -> list[str]:
    return list(_dockerfile_problems(_instructions(text)))


def _instructions(text: str) -> list[tuple[str, str]]:
    """Instruction and arguments, with comments left out and continued lines joined."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    found = [line.strip().partition(" ") for line in joined.splitlines() if line.strip()]
    return [(name.upper(), " ".join(rest.split())) for name, _, rest in found]


def _dockerfile_problems(instructions: list[tuple[str, str]]) -> Iterator[str]:
    defaults = dict(
        rest.replace('"', "").partition("=")[::2] for name, rest in instructions if name == "ARG"
    )
    users = [rest for name, rest in instructions if name == "USER"]
    if not users or not re.match(r"[1-9]\d*\b", users[-1]):
        yield f"USER: the last is {users[-1] if users else 'missing'}, not a number above 0"
    elif instructions[-1][0] in ("RUN", "COPY", "ADD"):
        yield "USER: work goes on after it"
    for name, rest in instructions:
        if name == "FROM":
            image = re.sub(r"\$\{(\w+)\}", lambda match: defaults.get(match[1], ""), rest)
            yield from _image_problems("FROM", image.split()[0])
        elif name == "COPY":
            for source in rest.split()[:-1]:
                if not source.startswith("--") and not (ROOT / source).exists():
                    yield f"COPY: {source} does not exist"
        elif name == "ADD":
            yield f"ADD: {rest}: COPY says what is meant"
        elif name == "RUN":
            yield from _run_problems(rest)
        if name in ("ARG", "ENV") and re.search(r"(KEY|TOKEN|SECRET|PASSWORD)\w*=", rest):
            yield f"{name}: a secret would stay in the image"
    runs = " ".join(rest for name, rest in instructions if name == "RUN")
    if "make install DEVICE=${DEVICE}" not in runs:
        yield "RUN: nothing installs the lock"


def _run_problems(command: str) -> Iterator[str]:
    for device, cloud in (("cpu", "aws"), ("gpu", "gcp")):
        for word in command.replace("${DEVICE}", device).replace("${CLOUD}", cloud).split():
            if (
                re.match(r"(requirements|lr_ray|jobs|cluster)/", word)
                and not (ROOT / word).exists()
            ):
                yield f"RUN: {word} does not exist"
    target = re.search(r"\bmake (\w+)", command)
    makefile = (ROOT / "Makefile").read_text()
    if target and not re.search(rf"^{target[1]}:", makefile, re.MULTILINE):
        yield f"RUN: the Makefile has no target {target[1]}"
    if re.search(r"\bpip\b.*\binstall\b", command) and not re.search(_ALL_PINNED, command):
        yield f"RUN: may change what is locked: {command}"
    if re.search(_INDEX, command):
        yield f"RUN: names a package index: {command}"


def ignore_problems(text: str, copied: list[str]) -> list[str]:
    """Of a .dockerignore that leaves everything out but what it names."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    kept = {line[1:].rstrip("/") for line in lines if line.startswith("!")}
    problems = [] if lines[:1] == ["*"] else ["does not begin by leaving out everything"]
    problems += [f"lets {name} in" for name in ("runs", ".venv", ".git", ".cache") if name in kept]
    needed = {source.split("/")[0] for source in copied}
    return [*problems, *(f"leaves out {name}, which is copied" for name in needed - kept)]


def copied_sources(text: str) -> list[str]:
    return [s for name, rest in _instructions(text) if name == "COPY" for s in rest.split()[:-1]]
