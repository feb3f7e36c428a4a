"""Trains the remaining runs of a study, and computes its results from the finished runs."""

import gc
import shlex
from collections.abc import Mapping

import jax

from seqrec import runs, runtime
from seqrec.config import to_json, with_values, without_flags
from seqrec.files import JsonObject, read_json, read_json_lines, write_json
from seqrec.report.placebos import placebos_of
from seqrec.report.rank_tables import read_rank_table
from seqrec.report.results_page import command
from seqrec.report.study_figures import StudyRun, study_figures
from seqrec.run.config import RunConfig
from seqrec.run.data import DataConfig
from seqrec.run.experiment import Script
from seqrec.study.plan import Plan, PlannedRun, StudyConfig, expected_minutes, left_minutes, make_plan, spent_minutes
from seqrec.types import InputError


def run_study(study: StudyConfig, experiments: Mapping[str, Script]) -> JsonObject:
    """Trains the remaining runs, writes study.json and returns its content; prints progress."""
    plan = make_plan(study, experiments)
    (study.output / "runs").mkdir(parents=True, exist_ok=True)
    # From here on the directory is of this data, also when the study is killed.
    if not (study.output / "study.json").is_file():
        write_json(study.output / "study.json", {"data": plan.data})
    spent, failed = 60 * spent_minutes(plan), {}
    for number, run in enumerate(plan.runs, start=1):
        label = f"[{number}/{len(plan.runs)}] {run.arm.name}, seed {run.seed}"
        if run.is_done:
            continue
        if study.max_minutes and spent and spent + _seconds_ahead(plan, run) > 60 * study.max_minutes:
            print(f"{label}: does not fit into max_minutes={study.max_minutes:g}; it and what follows are left")
            break
        started = runtime.seconds()
        try:
            _train(plan, run)
            ndcg = read_json(run.directory / "metrics.json")["test"]["ndcg@10"]
            minutes_left = left_minutes(plan)
            ahead = f"; about {minutes_left:.1f} minutes are left" if minutes_left else ""
            print(f"{label}: NDCG@10 {ndcg:.4f}, {runtime.seconds() - started:.0f} s{ahead}", flush=True)
        except InputError as error:
            failed[run.key] = str(error)
            print(f"{label} failed: {error}", flush=True)
        spent += runtime.seconds() - started
    return results(plan, failed)


def _train(plan: Plan, run: PlannedRun) -> None:
    """Makes or ends one run, as the experiment's own script does."""
    values = {
        "training.run": RunConfig(output=run.directory, resume=True, seed=run.seed),
        # Prepared once, for all.
        "training.data.dataset": "store",
        "training.data.data_path": plan.store.resolve(),
        "training.data.columns": DataConfig.columns,
    }
    config = with_values(run.arm.config, values)
    script = plan.script.__file__ or ""
    words = shlex.split(command(script, to_json(config), without_flags(plan.script.Config)))[1:]
    try:
        with runtime.run_logged_to(run.directory.with_suffix(".log"), words):
            plan.script.main(config)
    except runtime.Interrupted as stop:
        message = f"stopped in {run.arm.name}, seed {run.seed}; what was trained is saved: the same command continues"
        raise runtime.Interrupted(message, stop.signal_number) from None
    finally:
        # Each run compiles its own programs, and none uses another's.
        jax.clear_caches()
        gc.collect()


def _seconds_ahead(plan: Plan, run: PlannedRun) -> float:
    """Expected seconds until this run can be compared: the rest of its seed; for the first seed, this run only."""
    ahead = [each for each in plan.runs if each.seed == run.seed and not each.is_done]
    if run.seed == plan.study.seeds[0]:
        ahead = [run]
    return sum((60 * (expected_minutes(plan, each.arm)[0] or 0.0) for each in ahead), start=0.0)


def results(plan: Plan, failed: Mapping[str, str]) -> JsonObject:
    """Writes study.json from the finished runs, and returns its content.

    Raises:
      InputError: the base has no finished run, or no variation has one with a seed of the base.
    """
    done = [
        StudyRun(
            *(run.arm.name, run.seed, read_rank_table(run.directory)),
            *(read_json(run.directory / "metrics.json"), read_json_lines(run.directory / "metrics.jsonl")),
        )
        for run in plan.runs
        if run.is_done
    ]
    states = []
    for run in plan.runs:
        seeded = with_values(run.arm.config, {"training.run": RunConfig(seed=run.seed)})
        states.append(
            {
                "name": run.arm.name,
                "seed": run.seed,
                "key": run.key,
                "state": "done" if run.is_done else "failed" if run.key in failed else "left",
                "failure": failed.get(run.key),
                "command": command(
                    runs.script_path(plan.script.__file__ or ""), to_json(seeded), without_flags(plan.script.Config)
                ),
            }
        )
    with runs.reading_records(plan.study.output):
        figures = study_figures(
            [arm.name for arm in plan.arms],
            plan.study.seeds,
            done,
            placebos=placebos_of({arm.name: arm.flags for arm in plan.arms}),
            level=plan.study.level,
        )
    content = {
        "study": {**to_json(plan.study), "minutes": spent_minutes(plan)},
        "data": plan.data,
        "arms": {arm.name: arm.flags.strip() for arm in plan.arms},
        "runs": states,
        "versions": runtime.versions(),
        **figures,
    }
    write_json(plan.study.output / "study.json", content)
    return content
