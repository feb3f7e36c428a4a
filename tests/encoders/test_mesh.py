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

from seqrec.sharding import MeshConfig, constrain_params, make_mesh, split_rows

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


@pytest.mark.parametrize("name", ENCODERS)
def test_eight_devices_find_the_states_and_gradients_of_one(found, name):
    names = [each for each in found if each.startswith(f"one/{name}/")]
    assert len(names) > 2
    for each in names:
        np.testing.assert_allclose(found[each.replace("one", "eight", 1)], found[each], rtol=1e-3, atol=1e-4)


def measure(name: str) -> dict[str, np.ndarray]:
    """States and gradients under the current mesh, if there is one."""
    encoder, params = an_encoder(name)
    batch = split_rows(jax.tree.map(np.asarray, rows_of(*([each] for each in HISTORIES), times=encoder.times)))
    params = constrain_params(params, encoder.specs)

    def total(params):
        states = encoder.encode(params, batch)
        return jnp.sum(jnp.sin(states)), states

    (_, states), gradients = jax.jit(jax.value_and_grad(total, has_aux=True))(params)
    leaves = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(gradients)}
    return {"states": states, **leaves}


def main(path: str) -> None:
    assert jax.device_count() == 8
    found = {}
    for name in ENCODERS:
        found |= {f"one/{name}/{key}": value for key, value in measure(name).items()}
        with jax.set_mesh(make_mesh(MeshConfig(data=4, model=2))):
            found |= {f"eight/{name}/{key}": value for key, value in measure(name).items()}
    np.savez(path, **{name: np.asarray(value) for name, value in found.items()})


if __name__ == "__main__":
    main(sys.argv[1])
