"""The config of a run's split."""

import contextlib
import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from seqrec.config import changed_fields, check_at_least, check_fields, check_share
from seqrec.data.moments import moment_us
from seqrec.data.paths import as_input_error
from seqrec.data.splits import (
    Split,
    TargetChoice,
    ask_every,
    check_no_leakage,
    leave_last_n_out,
    leave_last_sessions_out,
    marked_users_held_out,
    temporal,
    users_held_out,
    window_starts,
    with_content_hash,
)
from seqrec.data.store import SequenceStore
from seqrec.data.stored_splits import read_split, split_directory, with_training_counts, write_split
from seqrec.types import InputError

WindowTarget = Literal[TargetChoice, "every"]


@dataclass(frozen=True)
class SplitConfig:
    """Which events are for training, for validation and for the test."""

    split: Literal["auto", "leave-last-out", "temporal", "users", "marked-users", "sessions"] = "auto"
    """What is held out. auto: for a store, the split that it was prepared with, changed by the other split flags that
    are given; otherwise leave-last-out. leave-last-out: each user's last n-out events. temporal: all events after two
    points in time. users: all events of randomly drawn users. marked-users: all events of the users that the data's
    column part marks as test. sessions: each user's last n-out sessions."""
    n_out: int = 1
    """For leave-last-out and sessions: number of each user's events or sessions for the test, and of those before them
    for validation."""
    valid_share: float = 0.1
    """Share for validation: of events (temporal) or of users (users, marked-users)."""
    test_share: float = 0.1
    """Share for the test: of events (temporal) or of users (users)."""
    valid_start: str | None = None
    """For temporal, instead of valid-share: ISO date or time (UTC) at which validation starts."""
    test_start: str | None = None
    """For temporal, instead of test-share: ISO date or time (UTC) at which the test starts."""
    window_target: WindowTarget = "last"
    """Which of a user's held-out events to predict: the last, the first or every one; first is not available for users
    and marked-users."""
    valid_newest: bool = False
    """For marked-users: validate on the last of the unmarked users in the order of the data, such as the newest
    sessions, instead of on randomly drawn ones."""
    split_seed: int = 0
    """For users and marked-users: random seed that draws the held-out users."""

    def __post_init__(self):
        check_fields(self)
        check_at_least(self, 1, "n_out")
        check_share(self, "valid_share", "test_share", zero=False, one=False)
        if self.split in ("users", "marked-users") and self.window_target == "first":
            raise ValueError(
                f"window_target=first with split={self.split}: nothing precedes a first event; take last or every"
            )
        if self.valid_newest and self.split not in ("auto", "marked-users"):
            raise ValueError(f"valid_newest is for split=marked-users, not {self.split}; leave it out, or try temporal")
        if self.valid_share + self.test_share >= 1:
            raise ValueError(
                f"valid_share={self.valid_share} and test_share={self.test_share} leave nothing to train on; "
                "give shares that add up to less than 1"
            )
        if (self.valid_start is None) != (self.test_start is None):
            raise ValueError(
                f"valid_start={self.valid_start} without test_start={self.test_start}; give both or neither"
            )
        moments = [moment_us(moment) for moment in (self.valid_start, self.test_start) if moment is not None]
        if moments and moments[0] >= moments[1]:
            raise ValueError(f"valid_start={self.valid_start} is not before test_start={self.test_start}; swap them")

    @property
    def holds_continuations(self) -> bool:
        """Whether what is held out goes on for n-out items from each target."""
        return self.split in ("auto", "leave-last-out") and self.window_target == "first" and self.n_out > 1


LEAVE_LAST_OUT = SplitConfig(split="leave-last-out")


class ChosenSplit(NamedTuple):
    """The split of a run, and a note that says why it is this one, "" where there is no choice."""

    config: SplitConfig
    note: str = ""


