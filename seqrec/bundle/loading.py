"""A bundle as a value: raw item keys in, lists of raw item keys out. Nothing of training is imported."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, get_args, runtime_checkable

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, Int32, Int64

from seqrec.bundle.calls import IDS_PER_CALL, CallSizes, filled_up, list_rows, sufficient, users_per_call
from seqrec.bundle.exported import read_program
from seqrec.bundle.files import CONSTANTS as CONSTANTS_FILE
from seqrec.bundle.files import (
    ITEMS,
    MANIFEST,
    SESSION_PROGRAMS,
    STATES,
    TOP_K,
    WEIGHTS,
    Facts,
    Search,
    Vocabulary,
    listed_first,
    open_directory,
    popular_items,
    read_vocabulary,
)
from seqrec.bundle.histories import Ragged, make_histories, power_of_two, unique_ids
from seqrec.bundle.requests import Ids, ItemKey, Keys, candidate_lists, ids_of, seconds_of, without_unknown
from seqrec.bundle.search import Searcher, check_products, open_searcher
from seqrec.bundle.weights import CONSTANTS, ITEM_TABLE, read_constants, read_weights
from seqrec.files import address_of
from seqrec.types import InputError, Params


class Answers(NamedTuple):
    """A list for each history that was asked about."""

    items: list[list[ItemKey]]
    """Item keys, best first; fewer than k where candidates run out."""
    scores: list[list[float]]
    """The model's score of each; of popular items, their number of training events."""
    n_unknown: list[int]
    """Items of each history that the bundle does not know; they are skipped."""
    is_popular: list[bool]
    """Whether no item of the history is known, so that the list has the most popular items."""


class Request(NamedTuple):
    """What `Bundle.recommend` is asked, in ids."""

    items: Ragged
    """The known items of each history, oldest first."""
    k: int
    n_unknown: Int64[np.ndarray, " users"]
    """Items of each history that the bundle does not know."""
    allow: Ragged | None = None
    exclude: Ragged | None = None
    seconds: Ragged | None = None
    """Whole seconds of what the model reads of times."""
    mask_seen: bool = True


@runtime_checkable
class Program(Protocol):
    """An exported function of a bundle."""

    def __call__(self, params: Params, *given: Any) -> Any:
        """docs/bundle.md has the arguments of each."""


