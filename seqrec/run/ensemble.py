"""Makes an ensemble of trained runs, a run of its own: weights fitted on validation, figures, and what it costs."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seqrec import phases, runs, runtime
from seqrec.baselines.neighbour_tables import NeighbourTableName
from seqrec.data.batches import Queries
from seqrec.ensemble import WEIGHTS, ensemble, ensemble_params
from seqrec.evaluation import evaluate, make_eval_step
from seqrec.files import JsonObject
from seqrec.model import Model
from seqrec.params import Params, count_params
from seqrec.report import figures
from seqrec.report.baseline_comparison import METRIC, compare_with_baselines
from seqrec.report.comparison_text import difference_ends, interval_text, metric_label
from seqrec.run.baselines import CHEAP
from seqrec.run.experiment import Script, open_trained
from seqrec.run.fusion import fit_tables
from seqrec.run.members import check_directories, copy_members, open_members
from seqrec.run.results import print_test, test, write_test

NAME = "ensemble"


def make_ensemble(
    config: Any,
    members: Sequence[Path],
    output: Path,
    names: Sequence[NeighbourTableName],
    scripts: Mapping[str, Script],
) -> JsonObject:
    """Leaves a run in `output` that `experiment.open_trained` opens as one model, prints its figures, returns them.

    Raises:
      InputError: the runs cannot be read, are of different data, or are no models of one ensemble.
    """
    check_directories(output, members)
    try:
        runs.prepare_run_directory(output, config, experiment=NAME, resume=False)
        results = _joined(output, members, names, scripts)
    except BaseException:  # Ctrl-C too: half an ensemble is worth nothing, and soon made again
        shutil.rmtree(output, ignore_errors=True)
        raise
    print_test(results, name=NAME)
    _print_members(results)
    print(f"\nrun directory  {output}")
    return results


def _joined(
    output: Path, members: Sequence[Path], names: Sequence[NeighbourTableName], scripts: Mapping[str, Script]
) -> JsonObject:
    """Fills the directory of the ensemble, and returns what its `metrics.json` holds."""
    copies = copy_members(output, members)
    task, models, params = open_members(copies, lambda run: open_trained(run, scripts))
    widths = [model.d_model for model in models]
    extended = fit_tables(output, task, ensemble(models), ensemble_params(models, params), names, widths=widths)
    weighted_params = {**extended.params, WEIGHTS: np.array(extended.record["models"], np.float32)}
    tested = test(task, extended.model, weighted_params, valid_ranks=None, baselines=CHEAP)
    results, seconds = tested.results, _seconds(extended.model, weighted_params, task.test)
    member_ranks: dict[str, Any] = {}
    costs: JsonObject = {}
    for run, model, each in zip(members, models, params, strict=True):
        name = run.name if run.name not in member_ranks else str(run)
        with phases.progress(f"testing {name} alone", len(task.test.users), unit="queries") as phase:
            member_ranks[name] = evaluate(make_eval_step(model), each, task.test, report=phase).rank
        costs[name] = {
            "n_parameters": count_params(model.specs),
            "seconds_relative": seconds / _seconds(model, each, task.test),
        }
    results |= {
        "fusion": extended.record,
        "members": {name: figures.figures(ranks, users=task.test.users) for name, ranks in member_ranks.items()},
        "member_comparisons": compare_with_baselines(tested.ranks.rank, member_ranks, users=task.test.users),
        "cost": {"n_parameters": count_params(extended.model.specs), "members": costs},
    }
    write_test(output, task, tested._replace(results=results))
    return results


def _print_members(results: JsonObject) -> None:
    print(f"\n{figures.format_table({NAME: results['test'], **results['members']})}")
    for name, each in results["member_comparisons"]["baselines"].items():
        cost = results["cost"]["members"][name]
        print(
            f"above {name} on {metric_label(METRIC)} by {interval_text(difference_ends(each))}; "
            f"{results['cost']['n_parameters'] / cost['n_parameters']:.1f} times its parameters, and "
            f"{cost['seconds_relative']:.1f} times its time to rank"
        )


def _seconds(model: Model, params: Params, queries: Queries) -> float:
    """CPU seconds of the second of two equal batches of queries, which need not compile."""
    step, spent = make_eval_step(model), 0.0
    for _ in range(2):
        started = runtime.cpu_seconds()
        for array in step(params, next(queries.batches())):
            array.block_until_ready()
        spent = runtime.cpu_seconds() - started
    return max(spent, 1e-6)
