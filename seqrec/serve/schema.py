"""What requests and answers are made of: by this one schema bodies are read and the OpenAPI document is written."""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from seqrec.serve.config import Limits
from seqrec.types import InputError

Key = int | str
"""An item, as the data calls it."""
Refusals = dict[int, str]


class Recommend(Struct, forbid_unknown_fields=True):
    """Asks for the best next items after each history."""

    histories: list[list[Key]]
    """Item keys of each user, oldest first."""
    k: int = 20
    exclude: list[Key | list[Key]] | None = None
    """Items that are no candidates: one list for all histories, or one for each."""
    allow: list[Key | list[Key]] | None = None
    """The only candidates, likewise."""
    times: list[list[float]] | None = None
    """For models that read times: seconds since 1970 of each item and, where the query's time is read, of the query."""
    mask_seen: bool | None = None
    """Whether items of the history are left out; by default as the model was tested."""


class Lists(Struct):
    """A list for each history."""

    items: list[list[Key]]
    """Item keys, best first; fewer than k where candidates run out."""
    scores: list[list[float]]
    n_unknown: list[int]
    """Items of each history that the bundle does not know; they are skipped."""
    is_popular: list[bool]
    """Whether no item of the history is known, so that the list has the most popular items."""
    bundle: str
    """Content hash of the bundle that answers."""


class Session(Struct, forbid_unknown_fields=True):
    """Asks for the best next items of a user after further events."""

    user: str
    events: list[Key] = []
    """Item keys of the new events, oldest first."""
    history: list[Key] | None = None
    """Item keys before these events: starts the user's session or replaces it; without it the kept one goes on."""
    k: int = 20
    exclude: list[Key] | None = None
    allow: list[Key] | None = None
    times: list[float] | None = None
    """For models that read times: seconds since 1970 of the history, where it is given, and of the events."""
    mask_seen: bool | None = None


class Instance(Struct, forbid_unknown_fields=True):
    """One history of a prediction request."""

    history: list[Key]
    exclude: list[Key] | None = None
    allow: list[Key] | None = None
    times: list[float] | None = None


class Parameters(Struct, forbid_unknown_fields=True):
    """What holds for all histories of a prediction request."""

    k: int = 20
    mask_seen: bool | None = None


class Predict(Struct, forbid_unknown_fields=True):
    """Asks for the best next items after the history of each instance."""

    instances: list[Instance]
    parameters: Parameters = msgspec.field(default_factory=Parameters)


class Prediction(Struct):
    """The list of one user."""

    items: list[Key]
    scores: list[float]
    n_unknown: int
    is_popular: bool
    bundle: str


class Predictions(Struct):
    """A list for each instance."""

    predictions: list[Prediction]


class Health(Struct):
    """What the server answers from."""

    status: str
    model: str
    n_items: int
    bundle: str


class Reloaded(Struct):
    """The bundle that answers from now on, and whether it is another one than before."""

    bundle: str
    changed: bool


class Refusal(Struct):
    """Why there is no answer, in one line."""

    error: str


def check_limits(histories: Sequence[Sequence[Any]], k: int, lists: dict[str, Any], limits: Limits) -> None:
    """Refuses what is larger than the limits.

    Raises:
      InputError: a list, or k, is.
    """
    if not histories:
        raise InputError("histories is empty; give one at least, which may be empty itself")
    if len(histories) > limits.max_histories:
        raise InputError(f"{len(histories):,} histories are more than {limits.max_histories:,}; send several requests")
    longest = max(map(len, histories))
    if longest > limits.max_history:
        raise InputError(f"a history of {longest:,} items is longer than {limits.max_history:,}; send the newest")
    if k > limits.max_k:
        raise InputError(f"k={k} is above {limits.max_k}, the limit of this server; ask for fewer")
    for name, values in lists.items():
        for each in [values or (), *(values or ())]:
            if isinstance(each, list) and len(each) > limits.max_list and not isinstance(each[0], list):
                raise InputError(f"{name} holds {len(each):,} items, more than {limits.max_list:,}; name fewer")


class Route(Struct, frozen=True):
    """A route, as the OpenAPI document describes it."""

    path: str
    method: str
    summary: str
    body: Any = None
    answer: Any = None
    """None of plain text."""
    refusals: Refusals = {}


OF_BODIES: Refusals = {
    400: "The body is no JSON of this schema, or cannot be answered.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The body's type is not application/json.",
    429: "Too many requests wait; ask again later.",
    503: "The server has too many connections.",
    504: "There was no answer in time.",
}


def routes(health: str | None = None, predict: str | None = None, *, sessions: bool = False) -> list[Route]:
    """All routes: the server's own, those of one cloud, and those that the other cloud names."""
    all_routes = [
        Route("/recommend", "POST", "Lists of the best next items", Recommend, Lists, OF_BODIES),
        Route("/invocations", "POST", "As /recommend, by the name that SageMaker calls", Recommend, Lists, OF_BODIES),
        Route(
            "/healthz", "GET", "Whether the server answers, and from which bundle", None, Health, {503: "It does not."}
        ),
        Route("/ping", "GET", "As /healthz, by the name that SageMaker calls", None, Health, {503: "It does not."}),
        Route("/metrics", "GET", "Counts and durations in the format of Prometheus"),
        Route(
            "/reload",
            "POST",
            "Reads the bundle's directory anew; for this machine alone",
            None,
            Reloaded,
            {400: "The new bundle cannot be used; the old one answers.", 403: "The client is another machine."},
        ),
        Route("/openapi.json", "GET", "This document", None, dict[str, Any]),
    ]
    if sessions:
        refusals = {**OF_BODIES, 409: "No session is kept of this user: send the history."}
        all_routes.append(
            Route("/sessions", "POST", "The list of a user after new events", Session, Prediction, refusals)
        )
    if health is not None:
        all_routes.append(
            Route(health, "GET", "As /healthz, by the name that Vertex AI gives", None, Health, {503: "It does not."})
        )
    if predict is not None:
        all_routes.append(Route(predict, "POST", "Lists in the form of Vertex AI", Predict, Predictions, OF_BODIES))
    return list({(route.path, route.method): route for route in all_routes}.values())


def openapi(served: Sequence[Route], *, version: str) -> dict[str, Any]:
    """The OpenAPI 3.1 document of these routes."""
    types = [kind for route in served for kind in (route.body, route.answer) if kind is not None]
    kinds = [*dict.fromkeys(types), Refusal]
    schemas, components = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    schema_of = dict(zip(kinds, schemas, strict=True))

    def content(kind: Any) -> dict[str, Any]:
        if kind is None:
            return {"text/plain": {"schema": {"type": "string"}}}
        return {"application/json": {"schema": schema_of[kind]}}

    paths: dict[str, Any] = {}
    for route in served:
        answers = {"200": {"description": "The answer", "content": content(route.answer)}}
        for status, meaning in route.refusals.items():
            answers[str(status)] = {"description": meaning, "content": content(Refusal)}
        operation: dict[str, Any] = {"summary": route.summary, "responses": answers}
        if route.body is not None:
            operation["requestBody"] = {"required": True, "content": content(route.body)}
        paths.setdefault(route.path, {})[route.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "seqrec", "version": version},
        "paths": paths,
        "components": {"schemas": components},
    }
