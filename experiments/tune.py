r"""Searches for the best values of a training script's flags by validation NDCG@10, and prints them as a command.

    python experiments/tune.py                      # six trials of sasrec on the MovieLens demo, under 10 minutes
    python experiments/tune.py gru4rec --dataset ml-1m --data-path ml-1m.txt.gz --n-trials 40 \
        --search learning-rate=1e-4..1e-2:log d-model=32,64,128 --hold temperature

Takes the script's flags too, for all that is not searched. Leaves tune.json and tune.html in --output; the same
command with --resume continues a search, or joins one that is running. docs/tuning.md explains it.
"""

import sys
from typing import Any

import jax
from scripts import TRAINING, config_of_script, script_named

from seqrec import runtime
from seqrec.config import values_of, with_values, without_flags
from seqrec.files import JsonObject
from seqrec.run.data import open_task
from seqrec.run.experiment import open_run
from seqrec.tuning.findings import write_findings
from seqrec.tuning.search import TuneConfig, import_optuna, open_search, tune
from seqrec.tuning.space import search_space
from seqrec.tuning.training import check_population, make_courses, without_test
from seqrec.types import InputError


def config_type(name: str) -> type:
    """The config of a training script, and the options of the search."""
    doc = "Searches for the best values of a training script's flags; those that are not searched are as given."
    return config_of_script(name, "tune", TuneConfig, doc=doc, module=__name__)


def main(config: Any, *, events: Any = None) -> JsonObject:
    """Runs the trials and returns what `tune.json` holds; `events` is a frame in place of the data path."""
    script = TRAINING[config.script]
    defaults = without_flags(script.Config)
    space = search_space(config, given=config.tune.search, hold=config.tune.hold)
    check_population(config, space, population=config.tune.population)
    import_optuna()
    training = config.training
    runtime.start(training.mesh, training.processes)
    if jax.process_count() > 1:
        raise InputError("a trial is trained by one process; start others with --resume, and they share the search")
    names = {"experiment": f"tune-{config.script}", "dataset": training.data.dataset}
    with open_run(config, training.run, **names, is_shared=True) as run:
        task = open_task(run, training.data, seed=training.run.seed, engagement=training.engagement, events=events)
        task = without_test(task)
        options = {"seed": training.run.seed, "max_epochs": training.fit.max_epochs}
        with open_search(run, space, config.tune, first=values_of(config, space), **options) as search:
            try:
                tune(
                    search,
                    lambda values: with_values(config, values),
                    make_courses(config, script.build, task),
                    max_epochs=training.fit.max_epochs,
                    patience=training.fit.patience,
                    say=runtime.log.info,
                )
            finally:  # after Ctrl-C too
                results = write_findings(search, config, script=script.__file__, defaults=defaults)
    return results


if __name__ == "__main__":
    runtime.run_script(main, config_type(script_named(sys.argv[1:])))
