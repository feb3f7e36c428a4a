"""Facts about requests of users whose state is kept, by sessions that keep histories alone."""

from bundle.small_bundles import loaded

from seqrec.bundle.sessions import UnknownSessionError
from seqrec.serve.sessions import SessionRequest, SessionsLane
from seqrec.types import InputError


class Histories:
    """Sessions that read each history anew, and remember how many requests shared each call."""

    bytes_per_session = 0

    def __init__(self):
        self.kept, self.n_together = {}, []

    def recommend(self, users, events, k, *, histories, **lists):
        self.n_together.append(len(users))
        pairs = list(zip(users, histories, strict=True))
        started = {user for user, history in pairs if history is not None}
        if missing := [user for user, _ in pairs if user not in self.kept and user not in started]:
            raise UnknownSessionError(missing)
        kept, read = dict(self.kept), []
        for (user, history), new in zip(pairs, events, strict=True):
            kept[user] = [*(kept[user] if history is None else history), *new]
            read.append(kept[user])
        answers = loaded().recommend(read, k, **lists)
        self.kept = kept
        return answers

    def clear(self):
        self.kept = {}


def test_a_user_without_a_session_is_refused_and_the_others_are_answered():
    lane = SessionsLane(Histories(), most=8)
    started, unknown, second = lane.call(
        [
            SessionRequest("a", ["track-2"], 4, history=["track-1"]),
            SessionRequest("b", ["track-3"], 4),
            SessionRequest("c", [], 2, history=["track-5"]),
        ]
    )
    (further,) = lane.call([SessionRequest("a", ["track-3"], 4)])
    assert unknown.status == 409
    assert "'b'" in str(unknown)
    assert started.items == loaded().recommend([["track-1", "track-2"]], 4).items
    assert second.items == loaded().recommend([["track-5"]], 2).items
    assert further.items == loaded().recommend([["track-1", "track-2", "track-3"]], 4).items


def test_a_request_that_cannot_be_used_is_refused_alone():
    lane = SessionsLane(Histories(), most=8)
    wrong, right = lane.call(
        [
            SessionRequest("a", [], 3, history=["track-1"], allow=["zzz"]),
            SessionRequest("b", [], 3, history=["track-1"], allow=["track-7", "track-8"]),
        ]
    )
    assert isinstance(wrong, InputError)
    assert right.items == loaded().recommend([["track-1"]], 3, allow=["track-7", "track-8"]).items


def test_requests_of_one_kind_share_a_call_and_keep_their_order():
    sessions = Histories()
    lane = SessionsLane(sessions, most=8)
    answers = lane.call(
        [
            SessionRequest("a", ["track-2"], 3, history=["track-1"], exclude=["track-9"]),
            SessionRequest("a", ["track-3"], 3),
            SessionRequest("b", ["track-3"], 3, history=[], mask_seen=False),
        ]
    )
    assert sessions.n_together == [2, 1]
    assert answers[1].items == loaded().recommend([["track-1", "track-2", "track-3"]], 3).items
    assert answers[2].items == loaded().recommend([["track-3"]], 3, mask_seen=False).items
