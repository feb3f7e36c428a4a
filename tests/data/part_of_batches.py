"""One of two processes that read their own shards of a store; for `test_own_shards`."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from seqrec.data.split_config import SplitConfig
from seqrec.data.store import open_store
from seqrec.evaluation import evaluate
from seqrec.run.baselines import baseline_ranks
from seqrec.run.data import DataConfig, Task, make_task, share_of
from seqrec.run.recipe import data_facts
from seqrec.run.results import users_of_all
from seqrec.sharding import MeshConfig, make_mesh, row_share, split_rows
from seqrec.types import Batch, Params, QueryBatch

TEMPORAL = SplitConfig(split="temporal", valid_share=0.2, test_share=0.2, window_target="every")
"""Needs the times of all events, so that no process could work it out by itself."""
N_STEPS = 12
CONFIG = DataConfig("store", Path("store"), split=TEMPORAL, max_length=6, batch_size=8, mask_seen="yes", test_users=30)
SEED = 3


def figures_of(task: Task) -> dict:
    """What stands in for a model makes of the test queries, and what is known of all users."""

    @jax.jit
    def step(params: Params, queries: QueryBatch) -> tuple[jax.Array, jax.Array]:
        newest = jnp.reshape(queries.batch.items, -1)[queries.last]
        return newest.astype(jnp.float32), jnp.sum(queries.excluded > 0, axis=1)

    ranks = evaluate(step, {}, task.test)
    facts = data_facts(task.store, task.split, preparation={}, name="", platform="", gather=share_of(task.store).of_all)
    popular = baseline_ranks(task, "popularity")
    return {
        **{name: each.tolist() for name, each in ranks._asdict().items()},
        "popularity": popular.rank.tolist(),
        "facts": list(facts),
        "samples": dict(task.samples),
    }


@jax.jit
def sums_of(batch: Batch) -> jax.Array:
    """Depends on where each item stands in the batch of all processes."""
    place = jnp.arange(batch.items.size).reshape(batch.items.shape)
    return jnp.stack([jnp.sum(batch.items * place), jnp.sum(batch.next_items * (1 + batch.positions))])


def main(directory: str, number: int, address: str) -> None:
    jax.distributed.initialize(address, 2, number)
    jax.set_mesh(make_mesh(MeshConfig()))

    store = open_store(directory, part=row_share(), verify=True)
    task = make_task(replace(CONFIG, shards="own"), store, seed=SEED)
    batches = [task.train.batch(step) for step in range(N_STEPS)]
    users = users_of_all(task)
    results = {
        **figures_of(task),
        "sums": [sums_of(split_rows(batch)).tolist() for batch in batches],
        "keys": users.key.tolist(),
        "user_events": users.n_events.tolist(),
    }
    held = np.concatenate([batch.items[batch.items > 0] for batch in batches[: task.train.steps_per_epoch]])
    print(json.dumps({"found": results, "held": held.tolist()}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