def choose_split(given: SplitConfig, stored: SplitConfig | None = None) -> ChosenSplit:
    """`given`; where it is auto, the split `stored` with a store, or leave-last-out, with the other fields given.

    >>> stored = SplitConfig(split="temporal", test_share=0.2)
    >>> choose_split(SplitConfig(window_target="every"), stored).note
    'as the store was prepared, but window_target=every'
    >>> choose_split(SplitConfig(split="users"), stored).note
    'by the flags; the store was prepared with split=temporal, test_share=0.2'
    """
    if given.split != "auto":
        note = "" if stored in (None, given) else f"by the flags; the store was prepared with {_shown(stored)}"
        return ChosenSplit(given, note)
    changed = {name: value for name, value in changed_fields(given).items() if name != "split"}
    with as_input_error("{error}", ValueError):
        config = dataclasses.replace(stored or LEAVE_LAST_OUT, **changed)
    if stored is None:
        return ChosenSplit(config)
    differs = f", but {_shown(given)}" if config != stored else ""
    return ChosenSplit(config, f"as the store was prepared{differs}")


def stored_split(preparation: Mapping[str, Any]) -> SplitConfig | None:
    """The split in a store's `preparation`; None where there is none.

    Raises:
      InputError: it cannot be read.
    """
    if "split" not in preparation:
        return None
    known = {field.name for field in dataclasses.fields(SplitConfig)}
    complaint = "the store's split cannot be read ({error}); prepare all events again"
    with as_input_error(complaint, TypeError, ValueError, AttributeError):
        return SplitConfig(**{name: value for name, value in preparation["split"].items() if name in known})


def _shown(config: SplitConfig) -> str:
    return ", ".join(f"{name}={value}" for name, value in changed_fields(config).items())


def split_store(store: SequenceStore, config: SplitConfig, *, made: Split | None = None) -> Split:
    """The split that the config describes, once it is found to leak nothing; auto is leave-last-out here.

    With a store on disk it is kept, and its training counts with it, so that they are worked out once. `made` is what
    `make_split` made of the same events, if it did before their content hash was known.

    Raises:
      InputError: it cannot be made of this store, or only some shards were opened and the store does not keep it.
    """
    is_auto = {"split": LEAVE_LAST_OUT.split} if config.split == "auto" else {}
    directory = split_directory(store, dataclasses.asdict(config) | is_auto)
    kept = None if directory is None else read_split(directory, store.own)
    if kept is not None and (store.own is None or kept.training_counts is not None):
        return kept
    if store.own is not None:
        raise InputError(
            f"{store.directory} keeps no split by {_shown(config)} of these events (an append removes that of those "
            "before it), and to make one takes all shards; prepare the data with these split flags, or use --shards all"
        )
    split = make_split(store, config) if made is None else with_content_hash(store, made)
    if directory is not None and os.access(directory.parents[2], os.W_OK):
        split = with_training_counts(store, split)
        with contextlib.suppress(OSError):  # without it the next process works the split out again
            write_split(directory, split)
    return split


def make_split(store: SequenceStore, config: SplitConfig) -> Split:
    """As `split_store`, worked out anew and not kept.

    Raises:
      InputError: it cannot be made of this store.
    """
    target: TargetChoice = "first" if config.window_target == "first" else "last"
    if config.split == "temporal":
        if config.valid_start is not None and config.test_start is not None:
            valid_start, test_start = moment_us(config.valid_start), moment_us(config.test_start)
        else:
            valid_start, test_start = window_starts(store, config.valid_share, config.test_share)
        split = temporal(store, valid_start, test_start, window_target=target)
    elif config.split == "users":
        split = users_held_out(store, config.valid_share, config.test_share, seed=config.split_seed)
    elif config.split == "marked-users":
        split = marked_users_held_out(
            store, config.valid_share, seed=None if config.valid_newest else config.split_seed
        )
    elif config.split == "sessions":
        split = leave_last_sessions_out(store, config.n_out, target=target)
    else:
        split = leave_last_n_out(store, config.n_out, target=target)
    check_no_leakage(store, split, is_temporal=config.split == "temporal")
    return ask_every(store, split) if config.window_target == "every" else split
