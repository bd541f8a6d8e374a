"""The ingress: `ray.serve.llm`'s own, with our guard, errors in OpenAI's form, and health.

pytest tests/integration/endpoint/test_serving.py
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from lr_ray.errors import one_line
from lr_ray.runtime.imports import uncollected
from lr_ray.serving import refusals
from lr_ray.serving.bodies import Chat, Completion
from lr_ray.serving.guard import STATE, Guard, error_response

with uncollected():
    from ray.llm._internal.serve.core.configs.openai_api_models import OpenAIHTTPException
    from ray.llm._internal.serve.core.ingress.ingress import CallMethod
    from ray.llm._internal.serve.core.ingress.middleware import SetRequestIdMiddleware
    from ray.serve.llm.ingress import OpenAiIngress, make_fastapi_ingress
    from vllm.exceptions import GenerationError, VLLMClientError

_HEALTH_TIMEOUT_S = 5.0
_STARTED = int(time.time())
_ENGINES_ERROR = "InternalServerError"  # vLLM's type
_AWAY = (RayActorError, BackPressureError, DeploymentUnavailableError)  # until a replica is back


class Ingress(OpenAiIngress):
    """Chat, completions, list of models, health, and the end of service.

    `hosts` are the models on whose engines adapters answer, by the adapters' names; `vocabularies` the
    models' numbers of tokens.
    """

    hosts: Mapping[str, str] = {}
    vocabularies: Mapping[str, int] = {}

    async def chat(self, body: Chat, request: Request) -> Response:
        """One chat completion, or a stream of its parts."""
        for index, message in enumerate(body.messages):
            content = message.get("content")
            if content is not None and not isinstance(content, str):
                try:
                    message["content"] = list(content)  # its parts are checked as they are read
                except ValidationError as error:
                    wrong = refusals.first_wrong(error.errors(), f"messages.{index}.content")
                    raise HTTPException(400, wrong) from None
        return await super().chat(body, request)

    async def completions(self, body: Completion, request: Request) -> Response:
        """One completion, or a stream of its parts."""
        return await super().completions(body, request)

    async def models(self) -> Response:
        """The served models, as OpenAI and vLLM list them."""
        return JSONResponse({"object": "list", "data": [self._card(n) for n in self._names()]})

    async def model_data(self, model: str) -> Response:
        """One of them."""
        await self._get_model_id(model)
        return JSONResponse(self._card(model))

    def _names(self) -> list[str]:
        return [*self._model_cards, *self.hosts]

    def _card(self, name: str) -> dict[str, Any]:
        card = self._model_cards[self.hosts.get(name, name)].model_dump()
        return card | {"id": name, "created": _STARTED, **card["metadata"]}

    async def _get_model_id(self, model: str | None) -> str:
        """Only served names: Ray would look for what follows a colon as an adapter."""
        known = ", ".join(self._names())
        if model is None:
            if len(self._names()) > 1:
                raise HTTPException(400, f"model: give one of {known}")
            return self._names()[0]
        if model not in self._names():
            raise HTTPException(404, f"there is no model {model[:200]!r}; there are {known}")
        return model

    def _get_configured_serve_handle(self, model_id: str) -> Any:
        """An adapter's engine has it from the start, so the request goes there as it is."""
        return super()._get_configured_serve_handle(self.hosts.get(model_id, model_id))

    async def _process_llm_request(
        self, body: Any, call_method: str, raw_request: Request | None = None
    ) -> Response:
        """Refuses first what an engine would fail at, and then what fails before an answer has begun."""
        asked = json.loads(await raw_request.body()) if raw_request else {}
        model = body.model or self._names()[0]
        wrong = refusals.wrong_value(asked) or refusals.unheeded(asked)
        if call_method == CallMethod.COMPLETIONS.value:
            vocabulary = self.vocabularies.get(self.hosts.get(model, model))
            wrong = wrong or refusals.empty_prompt(asked)
            wrong = wrong or refusals.beyond(body.prompt, vocabulary)
        else:
            wrong = wrong or refusals.misplaced(asked)
        if wrong:
            raise HTTPException(400, wrong)
        try:
            answer = await super()._process_llm_request(body, call_method, raw_request)
            if isinstance(answer, StreamingResponse):
                return await _begun(answer, refusals.constrained(asked))
            return answer
        except Exception as error:
            # The rest that fails so is a cache that cannot be loaded, and no engine here has another's.
            if refusals.constrained(asked) and _generation_failed(error):
                raise HTTPException(400, refusals.UNUSABLE_GRAMMAR) from None
            raise

    async def health(self) -> Response:
        """200 when every model has a replica that answers, else 503 naming those without."""
        names = list(self._default_serve_handles)
        found = await asyncio.gather(*(self._healthy(name) for name in names))
        states = {name: "ok" if well else "down" for name, well in zip(names, found, strict=True)}
        states |= {name: states[host] for name, host in self.hosts.items()}
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


