"""The recipe: which settings suit which data, as a table of rules, and why.

`RULES` is the whole of it. docs/recipes.md says what its numbers were fitted on.
"""

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from seqrec.config import flag_name, leaves, to_json, values_of, with_values
from seqrec.data.own_shards import Gather, alone
from seqrec.data.repeated_targets import LARGE_SHARE, seen_before
from seqrec.data.splits import Split, target_positions
from seqrec.data.store import SequenceStore
from seqrec.files import JsonObject
from seqrec.types import InputError

Recipe = Literal["auto", "none"]

_MOST_TARGETS = 100_000
"""Validation targets of which is asked whether they were seen before."""


class Facts(NamedTuple):
    """What the recipe knows of the data, and of the machine."""

    n_users: int
    n_items: int
    n_events: int
    """Events of training."""
    mean_length: float
    median_length: int
    """Events of a history, all of them: what the model reads in the test."""
    long_length: int
    """99% of histories have at most as many events."""
    repeat_share: float
    """Validation targets that their user had seen before."""
    tie_share: float | None
    """Neighbouring events of a user at equal times; None where that was not counted."""
    split: str
    platform: str
    """cpu, gpu or tpu."""

    @property
    def events_per_item(self) -> float:
        """Events of training."""
        return self.n_events / self.n_items

    def __str__(self) -> str:
        return (
            f"{self.n_users:,} users, {self.n_items:,} items, {self.n_events:,} training events; histories of "
            f"{self.median_length} events (median), {self.mean_length:.1f} (mean), {self.long_length} (99%); "
            f"{100 * self.repeat_share:.0f}% of validation targets seen before; {self.platform}"
        )


