"""What an endpoint finds on the cluster before it starts; nothing here starts Ray."""

import contextlib
import socket
import time
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import ray
from ray import serve

from lr_ray.config import Place, Resources, Serving
from lr_ray.errors import StageError, UserError
from lr_ray.pipeline import pipeline
from lr_ray.placement import check_head, room
from lr_ray.serving import Watch, endpoint
from tests.ports import free_port


def node(name: str, address: str, head: bool = False) -> dict:
    resources = {"CPU": 4.0} | ({"node:__internal_head__": 1.0} if head else {})
    return {"NodeID": name, "NodeManagerAddress": address, "Resources": resources, "Alive": True}


@pytest.fixture
def cluster(monkeypatch):
    """A cluster whose head is this node. `ended` counts how often Serve was."""
    there = SimpleNamespace(
        node="h", job="03000000", dead=["02000000"], applications=[], proxies={}, ended=0
    )

    def end() -> None:
        there.ended += 1
        there.applications, there.proxies = [], {}

    context = SimpleNamespace(get_node_id=lambda: there.node, get_job_id=lambda: there.job)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
    monkeypatch.setattr(
        room, "nodes", lambda: [node("w", "10.0.0.2"), node("h", "10.0.0.1", head=True)]
    )
    jobs = lambda: [  # noqa: E731
        {"JobID": job, "IsDead": job in there.dead} for job in ("01000000", "02000000", "03000000")
    ]
    monkeypatch.setattr(ray._private.state, "state", SimpleNamespace(job_table=jobs))
    status = lambda: SimpleNamespace(  # noqa: E731
        proxies=there.proxies, applications=dict.fromkeys(there.applications)
    )
    monkeypatch.setattr(serve, "status", status)
    monkeypatch.setattr(endpoint, "stop", end)
    return there


def test_the_endpoint_of_a_killed_driver_is_ended(cluster):
    serving = Serving(port=free_port())
    endpoint.make_way(serving)
    assert cluster.ended == 0  # nothing was there
    cluster.job = "02000000"
    left = endpoint._application()
    cluster.job = "03000000"
    assert left == "lr_ray-02000000" != endpoint._application()
    cluster.proxies, cluster.applications = {"h": "HEALTHY"}, [left]
    endpoint.make_way(serving)
    assert cluster.ended == 1


def test_a_port_is_asked_for_on_a_cluster_once_what_was_left_there_is_ended(cluster, monkeypatch):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        serving = Serving(port=other.getsockname()[1])
        with pytest.raises(UserError, match=f"^serving.port: {serving.port} is taken"):
            endpoint.check_port(serving)
        monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
        endpoint.check_port(serving)
        with pytest.raises(UserError, match=f"^serving.port: {serving.port} is taken"):
            endpoint.make_way(serving)


@pytest.mark.parametrize(
    "applications",
    [
        [],  # a Serve that somebody has started for something
        ["lr_ray"],  # of cluster/serve.yaml
        ["lr_ray-01000000"],  # of a job that goes on
        ["lr_ray-02000000", "theirs"],
    ],
)
def test_a_serve_of_others_is_left_alone(cluster, applications):
    cluster.proxies, cluster.applications = {"h": "HEALTHY"}, applications
    with pytest.raises(UserError, match=r"^serving: Ray Serve already runs"):
        endpoint.make_way(Serving(port=free_port()))
    assert cluster.ended == 0


def test_a_driver_beside_the_head_has_no_endpoint(cluster):
    check_head()
    cluster.node = "w"
    with pytest.raises(UserError) as raised:
        check_head()
    said = (
        "serving: an endpoint listens on the head, 10.0.0.1, and this job runs on 10.0.0.2; start it "
        "on the head (ray job submit without --entrypoint-num-cpus, -gpus and -resources)"
    )
    assert str(raised.value) == said
    with pytest.raises(StageError) as late:
        endpoint.start({}, Serving(port=free_port()), Resources())
    assert str(late.value) == said


