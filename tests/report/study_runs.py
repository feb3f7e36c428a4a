"""Finished runs of a study whose truth is known, without a training."""

import numpy as np

from seqrec.report.rank_tables import RankTableFile
from seqrec.report.study_figures import StudyRun

N_USERS = 400


def a_run(name, seed, *, gain=0.0, slowness=1, items=None):
    """Ranks are geometric; a run's chance of a hit is moved by `gain`, and a little by its seed."""
    rng = np.random.default_rng([seed, *name.encode()])
    taste = np.random.default_rng(0).uniform(0.02, 0.1, N_USERS)
    users = np.arange(N_USERS)
    ranks = rng.geometric(taste + gain + 0.002 * rng.normal()).astype(np.float64)
    columns = {"target_events": users % 5, "history_length": users % 17 + 3, "user_events": users % 23 + 2}
    results = {
        "train_seconds": 90.0 * slowness,
        "best_epoch": 2,
        "cost": {"n_parameters": 1000 + 100 * (slowness - 1), "state_bytes": 16000 + 1600 * (slowness - 1)},
    }
    lines = [{"loss": 5.0 - i, "step_seconds": slowness * each} for i, each in enumerate([5.0, 0.01, 0.012])]
    lines += [{"valid": {"ndcg@10": 0.05 * epoch + gain}} for epoch in (1, 2)]
    return StudyRun(
        name, seed, RankTableFile(users, users % 30 if items is None else items, ranks, columns), results, lines
    )


def runs_of_a_study(seeds=(0, 1, 2)):
    """Of ids, genres, which help, and shuffled, which do not."""
    systems = (("ids", 0.0, 1), ("genres", 0.1, 2), ("shuffled", 0.0, 2))
    return [a_run(name, seed, gain=gain, slowness=slow) for seed in seeds for name, gain, slow in systems]
