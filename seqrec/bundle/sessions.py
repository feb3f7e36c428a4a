"""The state of recent users in memory, so that one more event of a user is one step and not a new reading."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqrec.bundle.calls import CallSizes, filled_up, sufficient, users_per_call
from seqrec.bundle.files import APPEND, START, STATE_TOP_K
from seqrec.bundle.histories import Ragged, make_histories, ragged
from seqrec.bundle.loading import Answers, Bundle
from seqrec.bundle.requests import Keys, ids_of, seconds_of
from seqrec.types import InputError, Params

MAX_APPENDED = 8
"""More new events than these are read with their whole history, at once, rather than one after another."""


class UnknownSessionError(InputError):
    """Users without a session, who came without a history."""

    def __init__(self, users: Sequence[str]):
        more = f" and {len(users) - 1} more users" if len(users) > 1 else ""
        super().__init__(f"no session is kept of user {users[0]!r}{more}; give the whole history")
        self.users = list(users)


@dataclass
class _Session:
    """What the host keeps of a session; its state is a row of the store."""

    row: int
    items: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    """The newest ids, as many as the model reads."""
    seconds: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """Of the same items, where times are read."""
    seen: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    """Each id of the whole history once."""
    n_unknown: int = 0


class Sessions:
    """The latest users of a bundle, each with the state after their history.

    Answers are those of `Bundle.recommend` on the whole history. One more event costs one step of the model. Once a
    history is as long as the model reads, each event pushes the oldest out and so changes the state of all others:
    the newest items are then read anew, which costs what it costs without sessions. One thread at a time may ask.

    Raises:
      InputError: the bundle's model cannot read event by event, or there is to be no session.
    """

    def __init__(self, bundle: Bundle, n_sessions: int, *, sizes: Sequence[CallSizes] = ()):
        if not bundle.facts.sessions:
            raise InputError(
                f"{bundle.path} has no sessions: it was exported before there were any (renew it by experiments/"
                "export.py --refresh), or its model reads later events, the query's time, repeats or tables; leave "
                "sessions out"
            )
        if bundle.search != "exact":
            raise InputError(f"sessions need search=exact, not {bundle.search}, whose item table stays on disk")
        if n_sessions < 1:
            raise InputError(f"n_sessions={n_sessions} is below 1; keep at least as many as users ask at once")
        self.bundle = bundle
        self.n_sessions = n_sessions
        self._sizes = sizes  # see Bundle.top_ids
        one = ragged([[1]], np.int64)
        example = make_histories(one, max_length=bundle.facts.max_length, times=bundle.facts.times, seconds=one)
        states, cache = jax.eval_shape(bundle.programs[START], bundle.params, example.as_dict())
        self._shapes = {"states": states, "cache": cache}
        host_bytes = bundle.facts.max_length * (12 if bundle.facts.times != "none" else 4)
        self.bytes_per_session: int = host_bytes + sum(
            leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(self._shapes)
        )
        """Bytes of a session, beside the ids of all items that the user has seen."""
        self._compile()
        self.clear()

    def _compile(self) -> None:
        programs = self.bundle.programs

        # The store is donated: else each call would copy the state of all sessions to change a few.
        def start(store: Any, params: Params, rows: Any, histories: Any) -> Any:
            states, cache = programs[START](params, histories)
            new = {"states": states, "cache": cache}
            return jax.tree.map(lambda kept, each: kept.at[rows].set(each), store, new)

        def append(store: Any, params: Params, rows: Any, events: Any) -> Any:
            states, cache = programs[APPEND](params, store["cache"], rows, events)
            return {"states": store["states"].at[rows].set(states), "cache": cache}

        def top_k(states: Any, params: Params, rows: Any, *lists: Any) -> Any:
            return programs[STATE_TOP_K](params, states[rows], *lists)

        self._start, self.compiled_append = jax.jit(start, donate_argnums=0), jax.jit(append, donate_argnums=0)
        self._top_k = jax.jit(top_k)

    def __len__(self) -> int:
        """Number of sessions that are kept."""
        return len(self._kept)

    def clear(self) -> None:
        """Forgets all sessions."""
        self._kept: OrderedDict[str, _Session] = OrderedDict()  # the one that was asked for longest ago comes first
        self._store = self.empty_store()

    def empty_store(self) -> Any:
        """The arrays of `n_sessions` states, before any history is read."""
        return jax.tree.map(lambda leaf: jnp.zeros((self.n_sessions, *leaf.shape[1:]), leaf.dtype), self._shapes)

    def recommend(
        self,
        users: Sequence[str],
        events: Sequence[Keys],
        k: int = 20,
        *,
        histories: Sequence[Keys | None] | None = None,
        exclude: Keys | Sequence[Keys] | None = None,
        allow: Keys | Sequence[Keys] | None = None,
        times: Sequence[Sequence[int | float]] | None = None,
        mask_seen: bool | None = None,
    ) -> Answers:
        """The `k` best next items of each user, once `events`, a list of item keys each, have followed their history.

        A history that is not None starts the user's session or replaces it; None goes on from what is kept. `times`,
        where the model reads them, are seconds since 1970 of the history, if one is given, and then of the events. A
        user may be named several times; requests are answered in order. The rest is as in `Bundle.recommend`, and
        `n_unknown` counts those of the whole history. Sessions beyond `n_sessions` are dropped, the one that was asked
        for longest ago first.

        Raises:
          UnknownSessionError: users are named in `users` of whom neither a session is kept nor a history given.
          InputError: a request cannot be used, or has more users than there are sessions. No session has changed.
        """
        bundle = self.bundle
        bundle.check_k(k)
        given: Sequence[Keys | None] = [None] * len(users) if histories is None else histories
        self._check_users(users, events, given)
        allowed, excluded = bundle.candidates(len(users), allow=allow, exclude=exclude)
        past = ids_of([[] if each is None else each for each in given], bundle.ids, name="histories")[0]
        new = ids_of(events, bundle.ids, name="events")[0]
        items = ragged([np.concatenate([past.row(user), new.row(user)]) for user in range(len(users))], np.int32)
        seconds = seconds_of(times, items, reads=bundle.facts.times, name=bundle.path)
        self._check_times(users, given, seconds)
        mask_seen = bundle.facts.mask_seen if mask_seen is None else mask_seen
        ids, scores = np.zeros((len(users), k), np.int32), np.zeros((len(users), k), np.float32)
        n_unknown, is_popular = np.zeros(len(users), np.int64), np.zeros(len(users), bool)
        for user in users:
            if user in self._kept:
                self._kept.move_to_end(user)  # so that none of them is dropped for another of them
        try:
            for turn in _turns(users):
                sessions = self._read(users, given, items, seconds, turn)
                lists = [] if excluded is None else [excluded.take(turn)]
                if mask_seen:
                    lists.append(ragged([session.seen for session in sessions], np.int32))
                rows = np.array([session.row for session in sessions], np.int32)

                def ask(places: np.ndarray, allowed: Any, excluded: Ragged, rows: np.ndarray = rows) -> Any:
                    size = sufficient(self._sizes, k, allowed, excluded)
                    lists = bundle.program_lists(size, allowed, excluded)
                    session_rows = filled_up(rows[places], size.users)
                    return self._top_k(self._store["states"], bundle.params, session_rows, *lists)

                has_items = np.array([len(session.items) > 0 for session in sessions])
                allowed_now = None if allowed is None else allowed.take(turn)
                ids[turn], scores[turn] = bundle.listed(
                    ask, has_items, k, allow=allowed_now, exclude=lists, sizes=self._sizes
                )
                n_unknown[turn] = [session.n_unknown for session in sessions]
                is_popular[turn] = ~has_items
        except BaseException:
            self.clear()  # host and store may differ now
            raise
        return bundle.answers(ids, scores, n_unknown=n_unknown, is_popular=is_popular)

    def _check_users(self, users: Sequence[str], events: Sequence[Keys], given: Sequence[Keys | None]) -> None:
        if not len(users) == len(events) == len(given):
            raise InputError(
                f"there are {len(users)} users, {len(events)} lists of events and {len(given)} histories; give one each"
            )
        if (n_users := len(set(users))) > self.n_sessions:
            raise InputError(f"{n_users} users ask at once, of {self.n_sessions} sessions; keep more, or ask for fewer")
        known: set[str] = set()
        missing: dict[str, None] = {}
        for user, history in zip(users, given, strict=True):
            if history is not None:
                known.add(user)
            elif user not in known and user not in self._kept:
                missing[user] = None
        if missing:
            raise UnknownSessionError(list(missing))

    def _check_times(self, users: Sequence[str], given: Sequence[Keys | None], seconds: Ragged | None) -> None:
        """Refuses events that come before those that their session has."""
        if seconds is None:
            return
        latest: dict[str, int] = {}
        for place, (user, history) in enumerate(zip(users, given, strict=True)):
            session_seconds = seconds.row(place)
            if user in self._kept and user not in latest and self._kept[user].seconds.size:
                latest[user] = int(self._kept[user].seconds[-1])
            if history is None and session_seconds.size and session_seconds[0] < latest.get(user, 0):
                raise InputError(f"times[{place}] begins before the latest event of {user!r}; give events in order")
            if session_seconds.size:
                latest[user] = int(session_seconds[-1])

    def _read(
        self,
        users: Sequence[str],
        given: Sequence[Keys | None],
        items: Ragged,
        seconds: Ragged | None,
        turn: np.ndarray,
    ) -> list[_Session]:
        """The sessions of some requests, each of another user, once their events are read."""
        reads = self.bundle.facts.max_length
        sessions, reread, steps = [], [], []
        for place in turn.tolist():
            session = self._kept[users[place]] if given[place] is None else self._new_session(users[place])
            sessions.append(session)
            new, n_before = items.row(place), len(session.items)
            is_known = new > 0
            known = new[is_known]
            session.n_unknown += len(new) - len(known)
            if not len(known):
                continue
            session.items = np.concatenate([session.items, known])[-reads:]
            session.seen = np.union1d(session.seen, known)
            if seconds is not None:
                session.seconds = np.concatenate([session.seconds, seconds.row(place)[is_known]])[-reads:]
            if n_before and n_before + len(known) <= reads and len(known) <= MAX_APPENDED:
                steps += [(step, session, n_before + step) for step in range(len(known))]
            else:
                reread.append(session)
        for some in self._calls(reread):
            self._start_some(some)
        for step in range(max((step for step, *_ in steps), default=-1) + 1):
            for some in self._calls([(session, column) for each, session, column in steps if each == step]):
                self._append_some(some)
        return sessions

    def _new_session(self, user: str) -> _Session:
        """In the row of the user's older session, or in one that is free or becomes so."""
        if (older := self._kept.pop(user, None)) is not None:
            row = older.row
        elif len(self._kept) < self.n_sessions:
            row = len(self._kept)
        else:
            row = self._kept.popitem(last=False)[1].row
        self._kept[user] = _Session(row)
        return self._kept[user]

    def _calls(self, each: list[Any]) -> Iterator[list[Any]]:
        most = users_per_call(self.bundle.facts.n_items)
        return (each[start : start + most] for start in range(0, len(each), most))

    def _start_some(self, sessions: list[_Session]) -> None:
        facts = self.bundle.facts
        histories = make_histories(
            ragged([session.items for session in sessions], np.int32),
            max_length=facts.max_length,
            times=facts.times,
            seconds=ragged([session.seconds for session in sessions], np.int64),
        )
        rows = filled_up(np.array([session.row for session in sessions], np.int32))
        given = {name: filled_up(values) for name, values in histories.as_dict().items()}
        self._store = self._start(self._store, self.bundle.params, rows, given)

    def _append_some(self, steps: list[tuple[_Session, int]]) -> None:
        """Appends the items at these columns of sessions."""
        rows = filled_up(np.array([session.row for session, _ in steps], np.int32))
        events = {"items": filled_up(np.array([session.items[column] for session, column in steps], np.int32))}
        if self.bundle.facts.times != "none":
            since_first = [session.seconds[column] - session.seconds[0] for session, column in steps]
            events["times"] = filled_up(np.clip(since_first, 0, np.iinfo(np.int32).max).astype(np.int32))
        self._store = self.compiled_append(self._store, self.bundle.params, rows, events)


def _turns(users: Sequence[str]) -> Iterator[np.ndarray]:
    """The places of each user's first request, then of each second one, and so on."""
    n_before: dict[str, int] = {}
    turns = np.zeros(len(users), np.int64)
    for place, user in enumerate(users):
        turns[place] = n_before.get(user, 0)
        n_before[user] = n_before.get(user, 0) + 1
    return (np.flatnonzero(turns == turn) for turn in range(max(turns, default=-1) + 1))
