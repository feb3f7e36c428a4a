"""The routes: bodies in, answers or one line of refusal out."""

import asyncio
import ipaddress
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

import seqrec
from seqrec.bundle.loading import Answers
from seqrec.serve import schema
from seqrec.serve.batching import Refused
from seqrec.serve.config import CloudRoutes, Limits
from seqrec.serve.schema import Lists, Predict, Prediction, Predictions, Recommend, Refusal, Session, check_limits
from seqrec.serve.service import Service
from seqrec.serve.sessions import SessionRequest
from seqrec.types import InputError

log = logging.getLogger("seqrec")

_encode = msgspec.json.Encoder().encode
_recommend, _predict, _session = (msgspec.json.Decoder(kind).decode for kind in (Recommend, Predict, Session))
_FORWARDED = {b"forwarded", b"x-forwarded-for", b"origin"}

Answering = Callable[[Service, Scope, bytes], Awaitable[Any]]


async def recommend(service: Service, scope: Scope, body: bytes) -> Lists:
    """Answers `schema.Recommend`."""
    query, served = _read(_recommend, body), service.served
    lists = {"exclude": query.exclude, "allow": query.allow}
    check_limits(query.histories, query.k, lists, service.config.limits)
    request = served.bundle.request(
        query.histories,
        query.k,
        times=query.times,
        mask_seen=query.mask_seen,
        **lists,
    )
    answers = await service.submit(served, request)
    service.count(answers)
    return Lists(*answers, served.bundle.facts.content_hash)


async def continue_session(service: Service, scope: Scope, body: bytes) -> Prediction:
    """Answers `schema.Session`."""
    query, served, limits = _read(_session, body), service.served, service.config.limits
    check_limits(
        [[*(query.history or ()), *query.events]], query.k, {"exclude": query.exclude, "allow": query.allow}, limits
    )
    request = SessionRequest(
        query.user,
        query.events,
        query.k,
        query.history,
        query.exclude,
        query.allow,
        query.times,
        query.mask_seen,
    )
    assert served.sessions is not None
    answers = await service.batcher.submit(served.sessions, request)
    service.count(answers)
    return _prediction(answers, served.bundle.facts.content_hash)


def _prediction(answers: Answers, content_hash: str) -> Prediction:
    (items,), (scores,), (n_unknown,), (is_popular,) = answers
    return Prediction(items, scores, n_unknown, is_popular, content_hash)


async def predict(service: Service, scope: Scope, body: bytes) -> Predictions:
    """Answers `schema.Predict`: each instance is a request, so that some may have lists of allowed items."""
    query, served = _read(_predict, body), service.served
    k, mask_seen = query.parameters.k, query.parameters.mask_seen
    check_limits([each.history for each in query.instances], k, {}, service.config.limits)
    requests = []
    for place, each in enumerate(query.instances):
        lists = {"exclude": each.exclude, "allow": each.allow}
        times = None if each.times is None else [each.times]
        try:
            check_limits([each.history], k, lists, service.config.limits)
            request = served.bundle.request([each.history], k, times=times, mask_seen=mask_seen, **lists)
        except InputError as error:
            raise InputError(f"instances[{place}]: {error}") from None
        requests.append(request)
    predictions = []
    for answers in await asyncio.gather(*(service.submit(served, request) for request in requests)):
        service.count(answers)
        predictions.append(_prediction(answers, served.bundle.facts.content_hash))
    return Predictions(predictions)


async def health(service: Service, scope: Scope, body: bytes) -> Any:
    """Says what answers."""
    return service.health()


async def metrics(service: Service, scope: Scope, body: bytes) -> bytes:
    """All counts."""
    return service.metrics.text()


async def reload(service: Service, scope: Scope, body: bytes) -> Any:
    """Reads the bundle anew, if this machine's own user asks: no proxy, and no page in a browser."""
    client = scope.get("client")
    is_own = client is not None and _is_loopback(client[0])
    if not is_own or any(name in _FORWARDED for name, _ in scope["headers"]):
        raise Refused(403, "only this machine may ask for a reload; send it to 127.0.0.1, or SIGHUP to the process")
    return await service.reload()


