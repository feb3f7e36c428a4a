"""What a trial trains: models of a script, on a task without the test part."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from seqrec import runtime
from seqrec.config import Values, flag_name, tunable_fields, with_traced, with_values
from seqrec.data.prefetch import prefetched
from seqrec.evaluation import make_validate
from seqrec.population import keep, make_population_step, member, members
from seqrec.row_updates import caught_up
from seqrec.run.data import Task
from seqrec.run.experiment import Build
from seqrec.run.recipe import check_no_recipe
from seqrec.run.training import make_training
from seqrec.sharding import split_rows
from seqrec.tuning.search import Course
from seqrec.tuning.space import Space
from seqrec.types import InputError


def without_test(task: Task) -> Task:
    """The task of a trial: no user has a test target, and there are no test queries.

    Raises:
      InputError: no user has a validation target, which trials are evaluated on.
    """
    if not len(task.valid.users):
        raise InputError("no user has a validation target; trials cannot be compared on this data")
    nobody = task.split._replace(test=np.full_like(task.split.test, -1), test_start=None)
    empty = {name: getattr(task.test, name)[:0] for name in ("users", "target_positions", "row_groups")}
    return task._replace(split=nobody, test=task.test._replace(**empty))


def check_population(config: Any, space: Space, *, population: int) -> None:
    """Refuses to train together what differs in a field that a shape, or the program, depends on.

    Also refuses to start trials from a trained run, to track them, and to choose their values by a recipe.
    """
    check_no_recipe(config, "a search")
    if config.training.track:
        raise InputError("trials are not tracked; leave --track out, and train the values that are found with it")
    fit = config.training.fit
    if fit.max_steps or fit.validate_every_steps:
        raise InputError("trials are validated at the end of epochs; leave --max-steps and --validate-every-steps out")
    if config.training.start.start_from is not None:
        raise InputError("trials start from random weights; leave --start-from out")
    fields = tunable_fields(config)
    shaping = [name for name in space if not fields[name].traced]
    if population > 1 and shaping:
        raise InputError(
            f"a population is one program with numbers of its own for each member, but {flag_name(shaping[0])} is "
            "searched, which needs programs of its own; leave it out or use --population 1"
        )


def make_courses(config: Any, build: Build, task: Task) -> Callable[[Sequence[Values]], Course]:
    """`begin(several)`: trains the script's model with each of several sets of values, step by step.

    Values of fields that may be traced are, so that all trials that agree in the others share one compiled step; a
    population agrees in them, as `check_population` sees to.
    """
    fields = tunable_fields(config)

    @functools.lru_cache(maxsize=4)
    def programs(fixed_values: tuple[tuple[str, Any], ...]):
        fixed = with_values(config, dict(fixed_values))
        model = build(fixed, task)
        n_steps = config.training.fit.max_epochs * task.train.steps_per_epoch

        def make_step(scalars):
            trial_config = with_traced(fixed, scalars)
            return make_training(build(trial_config, task), trial_config.training, n_steps=n_steps).make_step()

        first = make_training(model, fixed.training, n_steps=n_steps).init()
        step = make_population_step(make_step, side_by_side=runtime.trains_side_by_side())
        return step, make_validate(model, task.valid, n_generated=task.n_generated), first

    def begin(several: Sequence[Values]) -> Course:
        traced = [name for name in several[0] if fields[name].traced]
        fixed = tuple((name, value) for name, value in several[0].items() if name not in traced)
        step, validate, first = programs(fixed)
        scalars = {name: jnp.asarray([values[name] for values in several], jnp.float32) for name in traced}
        return course(step, validate, members(first, scalars, n_members=len(several)), len(several))

    def course(step, validate, population, n_members: int) -> Course:
        epoch = 0
        with prefetched(task.train.batch) as batch:
            while True:
                for place in range(task.train.steps_per_epoch):
                    runtime.check_interrupt()
                    population, _ = step(population, split_rows(batch(epoch * task.train.steps_per_epoch + place)))
                averaged = [caught_up(member(population, place)).averaged for place in range(n_members)]
                places = yield [validate(params)["ndcg@10"] for params in averaged]
                epoch += 1
                if len(places) < n_members:
                    population, n_members = keep(population, places), len(places)

    return begin
