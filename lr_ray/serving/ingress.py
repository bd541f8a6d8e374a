"""The ingress: `ray.serve.llm`'s own, with our guard, errors in OpenAI's form, and health.

pytest tests/integration/endpoint/test_serving.py
"""

import asyncio
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from ray.exceptions import RayActorError
from ray.llm._internal.serve.core.configs.openai_api_models import OpenAIHTTPException
from ray.llm._internal.serve.core.ingress.middleware import SetRequestIdMiddleware
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.llm.ingress import OpenAiIngress, make_fastapi_ingress
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from lr_ray.serving.guard import STATE, Guard, error_body

_HEALTH_TIMEOUT_S = 5.0
_AWAY = (RayActorError, BackPressureError, DeploymentUnavailableError)  # until a replica is back


class Ingress(OpenAiIngress):
    """Chat, completions, list of models, health, and the end of service."""

    async def health(self) -> Response:
        """200 when every model has a replica that answers, else 503 naming those without."""
        names = list(self._default_serve_handles)
        found = await asyncio.gather(*(self._healthy(name) for name in names))
        states = {name: "ok" if well else "down" for name, well in zip(names, found, strict=True)}
        well = all(found) and not STATE.draining
        status = "draining" if STATE.draining else "ok" if well else "down"
        return JSONResponse({"status": status, "models": states}, 200 if well else 503)

    async def _healthy(self, name: str) -> bool:
        try:
            check = self._default_serve_handles[name].check_health.remote()
            await asyncio.wait_for(check, _HEALTH_TIMEOUT_S)
        except Exception:  # whatever it is, the model is not well
            return False
        return True

    async def drain(self) -> int:
        """Turns new requests away from now on. Returns how many are under way."""
        STATE.draining = True
        return STATE.under_way


ENDPOINTS = {
    "models": lambda app: app.get("/v1/models"),
    "model_data": lambda app: app.get("/v1/models/{model:path}"),
    "completions": lambda app: app.post("/v1/completions"),
    "chat": lambda app: app.post("/v1/chat/completions"),
    "health": lambda app: app.get("/health"),
}


def ingress_class(key_digest: str | None, max_requests: int) -> Any:
    """The class to deploy, with its FastAPI application."""
    app = FastAPI(title="lr_ray", docs_url=None, redoc_url=None)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(OpenAIHTTPException, _openai_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    for kind in _AWAY:
        app.add_exception_handler(kind, _away)
    app.add_exception_handler(Exception, _other_error)
    app.add_middleware(SetRequestIdMiddleware)
    app.add_middleware(Guard, key_digest=key_digest, max_requests=max_requests)  # the outermost
    return make_fastapi_ingress(Ingress, endpoint_map=ENDPOINTS, app=app)


def _error(status: int, message: str, kind: str) -> Response:
    headers = {"retry-after": "1"} if status in (429, 503) else {}
    return Response(error_body(status, message, kind), status, headers, "application/json")


def _http_error(request: Request, error: Any) -> Response:
    kind = "not_found_error" if error.status_code == 404 else "invalid_request_error"
    return _error(error.status_code, str(error.detail), kind)


def _openai_error(request: Request, error: Any) -> Response:
    return _error(error.status_code, error.message, error.type)


def _validation_error(request: Request, error: Any) -> Response:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part != "body")
    if first["type"] == "json_invalid":
        return _error(400, f"the body is not JSON, at character {where}", "invalid_request_error")
    return _error(400, f"{where or 'body'}: {first['msg']}", "invalid_request_error")


def _away(request: Request, error: Exception) -> Response:
    return _error(503, "the model's replica is away; try again", "server_error")


def _other_error(request: Request, error: Exception) -> Response:
    return _error(500, f"{type(error).__name__}: {error}".splitlines()[0], "server_error")
