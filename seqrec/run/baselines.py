"""The baselines beside a model: which of them a run can afford, and their ranks on its test queries."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, cast, get_args

from seqrec.baselines.costs import Cost, estimated_cost
from seqrec.baselines.fitted import DEFAULT, BaselineName, BaselinesConfig, fit_baseline
from seqrec.data.store import SequenceStore
from seqrec.evaluation import RankTable, Report, no_report, rank_table
from seqrec.phases import duration
from seqrec.run.data import Task

BaselineChoice = Literal["auto", BaselineName]

POPULARITIES: tuple[BaselineName, ...] = ("popularity", "personal popularity")
CHEAP: tuple[BaselineName, ...] = (
    *POPULARITIES,
    "first-order Markov",
    "skip-gram Markov",
    "item-kNN",
    "VS-SkNN",
    "STAN",
)
"""Those that auto takes where they are affordable, in the order in which the budget is spent."""
NEED_TIMES: tuple[BaselineName, ...] = ("recent popularity", "VS-SkNN", "STAN")

SHARE = 0.1
"""Of the time of training, at most, that auto spends on baselines."""
LEAST_SECONDS = 2.0
"""That auto may spend, however short the training."""
MOST_BYTES = 4e9
"""That a baseline may take under auto."""


class ChosenBaselines(NamedTuple):
    """Which baselines a run tests, and why it leaves others out."""

    names: tuple[BaselineName, ...]
    left_out: dict[str, str]
    """Reason by name."""


def choose_baselines(
    task: Task, choices: Sequence[BaselineChoice], *, train_seconds: float, config: BaselinesConfig = DEFAULT
) -> ChosenBaselines:
    """The baselines that are named, and with `auto` those whose estimated costs a run of `train_seconds` affords.

    A baseline that weighs by time is left out where the data have times that the run's store lacks: it would not be the
    baseline of that name.
    """
    names: list[BaselineName] = []
    left_out = {}
    seconds_left = max(LEAST_SECONDS, SHARE * train_seconds)
    named = tuple(cast(BaselineName, name) for name in choices if name != "auto")
    for name in get_args(BaselineName):
        if name not in named and not ("auto" in choices and name in CHEAP):
            continue
        if task.test.whole is not None and name not in POPULARITIES:
            left_out[name] = "it reads all shards, and with --shards own a process reads its own alone"
            continue
        if name in NEED_TIMES and lacks_times(task):
            left_out[name] = "this run's store lacks the times of the data; experiments/baselines.py reads them"
            continue
        if name not in named:
            cost = estimated_cost(
                name, task.store, task.split, task.test.history_lengths, counts=task.counts, config=config
            )
            if reason := _too_much(cost, seconds_left=seconds_left, train_seconds=train_seconds):
                left_out[name] = f"{reason}; --baselines auto {_quoted(name)} tests it too"
                continue
            seconds_left -= cost.seconds
        names.append(name)
    return ChosenBaselines(tuple(names), left_out)


def _too_much(cost: Cost, *, seconds_left: float, train_seconds: float) -> str:
    if cost.n_bytes > MOST_BYTES:
        return f"about {cost.n_bytes / 1e9:.0f} GB of memory"
    if cost.seconds > seconds_left:
        return f"about {duration(cost.seconds)}, where a tenth of training's {duration(train_seconds)} is to suffice"
    return ""


def _quoted(name: str) -> str:
    return f"'{name}'" if " " in name else name


def lacks_times(task: Task) -> bool:
    """Whether the data may have times that the task's store was prepared without."""
    config = task.config
    of_lists = config.dataset in ("sasrec", "s3rec", "store") or config.columns[2] == "none"
    return "timestamp_us" not in task.store.columns and not of_lists


def baseline_ranks(
    task: Task,
    name: BaselineName,
    *,
    config: BaselinesConfig = DEFAULT,
    store_with_times: SequenceStore | None = None,
    report: Report = no_report,
) -> RankTable:
    """Ranks of the test items by a baseline, which is fitted here: on the same queries and candidates as a model's.

    Where each process has queries of its own, all must ask at once, for a baseline that is fitted on `counts` alone.

    Raises:
      InputError: the baseline cannot be fitted; see `fit_baseline`.
    """
    rank = fit_baseline(name, task.store, task.split, config, store_with_times=store_with_times, counts=task.counts)
    ranks_and_counts = rank(task.test.target_positions, task.mask_seen, report)
    return rank_table(
        task.test, *(ranks_and_counts if task.test.whole is None else map(task.test.whole.gathered, ranks_and_counts))
    )
