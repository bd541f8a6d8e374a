"""Several models behind one OpenAI-compatible application, with `ray.serve.llm`.

pytest tests/integration/endpoint/test_serving.py
"""

import contextlib
import errno
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

from lr_ray.config import Resources, Serving
from lr_ray.errors import StageError, UserError
from lr_ray.placement import await_room, check_head, check_model, replica_bundles
from lr_ray.runtime import interrupts
from lr_ray.runtime.cluster import joins, logs
from lr_ray.runtime.connection import client
from lr_ray.serving.application import LOGS, build_application

APPLICATION = "lr_ray"
# States of replicas; the second are on nodes that are to be drained.
_ANSWERING = ("RUNNING", "PENDING_MIGRATION")
_MODEL = "LLMServer:"  # begins the names of deployments that ray.serve.llm makes of models
START_S = 900.0
# Of vLLM (v1/engine/utils.py), whose engine is a process of its own that has printed the cause.
_ELSEWHERE = "See root cause above"
_POLL_S = 0.5
_ANSWER_S = 10.0


def check_port(serving: Serving) -> None:
    """Raises UserError when this machine cannot listen on serving.host and serving.port.

    Of a job on a cluster `make_way` asks that: a killed job's endpoint may still have the port.
    """
    if joins() is None:
        _check_free(serving)


def _check_free(serving: Serving) -> None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            serving.host, serving.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as listener:
            # Skips addresses in TIME_WAIT; a listening socket still makes bind fail.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
    except (OSError, UnicodeError) as error:
        raise UserError(_why_not(serving, error)) from None


def _why_not(serving: Serving, error: OSError | UnicodeError) -> str:
    reason, here = getattr(error, "strerror", None), "give an address of this machine, as 127.0.0.1"
    if isinstance(error, socket.gaierror | UnicodeError):
        return f"serving.host: {serving.host!r}: {reason or 'no name of a host'}; {here}"
    if error.errno == errno.EADDRINUSE:
        return f"serving.port: {serving.port} is taken on {serving.host}; give a free one"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"serving.port: {serving.port}: {reason}; give one from 1024 on"
    return f"serving.host: cannot listen on {serving.host}: {reason}; {here}"


def base_url(serving: Serving) -> str:
    """The URL under which a client on the same machine reaches the application."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(serving.host, serving.host)
    return f"http://{f'[{host}]' if ':' in host else host}:{serving.port}/v1"


def start(
    models: dict[str, str],
    serving: Serving,
    resources: Resources,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    on_waiting: Callable[[str], None] = lambda said: None,
    key: str | None = None,
    variables: Mapping[str, Any] | None = None,
) -> str:
    """Starts Serve on the connected Ray cluster and returns the base URL once all models answer.

    `models` maps served names to Hugging Face directories that every node can read. Serve's logs go
    to the Ray session's. `on_progress` gets (models ready, models), `on_waiting` a line on the nodes
    that are waited for. `key`, `variables`: see `build_application`. Ends the endpoint of a driver that was
    killed. Raises StageError when Serve runs on the cluster otherwise, when this driver is not on the head,
    when the port is taken, when there is no room after `resources.wait_s` seconds, when a node does not see a
    model, when one cannot be started, or 15 minutes after there was room; by then all is shut down.
    """
    from ray import serve

    _made_way(serving)
    place = resources.server
    wanted = {"server": replica_bundles(place) * serving.replicas * len(models)}
    await_room(wanted, resources.wait_s, on_waiting)
    for folder in models.values():
        check_model(folder, wanted["server"])
    deadline = time.monotonic() + START_S
    application = build_application(models, serving, place, key, variables or {})
    target = serve.RunTarget(target=application, name=_application(), logging_config=LOGS)
    _made_way(serving)  # that may have taken an hour
    try:  # as late as can be: a Serve without its application does not tell whose it is
        serve.start(
            proxy_location="HeadOnly",
            http_options={"host": serving.host, "port": serving.port},
            logging_config=LOGS,
        )
        serve.run_many(
            [target],
            wait_for_ingress_deployment_creation=False,
            wait_for_applications_running=False,
        )
        _wait_running(len(models), deadline, on_progress)
        _wait_answers(base_url(serving), list(models), deadline, key)
    except BaseException:
        stop()
        raise
    return base_url(serving)


def _application() -> str:
    """The name of this job's: Serve and its engines outlive a driver that is killed."""
    import ray

    return f"{APPLICATION}-{ray.get_runtime_context().get_job_id()}"


