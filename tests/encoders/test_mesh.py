"""Every encoder computes on eight devices what it does on one; in a process of its own, made by this same file."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from an_encoder import ENCODERS, an_encoder
from packed_rows import LENGTH, rows_of

from seqrec.behaviour import with_behaviour
from seqrec.data.behaviour import PositionFeature
from seqrec.heads import with_heads
from seqrec.params import init_params
from seqrec.sharding import MeshConfig, constrain_params, make_mesh, split_rows

FEATURED = "transformer with features of events"
HEADED = "transformer with heads"
NAMES = [*ENCODERS, FEATURED, HEADED]
HISTORIES = np.random.default_rng(0).integers(1, 31, (8, LENGTH)).tolist()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What `measure` finds of each encoder, without a mesh and with one."""
    path = tmp_path_factory.mktemp("mesh") / "found.npz"
    here = Path(__file__).parent
    environment = os.environ | {
        "JAX_NUM_CPU_DEVICES": "8",
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "PYTHONPATH": os.pathsep.join(map(str, (here.parents[1], here.parent, here))),
    }
    done = subprocess.run(
        [sys.executable, __file__, str(path)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(path) as arrays:
        return {name: arrays[name] for name in arrays.files}


@pytest.mark.parametrize("name", NAMES)
def test_eight_devices_find_the_states_and_gradients_of_one(found, name):
    names = [each for each in found if each.startswith(f"one/{name}/")]
    assert len(names) > 2
    for each in names:
        np.testing.assert_allclose(found[each.replace("one", "eight", 1)], found[each], rtol=1e-3, atol=1e-4)


def measure(name: str) -> dict[str, np.ndarray]:
    """States and gradients under the current mesh, if there is one."""
    special = {FEATURED: a_featured_encoder, HEADED: a_headed_encoder}
    encoder, params, known = special[name]() if name in special else (*an_encoder(name), None)
    batch = rows_of(*([each] for each in HISTORIES), times=encoder.times)._replace(event_features=known)
    batch = split_rows(jax.tree.map(np.asarray, batch))
    params = constrain_params(params, encoder.specs)

    def total(params):
        states = encoder.encode(params, batch)
        if encoder.heads is None:
            return jnp.sum(jnp.sin(states)), states
        answers = {"skip": batch.next_items % 3 == 0, "gap": 1 + batch.next_items % 4}
        losses = encoder.heads(params, states, batch.next_items, answers)
        return sum(jnp.sum(each) for each in losses.values()), states

    (_, states), gradients = jax.jit(jax.value_and_grad(total, has_aux=True))(params)
    leaves = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(gradients)}
    return {"states": states, **leaves}


def a_featured_encoder():
    """With what is known of the events of HISTORIES, a feature of each form, some of it not known."""
    random = np.random.default_rng(0)
    numbers = random.normal(size=(8, LENGTH, 2)).astype(np.float32)
    numbers[0] = np.nan
    known = {"device": random.integers(0, 4, (8, LENGTH, 2)), "taste": numbers, "share": numbers[..., :1]}
    sizes = {"device": ("categories", 3), "taste": ("numbers", 2), "share": ("waves", 1)}
    features = [PositionFeature(name, *size, read=lambda store, places: places) for name, size in sizes.items()]
    plain, _ = an_encoder("transformer: gated")
    encoder = with_behaviour(plain, features)
    return encoder, jax.tree.map(lambda leaf: 20 * leaf, init_params(encoder.specs, jax.random.key(1))), known


def a_headed_encoder():
    plain, _ = an_encoder("transformer: gated")
    encoder = with_heads(plain, {"skip": np.log([0.7, 0.3]), "gap": np.log([0.4, 0.3, 0.2, 0.1])})
    params = init_params(encoder.specs, jax.random.key(1))
    random = np.random.default_rng(0)
    own = jax.tree.map(lambda leaf: leaf + random.normal(size=leaf.shape).astype(np.float32), params["heads"])
    return encoder, {**params, "heads": own}, None


def main(path: str) -> None:
    assert jax.device_count() == 8
    found = {}
    for name in NAMES:
        found |= {f"one/{name}/{key}": value for key, value in measure(name).items()}
        with jax.set_mesh(make_mesh(MeshConfig(data=4, model=2))):
            found |= {f"eight/{name}/{key}": value for key, value in measure(name).items()}
    np.savez(path, **{name: np.asarray(value) for name, value in found.items()})


if __name__ == "__main__":
    main(sys.argv[1])
