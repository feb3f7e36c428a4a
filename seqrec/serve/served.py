"""A bundle that is ready to answer: which requests share a call, and the sizes of calls, compiled before the first."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from seqrec.bundle.calls import CallSizes, users_per_call
from seqrec.bundle.files import open_directory
from seqrec.bundle.histories import Ragged, consecutive_rows, joined_rows, power_of_two, unique_ids
from seqrec.bundle.loading import Answers, Bundle, Request, load_bundle
from seqrec.bundle.sessions import Sessions
from seqrec.serve.config import Limits, ServeConfig
from seqrec.serve.sessions import SessionRequest, SessionsLane
from seqrec.types import InputError

log = logging.getLogger("seqrec")

USUAL_K = 32
"""Lists that are not longer share the usual calls."""


class BundleLane:
    """Requests to a bundle that can share a call, as their arrays fit the same sizes."""

    def __init__(self, bundle: Bundle, sizes: Sequence[CallSizes]):
        self.bundle, self.sizes, self.most = bundle, sizes, sizes[-1].users
        """`sizes` have rising numbers of users, of which `most` is the highest."""

    def call(self, requests: Sequence[Request]) -> list[Answers]:
        """The answer to each request."""
        return parts(self.bundle.answer(joined(requests), sizes=self.sizes), requests)


def joined(requests: Sequence[Request]) -> Request:
    """One request for the histories of all, which allow or do not allow lists alike, by the longest of their lists."""
    if len(requests) == 1:
        return requests[0]
    items = joined_rows([each.items for each in requests])
    lengths = [np.full(len(each.items.lengths), each.mask_seen) for each in requests]
    seen = Ragged(items.values, items.starts, items.lengths * np.concatenate(lengths))
    excluded = [seen]
    if any(each.exclude is not None for each in requests):
        excluded.append(joined_rows([_no_rows(each) if each.exclude is None else each.exclude for each in requests]))
    return Request(
        items,
        max(each.k for each in requests),
        np.concatenate([each.n_unknown for each in requests]),
        _joined_if_any([each.allow for each in requests]),
        unique_ids(excluded, len(items.lengths)),
        _joined_if_any([each.seconds for each in requests]),
        mask_seen=False,
    )


def _no_rows(request: Request) -> Ragged:
    return consecutive_rows(np.zeros(0, np.int32), np.zeros(len(request.items.lengths), np.int64))


def _joined_if_any(lists: Sequence[Ragged | None]) -> Ragged | None:
    given = [each for each in lists if each is not None]
    return joined_rows(given) if given else None


def parts(answers: Answers, requests: Sequence[Request]) -> list[Answers]:
    """The answers to each request, from those to all of its histories together.

    The best k of a list are the first k of a longer one.
    """
    by_request, start = [], 0
    for request in requests:
        rows = slice(start, start + len(request.items.lengths))
        start = rows.stop
        by_request.append(
            Answers(
                [row[: request.k] for row in answers.items[rows]],
                [row[: request.k] for row in answers.scores[rows]],
                answers.n_unknown[rows],
                answers.is_popular[rows],
            )
        )
    return by_request


class Served(NamedTuple):
    """A bundle, and the lanes of requests to it."""

    bundle: Bundle
    usual: BundleLane
    large: BundleLane
    """Long lists, or many excluded items."""
    allowed: BundleLane
    """Lists of allowed items."""
    sessions: SessionsLane | None = None
    """Users whose state is kept."""

    def lane_of(self, request: Request) -> BundleLane:
        """The lane whose sizes the request fits."""
        if request.allow is not None:
            return self.allowed
        widths = np.zeros(1, np.int64)
        if request.mask_seen:
            widths = widths + request.items.lengths
        if request.exclude is not None:
            widths = widths + request.exclude.lengths
        sizes = self.usual.sizes[0]
        return self.usual if request.k <= sizes.k and widths.max() <= sizes.exclude else self.large


def serve_bundle(bundle: Bundle, limits: Limits, *, max_batch: int | None = None, n_sessions: int = 0) -> Served:
    """The bundle with its lanes; nothing is compiled yet.

    Raises:
      InputError: there are to be sessions, and the bundle's model has none.
    """
    facts = bundle.facts
    most = max_batch or users_per_call(facts.n_items)
    usual = CallSizes(1, min(USUAL_K, power_of_two(limits.max_k)), 1, power_of_two(2 * facts.max_length))
    large = CallSizes(1, power_of_two(limits.max_k), 1, power_of_two(limits.max_history + limits.max_list))
    allowed = large._replace(allow=power_of_two(limits.max_list))
    # The usual calls have all powers of two, since much is asked of them; the others those of one user and of many.
    of_usual = [*(1 << power for power in range(most.bit_length())), most]

    def lane(sizes: CallSizes, numbers: Iterable[int]) -> BundleLane:
        return BundleLane(bundle, [sizes._replace(users=users) for users in sorted(set(numbers))])

    served = Served(bundle, lane(usual, of_usual), lane(large, (1, most)), lane(allowed, (1, most)))
    if not n_sessions:
        return served
    sizes = [sizes for each in (served.usual, served.large, served.allowed) for sizes in each.sizes]
    sessions = Sessions(bundle, n_sessions, sizes=sizes)
    return served._replace(sessions=SessionsLane(sessions, min(most, n_sessions)))


def compile_calls(served: Served) -> None:
    """Calls each program once, so that none is compiled while somebody waits."""
    bundle, lanes = served.bundle, (served.usual, served.large, served.allowed)
    # A minute or more, for models that generate codes.
    log.info("compiling   %d sizes of calls", sum(len(lane.sizes) for lane in lanes))
    key = bundle.vocabulary.keys[:1].tolist()
    seconds = {"none": None, "history": [0], "query": [0, 0]}[bundle.facts.times]
    for lane in lanes:
        for sizes in lane.sizes:
            times = None if seconds is None else [seconds] * sizes.users
            lane.call([bundle.request([key] * sizes.users, 1, times=times)])
    if served.sessions is not None:
        _compile_sessions(served, served.sessions)


def _compile_sessions(served: Served, lane: SessionsLane) -> None:
    """Starts and continues sessions in each number of users, with lists of each size, and forgets them."""
    bundle, usual = served.bundle, served.usual.sizes[0]
    keys = bundle.vocabulary.keys
    key = keys[bundle.by_popularity[:1] - 1].tolist()  # which may be listed
    reads_times = bundle.facts.times != "none"
    large = {
        "k": min(served.large.sizes[0].k, bundle.facts.n_items),
        "exclude": keys[: usual.exclude + 1].tolist(),
    }
    # One allowed item fits the usual sizes.
    kinds: tuple[tuple[BundleLane, dict[str, Any]], ...]
    kinds = ((served.usual, {}), (served.large, large), (served.allowed, {"allow": key * 2}))
    for kind, options in kinds:
        # Of the sizes above `most` users that the last calls are filled up to, too.
        for n_users in sorted({min(sizes.users, lane.most) for sizes in kind.sizes}):
            for history in (key, None):
                times = [0.0, *[0.0] * (history is not None)] if reads_times else None
                request = SessionRequest("", key, 1, history, times=times)._replace(**options)
                lane.call([request._replace(user=str(number)) for number in range(n_users)])
    lane.sessions.clear()


def load_served(config: ServeConfig, *, unless: str | None = None) -> Served | None:
    """The bundle of a server, ready to answer; None where its content hash is `unless`.

    Raises:
      InputError: see `load_bundle` and `serve_bundle`.
    """
    path = config.bundle
    for _ in range(3):
        if _content_hash(path) == unless:
            return None
        bundle = load_bundle(path, search=config.search)
        # A directory that was replaced meanwhile may have given files of two bundles.
        if _content_hash(path) == bundle.facts.content_hash:
            # Whoever asks over HTTP need not know this machine's directories.
            served = serve_bundle(
                replace(bundle, path="the bundle"),
                config.limits,
                max_batch=config.max_batch,
                n_sessions=config.sessions,
            )
            compile_calls(served)
            return served
    raise InputError(f"{path} changes all the time; reload it when it is written")


def _content_hash(path: Path) -> str:
    return open_directory(path, verify=False)[1].content_hash
