"""ASGI middleware before the endpoint: the key, limits, and an orderly end of service.

Exercised by `pytest tests/unit/test_serving_guard.py tests/integration/endpoint/test_serving.py`.
"""

import asyncio
import contextlib
import hashlib
import hmac
import json
from dataclasses import dataclass

from starlette.middleware import Middleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY_BYTES = 8 << 20
_DISCARDED_BYTES = 8 * MAX_BODY_BYTES
_DISCARDING_S = 10.0
# A client that sends a part of its body and waits would keep its place among the requests.
_BODY_S = 120.0


@dataclass
class State:
    """Of this process: requests under way, and whether new ones are turned away."""

    under_way: int = 0
    draining: bool = False


STATE = State()

Refusal = tuple[int, str, str]  # status, message, OpenAI's type


class _RefusedBodyError(Exception):
    pass


def digest(key: str) -> str:
    """sha256 of the key, in hex, which is compared and passed on instead of the key itself."""
    return hashlib.sha256(key.encode()).hexdigest()


class Guard:
    """ASGI middleware. Answers 401, 408, 413, 415, 429 and, while draining, 503 in OpenAI's form."""

    def __init__(self, app: ASGIApp, key_digest: str | None, max_requests: int) -> None:
        self.app, self.key_digest, self.max_requests = app, key_digest, max_requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] == "/health":  # probes have no key
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if refusal := self._refusal(headers):
            await _discard(receive)
            await error_response(*refusal)(scope, receive, send)
            return
        body = _Body(receive)

        async def send_unless_cut(message: Message) -> None:
            if not body.refusal:  # else the application answers that it could not read it
                await send(message)

        STATE.under_way += 1
        try:
            await self.app(scope, body.receive, send_unless_cut)
        except _RefusedBodyError:
            pass
        finally:
            STATE.under_way -= 1
        if body.refusal:
            if body.more:
                await _discard(receive)
            await error_response(*body.refusal)(scope, receive, send)

    def _refusal(self, headers: dict[bytes, bytes]) -> Refusal | None:
        if self.key_digest is not None:
            scheme, _, key = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
            known = hmac.compare_digest(digest(key.strip()), self.key_digest)
            if scheme.lower() != "bearer" or not known:
                reason = "give the API key as 'Authorization: Bearer KEY'"
                return 401, reason, "authentication_error"
        if STATE.draining:
            return 503, "the endpoint is shutting down", "server_error"
        if STATE.under_way >= self.max_requests:
            reason = f"{self.max_requests} requests are under way; try again"
            return 429, reason, "rate_limit_error"
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > MAX_BODY_BYTES:
            return _TOO_LARGE
        if headers.get(b"content-encoding", b"identity").lower() not in (b"", b"identity"):
            reason = "Content-Encoding: send the body as it is, not compressed"
            return 415, reason, "invalid_request_error"
        return None


_TOO_LARGE = (
    413,
    f"the request is too large; it may have {MAX_BODY_BYTES} bytes",
    "invalid_request_error",
)


class _Body:
    """A body within limits of size, which it may not have told, and of time."""

    def __init__(self, receive: Receive) -> None:
        self._receive, self._received, self.more = receive, 0, True
        self._deadline = asyncio.get_running_loop().time() + _BODY_S
        self.refusal: Refusal | None = None

    async def receive(self) -> Message:
        try:
            async with asyncio.timeout_at(self._deadline if self.more else None):
                message = await self._receive()
        except TimeoutError:
            reason = f"the body did not arrive within {_BODY_S:g} s"
            self.refusal = 408, reason, "invalid_request_error"
            raise _RefusedBodyError from None
        self._received += len(message.get("body", b""))
        self.more = message.get("more_body", False)
        if self._received > MAX_BODY_BYTES:
            self.refusal = _TOO_LARGE
            raise _RefusedBodyError
        return message


async def _discard(receive: Receive) -> None:
    """Reads what is left of a body, within bounds: closing a connection with more to read resets it.

    The client, which is still sending, would never see the answer.
    """
    read, more = 0, True
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_DISCARDING_S):
            while more and read < _DISCARDED_BYTES:
                message = await receive()
                read += len(message.get("body", b""))
                more = message.get("more_body", False)


def error_response(status: int, message: str, kind: str) -> Response:
    """An error in OpenAI's form, which is an ASGI application too."""
    error = {"message": message, "type": kind, "param": None, "code": status}
    headers = {"retry-after": "1"} if status in (429, 503) else None
    return Response(json.dumps({"error": error}), status, headers, "application/json")


class ReadableHeaders:
    """ASGI middleware of Serve's proxy, which reads some headers as UTF-8 and fails where they are not."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def sent(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, receive, sent)
        except UnicodeDecodeError:
            if begun or scope["type"] != "http":
                raise
            reason = "a header's value is not UTF-8 text"
            await error_response(400, reason, "invalid_request_error")(scope, receive, send)


def of_proxy() -> list[Middleware]:
    """What RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH names."""
    return [Middleware(ReadableHeaders)]
