"""Requests of users whose state is kept, so that each needs their new events alone."""

import threading
from collections.abc import Sequence
from itertools import groupby
from typing import Any, NamedTuple, Protocol, runtime_checkable

from seqrec.bundle.loading import Answers
from seqrec.bundle.requests import Keys
from seqrec.bundle.sessions import UnknownSessionError
from seqrec.serve.batching import Refused
from seqrec.types import InputError


@runtime_checkable
class KeepsSessions(Protocol):
    """What `seqrec.bundle.sessions.Sessions` does."""

    bytes_per_session: int

    def recommend(
        self,
        users: Sequence[str],
        events: Sequence[Keys],
        k: int,
        *,
        histories: Sequence[Keys | None] | None = None,
        exclude: Keys | Sequence[Keys] | None = None,
        allow: Keys | Sequence[Keys] | None = None,
        times: Sequence[Sequence[int | float]] | None = None,
        mask_seen: bool | None = None,
    ) -> Answers:
        """The best next items of each user; an error leaves all sessions as they were."""

    def clear(self) -> None:
        """Forgets all sessions."""


class SessionRequest(NamedTuple):
    """A user's new events."""

    user: str
    events: list[Any]
    k: int
    history: list[Any] | None = None
    """Starts the session or replaces it; None goes on from what is kept."""
    exclude: list[Any] | None = None
    allow: list[Any] | None = None
    times: list[float] | None = None
    mask_seen: bool | None = None

    def kind(self) -> tuple[Any, ...]:
        """What requests that are answered together have in common."""
        return self.allow is None, self.times is None, self.mask_seen


class SessionsLane:
    """Requests to the sessions of a bundle; calls come one after another, since sessions change."""

    def __init__(self, sessions: KeepsSessions, most: int):
        self.sessions, self.most = sessions, most
        self._turn = threading.Lock()

    def call(self, requests: Sequence[SessionRequest]) -> list[Any]:
        """The answer to each request, or the exception that refuses it; a user's requests are answered in order."""
        answers: list[Any] = []
        with self._turn:
            for _, alike in groupby(requests, SessionRequest.kind):
                answers += self._answers(list(alike))
        return answers

    def _answers(self, requests: list[SessionRequest]) -> list[Any]:
        try:
            answers = self._ask(requests)
        except UnknownSessionError as error:
            lacks = [each.history is None and each.user in error.users for each in requests]
            others = [each for each, without in zip(requests, lacks, strict=True) if not without]
            rest = iter(self._answers(others) if others else [])
            return [
                Refused(409, f"no session is kept of {each.user!r}; send the history") if without else next(rest)
                for each, without in zip(requests, lacks, strict=True)
            ]
        except InputError as error:
            if len(requests) == 1:
                return [error]
            return [answer for each in requests for answer in self._answers([each])]
        rows = zip(*answers, strict=True)
        return [
            Answers([items[: each.k]], [scores[: each.k]], [n_unknown], [is_popular])
            for each, (items, scores, n_unknown, is_popular) in zip(requests, rows, strict=True)
        ]

    def _ask(self, requests: list[SessionRequest]) -> Answers:
        first = requests[0]  # lists of allowed items and times are given by all or by none

        def of_each(name: str) -> list[Any]:
            return [getattr(each, name) or [] for each in requests]

        return self.sessions.recommend(
            [each.user for each in requests],
            [each.events for each in requests],
            max(each.k for each in requests),
            histories=[each.history for each in requests],
            exclude=of_each("exclude") if any(each.exclude for each in requests) else None,
            allow=None if first.allow is None else of_each("allow"),
            times=None if first.times is None else of_each("times"),
            mask_seen=first.mask_seen,
        )
