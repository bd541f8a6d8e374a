"""ASGI middleware before the endpoint: the key, limits, and an orderly end of service.

Exercised by `pytest tests/unit/test_serving_guard.py tests/integration/endpoint/test_serving.py`.
"""

import asyncio
import contextlib
import hashlib
import hmac
import json
from dataclasses import dataclass

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY_BYTES = 8 << 20
_DISCARDED_BYTES = 8 * MAX_BODY_BYTES
_DISCARDING_S = 10.0


@dataclass
class State:
    """Of this process: requests under way, and whether new ones are turned away."""

    under_way: int = 0
    draining: bool = False


STATE = State()


class _TooLargeError(Exception):
    pass


def digest(key: str) -> str:
    """sha256 of the key, in hex, which is compared and passed on instead of the key itself."""
    return hashlib.sha256(key.encode()).hexdigest()


class Guard:
    """ASGI middleware. Answers 401, 413, 429 and, while draining, 503 in OpenAI's form of errors."""

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
            if not body.too_large:  # else the application answers that it could not read it
                await send(message)

        STATE.under_way += 1
        try:
            await self.app(scope, body.receive, send_unless_cut)
        except _TooLargeError:
            pass
        finally:
            STATE.under_way -= 1
        if body.too_large:
            if body.more:
                await _discard(receive)
            refused = error_response(413, _TOO_LARGE, "invalid_request_error")
            await refused(scope, receive, send)

    def _refusal(self, headers: dict[bytes, bytes]) -> tuple[int, str, str] | None:
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
            return 413, _TOO_LARGE, "invalid_request_error"
        return None


_TOO_LARGE = f"the request is too large; it may have {MAX_BODY_BYTES} bytes"


class _Body:
    """Counts a body that came without its length."""

    def __init__(self, receive: Receive) -> None:
        self._receive, self._received, self.too_large, self.more = receive, 0, False, True

    async def receive(self) -> Message:
        message = await self._receive()
        self._received += len(message.get("body", b""))
        self.more = message.get("more_body", False)
        if self._received > MAX_BODY_BYTES:
            self.too_large = True
            raise _TooLargeError
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