def make_app(service: Service, cloud: CloudRoutes) -> Starlette:
    """The application of all routes of `schema.routes`."""
    answers: dict[str, Answering] = {
        "/recommend": recommend,
        "/invocations": recommend,
        "/sessions": continue_session,
        "/healthz": health,
        "/ping": health,
        "/metrics": metrics,
        "/reload": reload,
    }
    routes = schema.routes(cloud.health, cloud.predict, sessions=service.served.sessions is not None)
    document = schema.openapi(routes, version=seqrec.__version__)

    async def openapi(service: Service, scope: Scope, body: bytes) -> Any:
        return document

    answers["/openapi.json"] = openapi
    if cloud.health is not None:
        answers[cloud.health] = health
    if cloud.predict is not None:
        answers[cloud.predict] = predict
    return Starlette(
        routes=[
            Route(each.path, _Endpoint(service, each, answers[each.path]), methods=[each.method]) for each in routes
        ],
        exception_handlers={HTTPException: _http_refusal},
    )


class _Endpoint:
    """A route as an application of its own: a request passes no more hands than it must."""

    def __init__(self, service: Service, route: schema.Route, answer: Answering):
        self._service, self._route, self._answer = service, route, answer
        self._type = b"application/json" if route.answer is not None else b"text/plain; version=0.0.4; charset=utf-8"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        status, content, headers = 200, b"", []
        kind = self._type
        try:
            body = b"" if self._route.body is None else await read_body(scope, receive, self._service.config.limits)
            answer = await self._answer(self._service, scope, body)
            content = answer if isinstance(answer, bytes) else _encode(answer)
        except (Refused, InputError) as error:
            status, kind = getattr(error, "status", 400), b"application/json"
            content = _encode(Refusal(" ".join(str(error).split())))
            if status == 429:
                headers.append((b"retry-after", b"1"))
        except _Gone:
            return
        except Exception as error:
            log.exception("%s failed", self._route.path)
            status, kind = 500, b"application/json"
            content = _encode(Refusal(f"the server failed ({type(error).__name__}); its log says more"))
        self._service.metrics.observe(self._route.path, status, time.perf_counter() - started)
        # The rest of a body that was not read would be taken for the next request.
        if self._service.is_draining or status in (408, 413):
            headers.append((b"connection", b"close"))
        headers += [(b"content-type", kind), (b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})


class _Gone(Exception):
    """The client has closed its connection."""


async def read_body(scope: Scope, receive: Receive, limits: Limits) -> bytes:
    """The whole body of a request, so that no call waits for a slow client.

    Raises:
      Refused: its type is not JSON, it is too large, or it does not arrive in time.
    """
    headers, most = dict(scope["headers"]), limits.max_body_bytes
    kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
    if kind != b"application/json":
        shown = kind.decode("latin-1") or "missing"
        raise Refused(415, f"the body's type is {shown}; send Content-Type: application/json")
    if (length := headers.get(b"content-length", b"0")).isdigit() and int(length) > most:
        raise _too_large(most)
    parts, size, more = [], 0, True
    try:
        async with asyncio.timeout(limits.body_seconds):
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise _Gone
                parts.append(message.get("body", b""))
                size, more = size + len(parts[-1]), message.get("more_body", False)
                if size > most:
                    raise _too_large(most)
    except TimeoutError:
        raise Refused(408, f"the body did not arrive in {limits.body_seconds:g} seconds; send it again") from None
    return b"".join(parts)


def _too_large(most: int) -> Refused:
    return Refused(413, f"the body is larger than {most:,} bytes; send several requests")


def _read(decode: Callable[[bytes], Any], body: bytes) -> Any:
    try:
        return decode(body)
    except msgspec.DecodeError as error:
        raise InputError(f"the body is no request: {error}") from None
    except RecursionError:
        raise InputError("the body is no request: its JSON is nested too deeply") from None
    except (UnicodeDecodeError, ValueError) as error:
        raise InputError(f"the body is no JSON: {error}") from None


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host.split("%")[0])
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


async def _http_refusal(request: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    reason = {404: f"there is no route {request.url.path}; GET /openapi.json lists them"}.get(error.status_code)
    reason = reason or f"{request.method} {request.url.path}: {error.detail}"
    content = _encode(Refusal(reason))
    return Response(content, error.status_code, error.headers, media_type="application/json")
