"""A search by trials, kept in a journal that several processes may share and any of them may leave at any time."""

import contextlib
import fcntl
import math
import os
import uuid
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from seqrec import runtime
from seqrec.config import Choices, Range, Values, check_at_least, check_fields, flag_name
from seqrec.tuning.space import Space
from seqrec.types import InputError

Course = Generator[list[float], Sequence[int], None]
"""Several models in training: yields after each epoch the validation NDCG@10 of each, and is sent the places, in
that list, of those to train on."""


@dataclass(frozen=True)
class TuneConfig:
    """Which hyper-parameters to search, and for how long."""

    search: tuple[str, ...] = ()
    """Flags to search, each as name=low..high, name=low..high:log or name=a,b,c, such as learning-rate=1e-4..1e-2:log.
    These are added to the flags that have a default search range, or replace its range."""
    hold: tuple[str, ...] = ()
    """Flags with a default search range that are not searched and keep their value."""
    n_trials: int = 6
    """Total number of trials, over all processes that share the search."""
    tuning_minutes: float = 0.0
    """Start no new trial after this time; 0 means no limit."""
    population: int = 1
    """Number of trials that are trained together in one compiled step; they may differ only in numbers that change no
    array's shape, such as learning-rate and dropout."""
    reduction: int = 3
    """Successive halving (ASHA): after 1, r, r^2, ... epochs about one in r trials continues; this is r."""

    def __post_init__(self):
        check_fields(self)
        check_at_least(self, 1, "n_trials", "population")
        check_at_least(self, 2, "reduction")
        check_at_least(self, 0, "tuning_minutes")


_MOST_STARTS = 3
"""A trial whose process is killed this many times, perhaps by lack of memory, counts as failed."""


class Search(NamedTuple):
    """An open search, as one of its processes sees it."""

    journal: Any
    """The `optuna.Study`."""
    directory: Path
    worker: str
    """Name of this process among those that share the search."""
    space: Space
    config: TuneConfig
    seed: int


