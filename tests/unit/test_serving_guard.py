"""Key, limits and draining, on a plain ASGI application; nothing here starts Serve."""

import asyncio
import json

import pytest

from lr_ray.serving import guard
from lr_ray.serving.guard import MAX_BODY_BYTES, Guard, ReadableHeaders, State, digest


@pytest.fixture(autouse=True)
def state(monkeypatch) -> State:
    state = State()
    monkeypatch.setattr(guard, "STATE", state)
    return state


async def echo(scope, receive, send):
    """Answers with the length of the body."""
    length, more = 0, True
    while more:
        message = await receive()
        length, more = length + len(message["body"]), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(length).encode()})


def call(app, path="/v1/models", headers=(), parts=(b"",)):
    return asyncio.run(acall(app, path, headers, parts))


async def acall(app, path="/v1/models", headers=(), parts=(b"",)):
    sent, left = [], list(parts)

    async def receive():
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "path": path,
        "headers": [(k.encode(), v.encode()) for k, v in headers],
    }
    await app(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


def bearer(key):
    return [("authorization", f"Bearer {key}")]


def test_a_key_is_needed_where_one_is_set():
    app = Guard(echo, digest("sesame"), 9)
    assert call(app, headers=bearer("sesame"))[0] == 200
    for headers in ((), bearer("other"), bearer(""), [("authorization", "Basic sesame")]):
        status, body = call(app, headers=headers)
        assert status == 401
        assert json.loads(body)["error"]["type"] == "authentication_error"
    assert call(app, "/health")[0] == 200
    assert call(Guard(echo, None, 9))[0] == 200


def test_a_large_body_is_refused_by_its_length_unread():
    async def never(scope, receive, send):
        raise AssertionError("was read")

    headers = [("content-length", str(MAX_BODY_BYTES + 1))]
    assert call(Guard(never, None, 9), headers=headers)[0] == 413
    assert call(Guard(never, None, 9), headers=[("content-length", "x")])[0] == 413


@pytest.mark.parametrize("catches", [False, True])
def test_a_large_body_without_a_length_is_cut_where_it_gets_too_large(catches):
    async def app(scope, receive, send):
        try:
            await echo(scope, receive, send)
        except Exception:
            if not catches:
                raise
            await send({"type": "http.response.start", "status": 400, "headers": []})
            await send({"type": "http.response.body", "body": b"cannot be read"})

    half = b"x" * (MAX_BODY_BYTES // 2)
    assert call(Guard(app, None, 9), parts=(half, half)) == (200, str(MAX_BODY_BYTES).encode())
    status, body = call(Guard(app, None, 9), parts=(half, half, b"x"))
    assert status == 413
    assert json.loads(body)["error"]["code"] == 413


@pytest.mark.parametrize("headers", [[("content-length", str(2 * MAX_BODY_BYTES))], bearer("no")])
def test_a_refused_body_is_read_to_its_end_so_that_the_answer_arrives(headers):
    async def never(scope, receive, send):
        raise AssertionError("was answered")

    parts = [b"x" * MAX_BODY_BYTES, b"x" * MAX_BODY_BYTES]
    assert asyncio.run(read_by(Guard(never, digest("a"), 9), parts, headers)) == 2
    assert asyncio.run(read_by(Guard(echo, None, 9), [parts[0], b"x", b"y", b"z"])) == 4
    assert asyncio.run(read_by(Guard(never, digest("a"), 9), parts * 50, headers)) < 10


async def read_by(app, parts, headers=()):
    """How many parts of a body are read."""
    sent, left = [], list(parts)

    async def receive():
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    async def send(message):
        sent.append(message)

    headers = [(k.encode(), v.encode()) for k, v in headers]
    await app({"type": "http", "path": "/v1/models", "headers": headers}, receive, send)
    assert sent[0]["status"] in (401, 413)
    return len(parts) - len(left)


def test_a_client_that_sends_no_more_of_a_refused_body_is_answered(monkeypatch):
    monkeypatch.setattr(guard, "_DISCARDING_S", 0.05)
    sent = []

    async def receive():
        await asyncio.sleep(60)

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "path": "/v1/models", "headers": []}
    asyncio.run(Guard(echo, digest("a"), 9)(scope, receive, send))
    assert sent[0]["status"] == 401


def test_a_body_that_stops_half_way_loses_its_place(monkeypatch, state):
    monkeypatch.setattr(guard, "_BODY_S", 0.05)
    monkeypatch.setattr(guard, "_DISCARDING_S", 0.05)
    sent, left = [], [{"type": "http.request", "body": b"{", "more_body": True}]

    async def receive():
        if not left:
            await asyncio.sleep(60)
        return left.pop()

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "path": "/v1/models", "headers": []}
    asyncio.run(Guard(echo, None, 9)(scope, receive, send))
    assert sent[0]["status"] == 408
    assert "did not arrive" in json.loads(sent[1]["body"])["error"]["message"]
    assert state.under_way == 0


