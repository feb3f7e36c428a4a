r"""Replays a log day by day: is a model better refreshed from yesterday's weights, trained anew, or left as it is?

    python experiments/backtest.py --period-days 365 --n-periods 4 --targets every --d-model 32 --n-blocks 1 \
        --max-length 50 --max-epochs 5              # the MovieLens demo, whose days are sparse, in minutes
    python experiments/backtest.py gru4rec --dataset events --data-path plays.parquet --columns user track played_at \
        --period-days 1 --n-periods 14 --max-epochs 12 --refresh-epochs 8 --output runs/backtest

Takes the training script's flags too. Each period's events are predicted by three models, two of which then learn from
them. Leaves backtest.json and backtest.html in --output; the same command with --resume goes on after a stop.
docs/daily.md explains it.
"""

import sys
from typing import Any

from scripts import TRAINING, config_of_script, script_named

from seqrec import runtime
from seqrec.backtest.periods import BacktestConfig
from seqrec.backtest.replay import run_backtest
from seqrec.files import JsonObject
from seqrec.pages.html import write_report
from seqrec.report.backtest_page import as_text, page
from seqrec.run.experiment import open_run


def config_type(name: str) -> type:
    """The config of a training script, and that of the backtest."""
    doc = (
        "Replays a log period by period: models refreshed warm, trained anew or never, each tested on the next period."
    )
    return config_of_script(name, "backtest", BacktestConfig, doc=doc, module=__name__)


def main(config: Any, *, events: Any = None) -> JsonObject:
    """Runs the backtest and returns what `backtest.json` holds; `events` is a frame in place of the data path."""
    training = config.training
    runtime.start(training.mesh, training.processes)
    names = {"experiment": f"backtest-{config.script}", "dataset": training.data.dataset}
    with open_run(config, training.run, **names) as run:
        results = run_backtest(run, config, TRAINING[config.script].build, events=events)
        print(f"\n{as_text(results)}")
        write_report(run / "backtest.json", results, page(results))
    return results


if __name__ == "__main__":
    runtime.run_script(main, config_type(script_named(sys.argv[1:])))