def _made_way(serving: Serving) -> None:
    try:
        make_way(serving)
    except UserError as error:
        raise StageError(str(error)) from None


def make_way(serving: Serving) -> None:
    """Ends the Serve of jobs of ours that are over, on the connected cluster.

    Raises UserError when Serve runs there for others, when this driver is not on the head, and when the
    port is taken: Serve's proxy would share it, and answers would be another job's.
    """
    import ray
    from ray import serve

    status = serve.status()
    if status.proxies:
        jobs = ray._private.state.state.job_table()
        over = {f"{APPLICATION}-{job['JobID']}" for job in jobs if job["IsDead"]}
        if not status.applications or not over.issuperset(status.applications):
            raise UserError("serving: Ray Serve already runs on this cluster; shut it down first")
        stop()
    check_head()
    _check_free(serving)


def stop() -> None:
    """Shuts Serve down on the connected cluster; returns when its actors are gone."""
    from ray import serve

    serve.shutdown()


def drain(within_s: float, on_waiting: Callable[[int], None] = lambda under_way: None) -> int:
    """Turns new requests away and waits for those under way, `within_s` seconds at most.

    Returns how many are left. `on_waiting` gets their number as long as there are some.
    """
    from ray import serve

    deadline, left = time.monotonic() + within_s, 0
    ingress = serve.get_app_handle(_application())
    while True:
        with contextlib.suppress(TimeoutError):  # a busy machine; it is asked again
            left = int(ingress.drain.remote().result(timeout_s=_ANSWER_S))
            if not left:
                return 0
        if time.monotonic() > deadline:
            return left
        on_waiting(left)
        time.sleep(_POLL_S)


def without_replica() -> tuple[list[str], int]:
    """Served names of this job's models that have no replica which answers, and how many models there are.

    None where Serve's controller does not answer, as while it is started again.
    """
    from ray import serve
    from ray.exceptions import RayError

    try:
        application = serve.status().applications.get(_application())
    except RayError:
        return [], 0
    found = {
        name.removeprefix(_MODEL): sum(deployment.replica_states.get(s, 0) for s in _ANSWERING)
        for name, deployment in (application.deployments if application else {}).items()
        if name.startswith(_MODEL)
    }
    return [name for name, running in found.items() if not running], len(found)


def _wait_running(models: int, deadline: float, on_progress: Callable[[int, int], None]) -> None:
    from ray import serve

    while True:
        interrupts.again()  # an import above may have swallowed it
        application = serve.status().applications.get(_application())
        status = application.status if application else "NOT_STARTED"
        deployments = application.deployments if application else {}
        if application and status == "DEPLOY_FAILED":
            raise StageError(f"serving: {_reason(application)}")
        pending = [name for name, d in deployments.items() if d.status != "HEALTHY"]
        if deployments:
            on_progress(models - sum(name.startswith(_MODEL) for name in pending), models)
        if status == "RUNNING":
            return
        if time.monotonic() > deadline:
            raise StageError(f"serving: not ready in time: {', '.join(pending) or status}")
        time.sleep(_POLL_S)


def _reason(application: Any) -> str:
    """One line: the last line of the first failed deployment's message, or where vLLM has the cause."""
    failed = [(n, d) for n, d in application.deployments.items() if "FAILED" in d.status]
    name, message = (failed[0][0], failed[0][1].message) if failed else ("", application.message)
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    last = lines[-1] if lines else "cannot be started"
    if _ELSEWHERE in last:
        last = (
            f"its engine failed at its start; {logs()}/worker-*.out and *.err on its node say why"
        )
    return f"{name}: {last}"


def _wait_answers(url: str, names: list[str], deadline: float, key: str | None) -> None:
    from openai import APIConnectionError, InternalServerError, NotFoundError

    with client(url, key, max_retries=0, timeout=60) as asking:
        for name in names:
            while True:
                try:
                    asking.completions.create(model=name, prompt="1", max_tokens=1)
                    break
                except (APIConnectionError, InternalServerError, NotFoundError) as error:
                    if time.monotonic() > deadline:
                        raise StageError(f"serving: {name} does not answer: {error}") from None
                    time.sleep(_POLL_S)