def test_an_answer_may_take_longer_than_a_body(monkeypatch):
    monkeypatch.setattr(guard, "_BODY_S", 0.05)

    async def slow(scope, receive, send):
        await receive()
        await asyncio.wait([asyncio.create_task(receive())], timeout=0.2)  # for a disconnect
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def scenario():
        sent, left = [], [{"type": "http.request", "body": b"{}"}]

        async def receive():
            if not left:
                await asyncio.sleep(60)
            return left.pop()

        async def send(message):
            sent.append(message)

        await Guard(slow, None, 9)(
            {"type": "http", "path": "/v1/models", "headers": []}, receive, send
        )
        return sent[0]["status"]

    assert asyncio.run(scenario()) == 200


def test_a_compressed_body_is_not_read():
    assert call(Guard(echo, None, 9), headers=[("content-encoding", "gzip")])[0] == 415
    assert call(Guard(echo, None, 9), headers=[("content-encoding", "Identity")])[0] == 200


def test_a_header_that_serve_cannot_read_is_the_clients_mistake():
    async def proxy(scope, receive, send):
        dict(scope["headers"])[b"x-request-id"].decode()
        await echo(scope, receive, send)

    async def begun(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        b"\xff".decode()

    async def scenario(app, value):
        sent = []

        async def receive():
            return {"type": "http.request", "body": b""}

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "path": "/", "headers": [(b"x-request-id", value)]}
        await ReadableHeaders(app)(scope, receive, send)
        return sent[0]["status"], sent[1]["body"]

    assert asyncio.run(scenario(proxy, b"a")) == (200, b"0")
    status, body = asyncio.run(scenario(proxy, b"\xff"))
    assert (status, "UTF-8" in json.loads(body)["error"]["message"]) == (400, True)
    with pytest.raises(UnicodeDecodeError):
        asyncio.run(scenario(begun, b"a"))


def test_requests_beyond_the_limit_are_to_be_tried_again(state):
    async def scenario():
        gate = asyncio.Event()

        async def slow(scope, receive, send):
            await gate.wait()
            await echo(scope, receive, send)

        app = Guard(slow, None, 2)
        running = [asyncio.create_task(acall(app)) for _ in range(2)]
        await asyncio.sleep(0)
        assert state.under_way == 2
        status, body = await acall(app)
        gate.set()
        return status, json.loads(body), [await task for task in running]

    status, body, others = asyncio.run(scenario())
    assert status == 429
    assert body["error"]["type"] == "rate_limit_error"
    assert [other[0] for other in others] == [200, 200]
    assert state.under_way == 0


def test_draining_turns_new_requests_away(state):
    state.draining = True
    assert call(Guard(echo, None, 9))[0] == 503
    assert call(Guard(echo, digest("a"), 9))[0] == 401


def test_a_failing_application_is_not_under_way_any_more(state):
    async def failing(scope, receive, send):
        raise RuntimeError

    with pytest.raises(RuntimeError):
        call(Guard(failing, None, 9))
    assert state.under_way == 0