def test_a_pipeline_that_cannot_be_evaluated_here_does_not_begin(cluster, monkeypatch):
    begun: list[str] = []
    monkeypatch.setattr(pipeline, "cluster", lambda: contextlib.nullcontext("logs"))
    monkeypatch.setattr(pipeline, "run_stage", lambda job, stage: begun.append(stage))
    monkeypatch.setattr(pipeline, "_note_seconds", lambda *_: None)
    monkeypatch.setattr(pipeline, "report", MagicMock())
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    job = MagicMock(summary={})
    job.config.serving = Serving(port=free_port())
    cluster.node = "w"
    with pytest.raises(UserError, match="an endpoint listens on the head"):
        pipeline._run_stages(job, ["training", "evaluation"], 0.0)
    assert begun == []
    pipeline._run_stages(job, ["training"], 0.0)
    assert begun == ["training"]


ENDED = """The deployment failed to start 3 times in a row. Error:
ray::ServeReplica:lr_ray:LLMServer:expert.initialize_and_get_metadata() (pid=7, ip=10.0.0.2)
  File "vllm/v1/engine/utils.py", line 1319, in wait_for_engine_startup
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore': 1}
"""


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("A replica failed.\nValueError: no such thing\n", "ValueError: no such thing"),
        (
            ENDED,
            "its engine failed at its start; /s/logs/worker-*.out and *.err on its node say why",
        ),
        ("", "cannot be started"),
    ],
)
def test_a_deployment_that_failed_says_why_or_where_that_is(monkeypatch, said, told):
    monkeypatch.setattr(endpoint, "logs", lambda: "/s/logs")
    deployments = {
        "LLMServer:expert": SimpleNamespace(status="DEPLOY_FAILED", message=said),
        "Ingress": SimpleNamespace(status="UPDATING", message=""),
    }
    application = SimpleNamespace(deployments=deployments, message="")
    assert endpoint._reason(application) == f"LLMServer:expert: {told}"


@pytest.fixture
def watched(cluster, monkeypatch):
    """A watch over two models that wait 60 s for nodes, and what it sees: `running`, `at`, `said`."""
    there = SimpleNamespace(running={"expert": 1, "improved": 1}, at=0.0, said=[], cpus=4.0)

    def status():
        deployments = {
            f"LLMServer:{name}": SimpleNamespace(replica_states={"RUNNING": count})
            for name, count in there.running.items()
        }
        deployments["Ingress"] = SimpleNamespace(replica_states={"RUNNING": 0})
        return SimpleNamespace(
            applications={"lr_ray-03000000": SimpleNamespace(deployments=deployments)}
        )

    monkeypatch.setattr(serve, "status", status)
    monkeypatch.setattr(time, "monotonic", lambda: there.at)
    monkeypatch.setattr(room, "nodes", lambda: [{"Resources": {"CPU": there.cpus}}])
    resources = Resources(server=Place(cpus=2, gpus=0), wait_s=60.0)
    there.look = Watch(MagicMock(resources=resources), there.said.append)
    return there


def test_a_model_whose_node_is_gone_ends_the_asking_once_none_came(watched):
    watched.look()
    assert watched.said == []
    watched.running["improved"], watched.cpus = 0, 2.0
    for watched.at in (10.0, 69.0):
        watched.look()
    assert watched.said == ["improved without a replica; waiting for another one"]
    watched.at = 71.0
    with pytest.raises(StageError) as raised:
        watched.look()
    assert str(raised.value) == (
        "serving: resources: no room for 2 server (2 CPU) at once after 61 s; free some, start nodes, or "
        "wait longer (resources.wait_s)"
    )


def test_a_replica_that_has_room_gets_time_to_start(watched):
    watched.running["improved"] = 0
    for watched.at in (10.0, 71.0, 969.0):
        watched.look()
    watched.running["improved"] = 1
    watched.look()
    watched.running["expert"] = 0
    for watched.at in (971.0, 1930.0):
        watched.look()
    watched.at = 1932.0
    with pytest.raises(StageError, match=r"^serving: expert has had no replica for 961 s$"):
        watched.look()


def test_a_replica_answers_until_its_drained_node_is_gone(watched, monkeypatch):
    status = serve.status()
    [application] = status.applications.values()
    for deployment in application.deployments.values():
        deployment.replica_states = {"PENDING_MIGRATION": 1, "STARTING": 1}
    monkeypatch.setattr(serve, "status", lambda: status)
    for watched.at in (10.0, 5000.0):
        watched.look()
    assert watched.said == []


def test_a_controller_that_does_not_answer_says_nothing_of_replicas(watched, monkeypatch):
    monkeypatch.setattr(serve, "status", MagicMock(side_effect=ray.exceptions.RayError))
    watched.look()
    assert watched.said == []