def data_facts(
    store: SequenceStore,
    split: Split,
    *,
    preparation: Mapping[str, Any],
    name: str,
    platform: str,
    gather: Gather = alone,
) -> Facts:
    """The facts of a store under a split of this name; arrays over users are made, and none over events.

    Where each process has its own shards, they are those of all.

    >>> from seqrec.data.splits import leave_last_out
    >>> from seqrec.data.store import store_from_sequences
    >>> store = store_from_sequences([[1, 2, 3], [1, 2, 3, 4, 3], [4]])
    >>> facts = data_facts(store, leave_last_out(store), preparation={}, name="leave-last-out", platform="cpu")
    >>> facts.n_events, facts.mean_length, facts.median_length, facts.long_length, facts.repeat_share
    (5, 3.0, 3, 5, 0.0)
    """
    n_of_length = _total(gather(np.bincount(np.diff(store.offsets))))
    n_users, n_events = int(n_of_length.sum()), int(n_of_length @ np.arange(len(n_of_length)))
    places = [(n_users - 1) // 2, int(0.99 * (n_users - 1) + 0.5)]
    median, long = np.searchsorted(np.cumsum(n_of_length), places, side="right").tolist()
    targets, _ = target_positions(store, split)
    n_targets, n_trained = _total(gather(np.array([len(targets), np.sum(split.train_stop - store.offsets[:-1])])))
    seen = seen_before(store, targets[:: 1 + int(n_targets) // _MOST_TARGETS])
    n_seen, n_asked = _total(gather(np.array([seen.sum(), len(seen)])))
    return Facts(
        n_users,
        store.n_items,
        int(n_trained),
        n_events / n_users,
        median,
        long,
        float(n_seen / n_asked) if n_asked else 0.0,
        preparation.get("ties", {}).get("share_tied"),
        name,
        platform,
    )


def _total(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """The sum of arrays of different lengths, which begin at the same place."""
    total = np.zeros(max(map(len, arrays)), np.int64)
    for array in arrays:
        total[: len(array)] += array
    return total


# The table


When = Callable[[Facts, Any], bool]
"""Whether a rule holds: of the facts, and of the config that flags and the lines above it have made so far."""


class Rule(NamedTuple):
    """One line of the table: a value for a field, on which data, and why."""

    field: str
    """Dotted name in the config of a training script."""
    value: Any
    when: When
    why: str
    """In words; fields of `Facts` may stand in braces."""

    def reason(self, facts: Facts) -> str:
        """Why, with the facts' values."""
        return self.why.format(events_per_item=facts.events_per_item, **facts._asdict())


def _always(facts: Facts, config: Any) -> bool:
    return True


def _is_sparse(facts: Facts, config: Any) -> bool:
    return facts.events_per_item < 50


def _is_dense(facts: Facts, config: Any) -> bool:
    return facts.events_per_item >= 100


def _is_dense_off_cpu(facts: Facts, config: Any) -> bool:
    return _is_dense(facts, config) and facts.platform != "cpu"


def _is_cut(facts: Facts, config: Any) -> bool:
    data = config.training.data
    return data.whole_histories and facts.long_length > data.max_length


def _repeats(facts: Facts, config: Any) -> bool:
    return facts.repeat_share > LARGE_SHARE


def _may_repeat(facts: Facts, config: Any) -> bool:
    data = config.training.data
    return facts.repeat_share >= 0.02 and data.mask_seen == "no" and not data.split.holds_continuations


def _masks_seen(facts: Facts, config: Any) -> bool:
    return not _repeats(facts, config) and config.training.data.mask_seen != "no"


def _is_sampled(facts: Facts, config: Any) -> bool:
    return config.training.loss.loss == "sampled-softmax"


def _is_sampled_from_many(facts: Facts, config: Any) -> bool:
    return _is_sampled(facts, config) and facts.n_items >= 50_000


def _can_fuse(facts: Facts, config: Any) -> bool:
    return facts.n_items < 1_000_000 and not config.training.data.split.holds_continuations


def _both(first: When, second: When) -> When:
    return lambda facts, config: first(facts, config) and second(facts, config)


def _has_short_histories(facts: Facts, config: Any) -> bool:
    return facts.mean_length < 20 and facts.n_items < 50_000


def _items_from(low: int) -> When:
    return lambda facts, config: facts.n_items >= low


def _events_below(high: int) -> When:
    return lambda facts, config: facts.n_events < high


def _steps_below(high: int) -> When:
    """Of an epoch, about, with the batch size that is set by then."""

    def is_below(facts: Facts, config: Any) -> bool:
        data = config.training.data
        return facts.n_events / (data.batch_size * min(facts.mean_length, data.max_length)) < high

    return is_below


def _lengths_to(high: int) -> When:
    return lambda facts, config: facts.long_length <= high


DATA, LOSS, OPTIMIZER, FIT = "training.data.", "training.loss.", "training.optimizer.", "training.fit."

_FEW_STEPS = "few steps an epoch: validation needs many to tell a gain from noise"

RULES = (
    # Of several lines for one field, the first that fits the facts and the flags decides.
    Rule(DATA + "max_length", 20, _lengths_to(20), "99% of histories have up to {long_length} events"),
    Rule(DATA + "max_length", 30, _lengths_to(30), "99% of histories have up to {long_length} events"),
    Rule(DATA + "max_length", 50, _lengths_to(50), "99% of histories have up to {long_length} events"),
    Rule(DATA + "max_length", 100, _lengths_to(100), "99% of histories have up to {long_length} events"),
    Rule(DATA + "max_length", 200, _always, "1% of histories have more than {long_length} events"),
    Rule(DATA + "random_crops", True, _is_cut, "long histories are cut anew each epoch"),
    Rule(DATA + "batch_size", 32, lambda f, c: f.n_users < 2_000, "{n_users:,} users make few steps an epoch"),
    Rule(DATA + "batch_size", 64, lambda f, c: f.mean_length >= 50, "{mean_length:.0f} events a history fill a step"),
    Rule(DATA + "batch_size", 128, _always, "{mean_length:.1f} events a history: many fit in a step"),
    Rule(DATA + "mask_seen", "no", _repeats, "{repeat_share:.0%} of validation targets were seen before"),
    Rule(LOSS + "loss", "sampled-softmax", _items_from(50_000), "{n_items:,} items: to score all takes most of a step"),
    Rule(LOSS + "negatives", "popular", _is_sampled, "popular items are the hard negatives"),
    Rule(LOSS + "uniform_share", 0.5, _is_sampled, "half uniform, so that rare items are negatives too"),
    Rule(LOSS + "n_negatives", 4096, _is_sampled_from_many, "four times as many gained little"),
    Rule(LOSS + "repeat_mixture", True, _may_repeat, "{repeat_share:.0%} of validation targets were seen before"),
    Rule(LOSS + "seen_weight", 0.01, lambda f, c: _is_dense(f, c) and _masks_seen(f, c), "seen items are not ranked"),
    Rule(LOSS + "label_smoothing", 0.1, lambda f, c: f.n_items < 50_000, "many next items are as good as the target"),
    Rule(LOSS + "later_share", 0.1, _has_short_histories, "{mean_length:.1f} events a history teach more this way"),
    Rule("model.d_model", 192, _is_dense_off_cpu, "{events_per_item:.0f} training events per item, and a {platform}"),
    Rule("model.d_model", 128, _is_dense, "{events_per_item:.0f} training events per item carry the width"),
    Rule("model.d_model", 64, _items_from(1_000_000), "the table of {n_items:,} items is nearly all of the model"),
    Rule("model.d_model", 128, _items_from(50_000), "{n_items:,} items need the room"),
    Rule("model.d_model", 64, _always, "{events_per_item:.0f} training events per item: wider overfits"),
    Rule("model.n_heads", 4, _is_dense_off_cpu, "heads of 48 numbers"),
    Rule("model.n_blocks", 4, _is_dense_off_cpu, "depth gains a little, with gates"),
    Rule("model.gated", True, _is_dense_off_cpu, "depth gains a little, with gates"),
    Rule("model.dropout", 0.3, _is_dense_off_cpu, "wide and deep"),
    Rule("model.dropout", 0.25, _is_dense, "{events_per_item:.0f} training events per item, too many to memorise"),
    Rule("model.dropout", 0.4, _items_from(50_000), "{events_per_item:.0f} training events per item"),
    Rule("model.dropout", 0.5, _is_sparse, "{events_per_item:.0f} training events per item, few enough to memorise"),
    Rule(OPTIMIZER + "learning_rate", 0.003, _is_dense_off_cpu, "with more weight decay"),
    Rule(OPTIMIZER + "weight_decay", 0.3, _is_dense_off_cpu, "holds the width"),
    Rule(OPTIMIZER + "weight_decay", 0.2, _is_dense, "holds the width"),
    Rule("training.fuse", ("markov", "item-kNN", "slim"), _can_fuse, "counts of what follows an item add to any model"),
    Rule(OPTIMIZER + "schedule", "plateau", _always, "how long to train is for validation to say"),
    Rule(FIT + "max_epochs", 35, _both(_is_dense_off_cpu, _events_below(20_000_000)), "an epoch takes seconds"),
    Rule(FIT + "max_epochs", 25, _both(_is_dense, _events_below(2_000_000)), "about an hour on 2 CPU cores"),
    Rule(FIT + "max_epochs", 250, _events_below(60_000), "{n_events:,} training events make short epochs"),
    Rule(FIT + "max_epochs", 80, _events_below(500_000), "{n_events:,} training events make short epochs"),
    Rule(FIT + "max_epochs", 12, _events_below(4_000_000), "{n_events:,} training events: an epoch teaches much"),
    Rule(FIT + "max_epochs", 6, _events_below(10_000_000), "{n_events:,} training events: an epoch teaches much"),
    Rule(FIT + "max_epochs", 3, _events_below(50_000_000), "{n_events:,} training events: an epoch takes long"),
    Rule(FIT + "max_epochs", 1, _always, "{n_events:,} training events: an epoch takes hours on a CPU"),
    Rule(FIT + "patience", 40, _steps_below(50), _FEW_STEPS),
    Rule(FIT + "patience", 10, _steps_below(300), _FEW_STEPS),
)


# How it is applied


class Recommended(NamedTuple):
    """A config with the recipe's values, and the reason of each."""

    config: Any
    reasons: Mapping[str, str]
    """By the dotted name of the field, in the order of the table."""

    def lines(self) -> list[str]:
        """A line for each value: its flag, and why."""
        values = values_of(self.config, self.reasons)
        return [f"{as_flag(name, values[name])}: {why}" for name, why in self.reasons.items()]


def recommended(
    config: Any, facts: Facts, *, given: Collection[str] = (), rules: Sequence[Rule] = RULES
) -> Recommended:
    """The config of a training script with the recipe's value in each field that nobody has set.

    Fields in `given`, and those whose value is not their default, stay. A rule whose value the config refuses beside
    them gives way.

    >>> from seqrec.encoders.transformer import TransformerConfig
    >>> beauty = Facts(22_363, 12_101, 153_776, 8.9, 6, 43, 0.0, None, "leave-last-out", "cpu")
    >>> rule = Rule("dropout", 0.5, lambda facts, config: facts.events_per_item < 50, "{n_items:,} items")
    >>> recommendation = recommended(TransformerConfig(), beauty, rules=[rule])
    >>> recommendation.config.dropout, recommendation.lines()
    (0.5, ['--dropout 0.5: 12,101 items'])
    """
    reasons: dict[str, str] = {}
    for rule in rules:
        if rule.field in reasons or is_kept(config, rule.field, given):
            continue
        if rule.when(facts, config):
            try:
                config = with_values(config, {rule.field: rule.value})
            except ValueError:  # by other fields, which are given
                continue
            reasons[rule.field] = rule.reason(facts)
    return Recommended(config, reasons)


def is_kept(config: Any, name: str, given: Collection[str] = ()) -> bool:
    """Whether a field was set on purpose: it is among those `given`, or does not have its default."""
    *outer, last = name.split(".")
    part = functools.reduce(getattr, outer, config)
    return name in given or bool(getattr(part, last) != getattr(type(part), last))


def as_flag(name: str, value: Any) -> str:
    """A field and its value as words of a command line.

    >>> as_flag("model.dropout", 0.5), as_flag("training.data.random_crops", True), as_flag("training.fuse", ())
    ('--dropout 0.5', '--random-crops', '--fuse')
    """
    if isinstance(value, bool):
        return f"--{'' if value else 'no-'}{flag_name(name)}"
    if isinstance(value, tuple | list):
        return " ".join([f"--{flag_name(name)}", *map(str, value)])
    return f"--{flag_name(name)} {value}"


def fields_given(config: Any, arguments: Sequence[str]) -> frozenset[str]:
    """The dotted names of the fields whose flags stand among the words of a command line.

    >>> from seqrec.training import OptimizerConfig
    >>> sorted(fields_given(OptimizerConfig(), ["--b2", "0.9", "--clip_norm=1", "cosine"]))
    ['b2', 'clip_norm']
    """
    flags = {word[2:].partition("=")[0].replace("_", "-") for word in arguments if word.startswith("--")}
    flags |= {flag.removeprefix("no-") for flag in flags}
    return frozenset(name for name, _ in leaves(to_json(config)) if flag_name(name) in flags)


def check_no_recipe(config: Any, what: str) -> None:
    """Refuses `recipe=auto` where configs must say themselves what is trained."""
    if getattr(config, "recipe", "none") != "none":
        raise InputError(
            f"{what} trains what its flags say; leave --recipe out, and give the flags that a run with it has printed"
        )


def record_of(facts: Facts, recommendation: Recommended) -> JsonObject:
    """What `config.json` keeps of a recipe: the facts, the values, and the reason of each."""
    return {
        "facts": {**facts._asdict(), "events_per_item": facts.events_per_item},
        "values": values_of(recommendation.config, recommendation.reasons),
        "reasons": dict(recommendation.reasons),
    }