async def _begun(answer: StreamingResponse, grammar: bool) -> Response:
    """The stream from its first words on; an error in their place is raised, to have its own status.

    By a `grammar` that fails at the first token, vLLM's streams end without an error.
    """
    packets = aiter(answer.body_iterator)
    held: list[Any] = []
    begun = False
    async for packet in packets:
        held.append(packet)
        error, begun = refusals.stream_start(str(packet))
        if error and not begun:
            raise OpenAIHTTPException(
                message=error["message"], status_code=error["code"], type=error["type"]
            )
        if begun:
            break
    if grammar and not begun:
        raise HTTPException(400, refusals.UNUSABLE_GRAMMAR)

    async def whole() -> AsyncIterator[Any]:
        for packet in held:
            yield packet
        async for packet in packets:
            yield packet

    return StreamingResponse(whole(), media_type=answer.media_type)


def _generation_failed(error: Exception) -> bool:
    told = isinstance(error, OpenAIHTTPException) and error.type == _ENGINES_ERROR
    return told or isinstance(_cause(error), GenerationError)


def _cause(error: Exception) -> Exception:
    while isinstance(error, RayTaskError) and isinstance(error.cause, Exception):
        error = error.cause
    return error


ENDPOINTS = {
    "models": lambda app: app.get("/v1/models"),
    "model_data": lambda app: app.get("/v1/models/{model:path}"),
    "completions": lambda app: app.post("/v1/completions"),
    "chat": lambda app: app.post("/v1/chat/completions"),
    "health": lambda app: app.get("/health"),
}


def ingress_class(
    key_digest: str | None,
    max_requests: int,
    hosts: Mapping[str, str],
    vocabularies: Mapping[str, int],
) -> Any:
    """The class to deploy, with its FastAPI application."""
    app = FastAPI(title="lr_ray", docs_url=None, redoc_url=None)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(OpenAIHTTPException, _openai_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    for kind in _AWAY:
        app.add_exception_handler(kind, _away)
    # Beside Exception, whose handler is the last resort: an answer is sent, and the error goes on.
    for kind in (VLLMClientError, RayTaskError, ValueError, TypeError, NotImplementedError):
        app.add_exception_handler(kind, _other_error)
    app.add_exception_handler(Exception, _other_error)
    app.add_middleware(SetRequestIdMiddleware)
    app.add_middleware(Guard, key_digest=key_digest, max_requests=max_requests)  # the outermost
    kind = type("Ingress", (Ingress,), {"hosts": hosts, "vocabularies": vocabularies})
    return make_fastapi_ingress(kind, endpoint_map=ENDPOINTS, app=app)


def _error(status: int, message: str, kind: str) -> Response:
    return error_response(status, one_line(message[:1000]), kind)


def _http_error(request: Request, error: Any) -> Response:
    kind = "not_found_error" if error.status_code == 404 else "invalid_request_error"
    unreadable = error.status_code == 400 and error.__cause__  # FastAPI's, of a body
    said = refusals.why_no_json(unreadable) if unreadable else str(error.detail)
    return _error(error.status_code, said, kind)


def _openai_error(request: Request, error: Any) -> Response:
    return _error(error.status_code, refusals.readable(error.message), error.type)


def _validation_error(request: Request, error: Any) -> Response:
    return _error(400, refusals.first_wrong(error.errors()), "invalid_request_error")


def _away(request: Request, error: Exception) -> Response:
    return _error(503, "the model's replica is away; try again", "server_error")


def _other_error(request: Request, error: Exception) -> Response:
    cause = _cause(error)
    if isinstance(cause, _AWAY):
        return _away(request, cause)
    status, kind = refusals.status_of(cause)
    shown = refusals.message_of(cause)
    return _error(status, shown if status < 500 else f"{type(cause).__name__}: {shown}", kind)
