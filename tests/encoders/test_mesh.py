"""Every encoder computes on eight devices what it does on one; in a process of its own, made by this same file."""

import os
import subprocess
import sys
from pathlib import Path

import garbage
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from an_encoder import ENCODERS, an_encoder
from examples import at_night
from packed_rows import LENGTH, rows_of

from seqrec.data.event_features import PositionFeature
from seqrec.event_features import with_event_features
from seqrec.heads.softmax import softmax_model
from seqrec.params import init_params
from seqrec.sharding import MeshConfig, constrain_params, make_mesh, split_rows
from seqrec.side_tasks import side_task_losses, with_side_tasks

FEATURED = "transformer with features of events"
WITH_SIDE_TASKS = "transformer with side tasks"
NAMES = [*ENCODERS, FEATURED, WITH_SIDE_TASKS]
QUICK = (
    *("transformer: layer, after, learned, swiglu", "transformer: times of the history", "gru", "hawk"),
    *("hstu with times of the history", "encoder-decoder", FEATURED, WITH_SIDE_TASKS),
)
"""Of each kind of array that a mesh splits at least one; the others at night."""
HISTORIES = np.random.default_rng(0).integers(1, 31, (8, LENGTH)).tolist()


@pytest.fixture(scope="module")
def numbers(tmp_path_factory, request):
    """What `measure` returns for each encoder that a test asks for, without a mesh and with one."""
    names = [item.callspec.params["name"] for item in request.session.items if item.path == request.path]
    path = tmp_path_factory.mktemp("mesh") / "numbers.npz"
    here = Path(__file__).parent
    environment = os.environ | {
        "JAX_NUM_CPU_DEVICES": "8",
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "PYTHONPATH": os.pathsep.join(map(str, (here.parents[1], here.parent, here))),
    }
    done = subprocess.run(
        [sys.executable, __file__, str(path), *names], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(path) as arrays:
        return {name: arrays[name] for name in arrays.files}


@pytest.mark.parametrize("name", at_night(NAMES, quick=QUICK))
def test_eight_devices_compute_the_states_and_gradients_of_one(numbers, name):
    names = [each for each in numbers if each.startswith(f"one/{name}/")]
    assert len(names) > 2
    for each in names:
        np.testing.assert_allclose(numbers[each.replace("one", "eight", 1)], numbers[each], rtol=1e-3, atol=1e-4)


def a_case(name: str):
    """A model, its parameters and the features of HISTORIES' events that it reads."""
    special = {FEATURED: a_model_of_features, WITH_SIDE_TASKS: a_model_with_side_tasks}
    if name in special:
        return special[name]()
    encoder, params = an_encoder(name)
    return softmax_model(encoder), params, None


def measure(model, params, known) -> dict[str, np.ndarray]:
    """States and gradients under the current mesh, if there is one."""
    batch = rows_of(*([each] for each in HISTORIES), times=model.reads.times)._replace(event_features=known)
    batch = split_rows(jax.tree.map(np.asarray, batch))

    def total(params):
        params = constrain_params(params, model.specs)
        states = model.encoder.encode(params, batch)
        if model.auxiliary_loss is None:
            return jnp.sum(jnp.sin(states)), states
        labels = {"skip": batch.next_items % 3 == 0, "gap": 1 + batch.next_items % 4}
        losses = side_task_losses(params, states, batch.next_items, labels)
        return sum(jnp.sum(each) for each in losses.values()), states

    (_, states), gradients = jax.jit(jax.value_and_grad(total, has_aux=True))(params)
    leaves = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(gradients)}
    return {"states": states, **leaves}


def a_model_of_features():
    """With features of the events of HISTORIES, one of each form, some of whose values are unknown."""
    random = np.random.default_rng(0)
    numbers = random.normal(size=(8, LENGTH, 2)).astype(np.float32)
    numbers[0] = np.nan
    known = {"device": random.integers(0, 4, (8, LENGTH, 2)), "taste": numbers, "share": numbers[..., :1]}
    sizes = {"device": ("categories", 3), "taste": ("numbers", 2), "share": ("waves", 1)}
    features = [PositionFeature(name, *size, read=lambda store, places: places) for name, size in sizes.items()]
    plain, _ = an_encoder("transformer: gated")
    model = with_event_features(softmax_model(plain), features)
    return model, jax.tree.map(lambda leaf: 20 * leaf, init_params(model.specs, jax.random.key(1))), known


def a_model_with_side_tasks():
    plain, _ = an_encoder("transformer: gated")
    rates = {"skip": np.log([0.7, 0.3]), "gap": np.log([0.4, 0.3, 0.2, 0.1])}
    model = with_side_tasks(softmax_model(plain), dict.fromkeys(rates, 1.0), rates)
    params = init_params(model.specs, jax.random.key(1))
    random = np.random.default_rng(0)
    own = jax.tree.map(lambda leaf: leaf + random.normal(size=leaf.shape).astype(np.float32), params["side_tasks"])
    return model, {**params, "side_tasks": own}, None


def main(path: str, *names: str) -> None:
    assert jax.device_count() == 8
    garbage.collect_seldom()
    numbers = {}
    for name in names:
        case = a_case(name)
        numbers |= {f"one/{name}/{key}": value for key, value in measure(*case).items()}
        with jax.set_mesh(make_mesh(MeshConfig(data=4, model=2))):
            numbers |= {f"eight/{name}/{key}": value for key, value in measure(*case).items()}
    np.savez(path, **{name: np.asarray(value) for name, value in numbers.items()})


if __name__ == "__main__":
    main(*sys.argv[1:])