@dataclass(frozen=True, eq=False)
class Bundle:
    """A trained model with its vocabulary; all of its functions are pure."""

    path: str
    facts: Facts
    vocabulary: Vocabulary
    params: Params
    """The parameters on the device that answers; without the item table where there is a `searcher`."""
    ids: Ids
    by_popularity: Int64[np.ndarray, " n_items"]
    """The ids that may be listed, the most frequent in training first."""
    programs: Mapping[str, Program]
    search: Search = "exact"
    searcher: Searcher | None = None
    """Finds the best items where search is not exact."""

    def recommend(
        self,
        histories: Sequence[Keys],
        k: int = 20,
        *,
        exclude: Keys | Sequence[Keys] | None = None,
        allow: Keys | Sequence[Keys] | None = None,
        times: Sequence[Sequence[int | float]] | None = None,
        mask_seen: bool | None = None,
    ) -> Answers:
        """The `k` best next items after each history, whose oldest item comes first.

        `allow` names the only candidates and `exclude` items that are no candidates: one list for all histories, or
        one for each. Items that the bundle does not know are skipped in all three. A history without a known item gets
        the most popular candidates. `times`, of a bundle whose model reads them, are seconds since 1970 of each item
        and, where `facts.times` is "query", last, of the query. Of a history that is longer than the model reads the
        newest items count; with `mask_seen` none of its items is listed, by default as the run was tested.

        Raises:
          InputError: a list, its length, k or a time cannot be used; the message names it.
        """
        return self.answer(self.request(histories, k, exclude=exclude, allow=allow, times=times, mask_seen=mask_seen))

    def request(
        self,
        histories: Sequence[Keys],
        k: int = 20,
        *,
        exclude: Keys | Sequence[Keys] | None = None,
        allow: Keys | Sequence[Keys] | None = None,
        times: Sequence[Sequence[int | float]] | None = None,
        mask_seen: bool | None = None,
    ) -> Request:
        """What `recommend` is asked, checked, in ids.

        Raises:
          InputError: see `recommend`.
        """
        reads = self.facts.times
        self.check_k(k)
        items, is_known = ids_of(histories, self.ids, name="histories")
        seconds = seconds_of(times, items, reads=reads, name=self.path)
        known = items if is_known.all() else items.keep(is_known)
        allowed, excluded = self.candidates(len(histories), allow=allow, exclude=exclude)
        return Request(
            known,
            k,
            items.lengths - known.lengths,
            allowed,
            excluded,
            None if seconds is None else without_unknown(seconds, is_known, items, reads=reads),
            self.facts.mask_seen if mask_seen is None else mask_seen,
        )

    def answer(self, request: Request, *, sizes: Sequence[CallSizes] = ()) -> Answers:
        """As `recommend`; `sizes` are those of `top_ids`."""
        ids, scores = self.top_ids(
            request.items,
            request.k,
            allow=request.allow,
            exclude=request.exclude,
            seconds=request.seconds,
            mask_seen=request.mask_seen,
            sizes=sizes,
        )
        return self.answers(ids, scores, n_unknown=request.n_unknown, is_popular=request.items.lengths == 0)

    def check_k(self, k: int) -> None:
        """Refuses a number of items that there are not."""
        if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 1 <= k <= self.facts.n_items:
            raise InputError(
                f"k={k} is not in 1..{self.facts.n_items}, the number of items of {self.path}; ask for as many"
            )

    def candidates(
        self, n_histories: int, *, allow: Keys | Sequence[Keys] | None, exclude: Keys | Sequence[Keys] | None
    ) -> tuple[Ragged | None, Ragged | None]:
        """The ids of both lists of `recommend`."""
        allowed = candidate_lists(allow, self.ids, n_histories, name="allow")
        if allowed is not None and (is_listed := self.vocabulary.is_listed) is not None:
            allowed = allowed.keep(is_listed[allowed.values - 1])
        if allowed is not None and (empty := np.flatnonzero(allowed.lengths == 0)).size:
            raise InputError(
                f"allow leaves history {empty[0]} no item that {self.path} may list; name some, or leave allow out"
            )
        return allowed, candidate_lists(exclude, self.ids, n_histories, name="exclude")

    def answers(
        self,
        ids: Int32[np.ndarray, "users k"],
        scores: Float[np.ndarray, "users k"],
        *,
        n_unknown: Int[np.ndarray, " users"],
        is_popular: Bool[np.ndarray, " users"],
    ) -> Answers:
        """Lists of ids as lists of keys."""
        keys = self.vocabulary.keys[np.maximum(ids, 1) - 1].tolist()
        n_listed = np.count_nonzero(ids, axis=1).tolist()
        return Answers(
            [row[:n] for row, n in zip(keys, n_listed, strict=True)],
            [row[:n] for row, n in zip(scores.tolist(), n_listed, strict=True)],
            n_unknown.tolist(),
            is_popular.tolist(),
        )

    def top_ids(
        self,
        items: Ragged,
        k: int,
        *,
        allow: Ragged | None = None,
        exclude: Ragged | None = None,
        seconds: Ragged | None = None,
        mask_seen: bool | None = None,
        sizes: Sequence[CallSizes] = (),
    ) -> tuple[Int32[np.ndarray, "users k"], Float[np.ndarray, "users k"]]:
        """As `recommend`, of known ids and whole seconds in arrays; id 0 with score -inf where candidates run out.

        The arrays of each call have the first of `sizes` that suffice, or else sizes that are powers of two.
        """
        mask_seen = self.facts.mask_seen if mask_seen is None else mask_seen
        lists = [*[items] * mask_seen, *([] if exclude is None else [exclude])]

        def ask(rows: np.ndarray, allowed: Ragged | None, excluded: Ragged) -> Any:
            if self.searcher is not None:
                states = self.states(items.take(rows), seconds=None if seconds is None else seconds.take(rows))
                return self.searcher.best(states, k, allow=allowed, exclude=excluded)
            size = sufficient(sizes, k, allowed, excluded)
            histories = self._histories(items, seconds, rows, size.users)
            return self.programs[TOP_K](self.params, histories, *self.program_lists(size, allowed, excluded))

        return self.listed(ask, items.lengths > 0, k, allow=allow, exclude=lists, sizes=sizes)

    def listed(
        self,
        ask: Callable[[Int[np.ndarray, " users"], Ragged | None, Ragged], Any],
        has_items: Bool[np.ndarray, " users"],
        k: int,
        *,
        allow: Ragged | None,
        exclude: Sequence[Ragged],
        sizes: Sequence[CallSizes] = (),
    ) -> tuple[Int32[np.ndarray, "users k"], Float[np.ndarray, "users k"]]:
        """Ids and scores that `ask(users, allow, exclude)` finds for some users; those without items get popular ones.

        What it finds may have more rows and columns.
        """
        n_users = len(has_items)
        ids, scores = np.zeros((n_users, k), np.int32), np.full((n_users, k), -np.inf, np.float32)
        under_way: list[tuple[np.ndarray, Any]] = []

        def finish() -> None:
            rows, results = under_way.pop(0)
            ids[rows], scores[rows] = (np.asarray(each)[: len(rows), :k] for each in results)

        most = max((each.users for each in sizes), default=users_per_call(self.facts.n_items))
        for rows in self._calls(has_items, exclude, allow, most=most):
            allowed = None if allow is None else allow.take(rows)
            excluded = unique_ids([each.take(rows) for each in exclude], len(rows))
            under_way.append((rows, ask(rows, allowed, excluded)))
            if len(under_way) > 1:  # while one call runs, the next is made ready
                finish()
        while under_way:
            finish()
        for row in np.flatnonzero(~has_items).tolist():
            candidates = None if allow is None else allow.row(row)
            others = np.concatenate([np.zeros(0, np.int32), *(each.row(row) for each in exclude)])
            listed = popular_items(self.by_popularity, k, allow=candidates, exclude=others)
            ids[row, : len(listed)] = listed
            scores[row, : len(listed)] = self.vocabulary.n_events[listed - 1]
        return ids, scores

    def program_lists(self, size: CallSizes, allowed: Ragged | None, excluded: Ragged) -> tuple[np.ndarray, ...]:
        """What programs take of the lists of a call's users, and of k."""
        places = np.zeros(min(size.k, self.facts.n_items), np.int8)
        return list_rows(allowed, size.users, size.allow), list_rows(excluded, size.users, size.exclude), places

    def states(self, items: Ragged, *, seconds: Ragged | None = None) -> Float[np.ndarray, "users d_model"]:
        """The vector of each history, of one known item at least.

        Its product with an item's vector is the item's score, except under a repeat mixture, where the items of the
        history score higher than that.
        """
        states = np.zeros((len(items.lengths), self.facts.d_model), np.float32)
        for rows in self._calls(items.lengths > 0, most=users_per_call(self.facts.n_items)):
            histories, params = self._histories(items, seconds, rows, power_of_two(len(rows))), self.params
            if self.searcher is not None:
                params, histories = self.searcher.with_own_rows(params, histories)
            encoded = self.programs[STATES](params, histories)
            states[rows] = np.asarray(encoded)[: len(rows)]
        return states

    def item_vectors(self) -> Float[np.ndarray, "n_items d_model"]:
        """The vector of each item, in the order of ids.

        Raises:
          InputError: the model composes the vectors that it reads, and scores by others.
        """
        if CONSTANTS in self.params:
            check_products(self.params, f"item vectors of {self.path}")
        items = slice(1, 1 + self.facts.n_items)
        return np.asarray(self.params[ITEM_TABLE])[items] if self.searcher is None else self.searcher.rows.read(items)

    def _calls(
        self, has_items: np.ndarray, lists: Sequence[Ragged] = (), allow: Ragged | None = None, *, most: int
    ) -> Iterator[np.ndarray]:
        """The users with items, at most `most` of whom share a call; those with short lists together.

        Whom `allow` leaves nothing is not among them.
        """
        widths = np.minimum(
            sum((each.lengths for each in lists), np.zeros(len(has_items), np.int64)), self.facts.n_items
        )
        is_asked = has_items
        if allow is not None:
            widths, is_asked = np.maximum(widths, allow.lengths), is_asked & (allow.lengths > 0)
        order = np.argsort(widths, kind="stable")
        order = order[is_asked[order]]
        start = 0
        while start < len(order):
            n = most
            while n > 1 and n * widths[order[min(start + n, len(order)) - 1]] > IDS_PER_CALL:
                n //= 2
            yield order[start : start + n]
            start += n

    def _histories(self, items: Ragged, seconds: Ragged | None, rows: np.ndarray, n_rows: int) -> dict[str, np.ndarray]:
        made = make_histories(
            items.take(rows),
            max_length=self.facts.max_length,
            times=self.facts.times,
            seconds=None if seconds is None else seconds.take(rows),
        )
        return {name: filled_up(values, n_rows) for name, values in made.as_dict().items()}