def import_optuna() -> Any:
    """The library that samples and prunes trials.

    Raises:
      InputError: it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise InputError('tuning samples its trials with optuna; install it: pip install "seqrec[tune]"') from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


@contextlib.contextmanager
def open_search(
    directory: Path, space: Space, config: TuneConfig, *, first: Values, seed: int, max_epochs: int
) -> Iterator[Search]:
    """Opens the search in the directory, or starts one; other processes may have it open.

    The search is one file of JSON lines. Inside the block the process holds a lock that shows the others that it is
    alive. The very first trial takes those values of `first` that lie in the space.

    Raises:
      InputError: the journal is damaged.
    """
    optuna = import_optuna()
    workers = directory / "workers"
    workers.mkdir(parents=True, exist_ok=True)
    worker = workers / uuid.uuid4().hex
    with worker.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            file = directory / "journal.jsonl"
            with exclusive_access(directory):
                _tidy(file, workers)
                backend = optuna.storages.journal.JournalFileBackend(str(file))
                try:
                    journal = optuna.create_study(
                        storage=optuna.storages.JournalStorage(backend),
                        study_name="tuning",
                        direction="maximize",
                        pruner=optuna.pruners.HyperbandPruner(
                            min_resource=1, max_resource=max_epochs, reduction_factor=config.reduction
                        ),
                        load_if_exists=True,
                    )
                    if not journal.get_trials(deepcopy=False):
                        journal.enqueue_trial(
                            {name: value for name, value in first.items() if _holds(space[name], value)}
                        )
                except (ValueError, KeyError) as error:
                    raise InputError(f"{file} is damaged ({error}); restore it or choose another --output") from error
            yield Search(journal, directory, worker.name, space, config, seed)
        finally:
            worker.unlink()


def _holds(of: Range | Choices, value: Any) -> bool:
    return value in of.values if isinstance(of, Choices) else of.low <= value <= of.high


@contextlib.contextmanager
def exclusive_access(directory: Path) -> Iterator[None]:
    """While the block runs, no other process of the search is in such a block."""
    with (directory / "study.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _lives(worker: Path) -> bool:
    """Whether the process still runs: the system takes a lock back from a process that ends, however it ends."""
    try:
        with worker.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _tidy(journal: Path, workers: Path) -> None:
    """Removes what killed processes left: their locks and, if nobody else writes, a line that was cut short."""
    living = {worker for worker in workers.iterdir() if _lives(worker)}
    for dead in set(workers.iterdir()) - living:
        dead.unlink()
    if journal.exists() and len(living) == 1:  # this process itself
        whole = journal.read_bytes()
        if not whole.endswith(b"\n"):
            os.truncate(journal, whole.rfind(b"\n") + 1)


def tune(
    search: Search,
    configure: Callable[[Values], Any],
    begin: Callable[[Sequence[Values]], Course],
    *,
    max_epochs: int,
    patience: int,
    say: Callable[[str], None],
) -> None:
    """Runs trials until the search has `config.n_trials`.

    `configure(values)` raises ValueError for values that exclude each other, and such a trial fails; `begin(several)`
    starts to train one model for each. A trial's value is the NDCG@10 of its best epoch; like a run it ends after
    `patience` epochs without a better one.

    A trial whose process was killed is trained again, with the same number and values, by the next
    process that joins. What is sampled depends only on the seed and on the trials so far, so a search of one process
    that was killed ends as one that was not.
    """
    state = import_optuna().trial.TrialState
    started, limit = runtime.seconds(), 60 * search.config.tuning_minutes or math.inf
    while batch := _next_batch(search, out_of_time=runtime.seconds() - started >= limit):
        accepted = []
        for trial, values in batch:
            try:
                configure(values)
                accepted.append((trial, values))
            except ValueError as error:
                search.journal.tell(trial.number, state=state.FAIL)
                say(f"trial {trial.number:3d}   refused: {error}")
        if accepted:
            batch_started = runtime.seconds()
            trials = [trial for trial, _ in accepted]
            course = begin([values for _, values in accepted])
            try:
                curves, complete = _follow(search, trials, course, max_epochs=max_epochs, patience=patience)
            except KeyboardInterrupt:
                for trial in trials:
                    trial.set_user_attr("starts", 0)
                raise
            seconds = (runtime.seconds() - batch_started) / len(accepted)
            # All results at once: a population that was killed is trained again as a whole.
            with exclusive_access(search.directory):
                for (trial, values), curve, whole in zip(accepted, curves, complete, strict=True):
                    trial.set_user_attr("seconds", seconds)
                    result = (max(curve), state.COMPLETE) if whole else (None, state.PRUNED)
                    search.journal.tell(trial.number, *result)
                    say(
                        f"trial {trial.number:3d}   NDCG@10 {max(curve):.4f} in epoch {1 + int(np.argmax(curve))} of "
                        f"{len(curve)}   {'complete' if whole else 'pruned  '}   {describe_values(values)}"
                    )


def _next_batch(search: Search, *, out_of_time: bool) -> list[tuple[Any, Values]]:
    """Trials to train next: those of a killed process, or new ones; none if the search has enough."""
    optuna = import_optuna()
    with exclusive_access(search.directory):
        waiting = optuna.trial.TrialState.WAITING  # the first trial, before it is started
        trials = [trial for trial in search.journal.get_trials(deepcopy=False) if trial.state != waiting]
        running = [trial for trial in trials if trial.state == optuna.trial.TrialState.RUNNING]
        # Trials of one batch were trained together, and are again.
        for owner in dict.fromkeys(trial.user_attrs.get("worker", "") for trial in running):
            if not owner or not _lives(search.directory / "workers" / owner):
                abandoned = [trial for trial in running if trial.user_attrs.get("worker", "") == owner]
                restarted = [trial for trial in abandoned if trial.user_attrs.get("starts", 0) < _MOST_STARTS]
                for trial in abandoned:
                    if trial not in restarted:
                        search.journal.tell(trial.number, state=optuna.trial.TrialState.FAIL)
                if restarted:
                    return [_start_trial(search, trial.number, trial) for trial in restarted]
        n_wanted = 0 if out_of_time else min(search.config.population, search.config.n_trials - len(trials))
        return [_start_trial(search, len(trials) + i, None) for i in range(n_wanted)]


def _start_trial(search: Search, number: int, abandoned: Any) -> tuple[Any, Values]:
    """A trial of this process and its values; an `abandoned` trial keeps its values."""
    optuna = import_optuna()
    # A sampler for each trial, so that its samples depend on the seed and the trials so far, not on the process.
    seed = int(np.random.SeedSequence((search.seed, number)).generate_state(1)[0])
    search.journal.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=5, constant_liar=True)
    trial = search.journal.ask() if abandoned is None else optuna.trial.Trial(search.journal, abandoned._trial_id)
    trial.set_user_attr("worker", search.worker)
    trial.set_user_attr("starts", 1 if abandoned is None else 1 + abandoned.user_attrs.get("starts", 0))
    values = {name: _suggest(trial, name, of) for name, of in search.space.items()}
    trial.set_user_attr("values", values)
    return trial, values


def _suggest(trial: Any, name: str, of: Range | Choices) -> Any:
    if isinstance(of, Choices):
        return trial.suggest_categorical(name, of.values)
    if isinstance(of.low, int):
        return trial.suggest_int(name, of.low, of.high, log=of.log)
    # To four digits, so that the value that is printed is the value that was trained.
    value = float(f"{trial.suggest_float(name, of.low, of.high, log=of.log):.4g}")
    return min(max(value, of.low), of.high)


def _follow(
    search: Search, trials: Sequence[Any], course: Course, *, max_epochs: int, patience: int
) -> tuple[list[list[float]], list[bool]]:
    """The curve of each trial, and whether it came to its end instead of being pruned."""
    curves: list[list[float]] = [[] for _ in trials]
    ended: dict[int, bool] = {}
    lanes = list(range(len(trials)))
    halving = rungs(max_epochs, search.config.reduction, bracket=trials[0].number // search.config.population)
    names = f"trial {trials[0].number}" + (f" to {trials[-1].number}" if len(trials) > 1 else "")
    bar = tqdm(total=max_epochs, unit="epoch", desc=names, leave=False, disable=None)
    with contextlib.closing(course), bar:
        figures = next(course)
        for epoch in range(1, max_epochs + 1):
            for place, figure in zip(lanes, figures, strict=True):
                if place not in ended:
                    curves[place].append(figure)
                    with warnings.catch_warnings():
                        # A trial that is trained again reports the same epochs again.
                        warnings.filterwarnings("ignore", message="The reported value is ignored")
                        trials[place].report(figure, epoch)
                    if epoch == max_epochs or epoch - 1 - int(np.argmax(curves[place])) >= patience:
                        ended[place] = True
            bar.update()
            bar.set_postfix_str(f"NDCG@10 {max(curve[-1] for curve in curves):.4f}")
            going = [place for place in lanes if place not in ended]
            if len(trials) == 1:
                pruned = [place for place in going if trials[place].should_prune()]
            else:
                n_kept = -(-len(going) // search.config.reduction) if epoch in halving else len(going)
                pruned = sorted(going, key=lambda place: -curves[place][-1])[n_kept:]
            ended |= dict.fromkeys(pruned, False)
            going = [place for place in lanes if place not in ended]
            if not going:
                break
            # Between rungs all continue, also those that have ended: another number of members would be compiled again.
            continued = going if epoch in halving else lanes
            figures = course.send([lanes.index(place) for place in continued])
            lanes = continued
    return curves, [ended[place] for place in range(len(trials))]


def rungs(max_epochs: int, reduction: int, *, bracket: int) -> list[int]:
    """Epochs after which a population is cut, by successive halving (Jamieson and Talwalkar 2016).

    Hyperband (Li et al. 2018) hedges between many trials cut early and few cut late: population after population
    takes the next bracket, whose first rung is one power of `reduction` later.

    >>> [rungs(15, 3, bracket=bracket) for bracket in range(4)]
    [[1, 3, 9], [3, 9], [9], [1, 3, 9]]
    """
    powers = [1]
    while powers[-1] * reduction < max_epochs:
        powers.append(powers[-1] * reduction)
    return powers[bracket % len(powers) :]


def describe_values(values: Mapping[str, Any]) -> str:
    """Values by the flags that set them, in one line."""
    return ", ".join(f"{flag_name(name)} {value}" for name, value in values.items())