def load_bundle(path: Path | str, *, verify: bool = True, search: Search = "exact") -> Bundle:
    """The bundle in a directory that `experiments/export.py` wrote, which may be s3:// or gs://.

    Its functions take and return the data's own item keys: `load_bundle("bundle").recommend([["track-17"]], k=20)`.
    With `verify` all files are compared with their checksums first. `search` says how the best items are found: among
    all items, or, of a large catalogue, among candidates that int8 rows or the bundle's index propose; the scores are
    exact in each case. Programs are compiled when a shape is first asked for; jax keeps them between processes where
    JAX_COMPILATION_CACHE_DIR names a directory.

    >>> load_bundle("nowhere")
    Traceback (most recent call last):
    seqrec.types.InputError: nowhere holds no bundle; name the directory that experiments/export.py wrote

    Raises:
      InputError: there is no bundle, it is damaged, or its programs are of a version of jax that this one cannot read.
    """
    if search not in get_args(Search):
        raise InputError(f"search={search!r} is none of {', '.join(get_args(Search))}; use one of these")
    return open_bundle(*open_directory(path, verify=verify), name=address_of(path), search=search)


def open_bundle(directory: Path, facts: Facts, *, name: str | None = None, search: Search = "exact") -> Bundle:
    """The bundle in a local directory, whose manifest says these facts; messages call it by `name`."""
    path = str(directory) if name is None else name
    vocabulary = read_vocabulary(directory / ITEMS)
    params = read_weights(directory / WEIGHTS, without=None if search == "exact" else ITEM_TABLE)
    if (directory / CONSTANTS_FILE).is_file():
        params[CONSTANTS] = read_constants(directory / CONSTANTS_FILE)
    searcher = open_searcher(directory, facts.n_items, params, search, path=path)
    if len(vocabulary.keys) != facts.n_items:
        raise InputError(
            f"{path}: {MANIFEST} says {facts.n_items} items, {ITEMS} has {len(vocabulary.keys)}; export the run again"
        )
    bundle_params = params if searcher is None else {**params, ITEM_TABLE: searcher.rows.values}
    programs = {}
    for name in (TOP_K, STATES, *SESSION_PROGRAMS * facts.sessions) if searcher is None else (STATES,):
        exported = read_program(directory / name, facts, bundle_params, search=search, path=path)
        programs[name] = jax.jit(exported.call)
    return Bundle(
        path,
        facts,
        vocabulary,
        jax.device_put(params),
        Ids(vocabulary.keys),
        listed_first(vocabulary),
        programs,
        search,
        searcher,
    )
