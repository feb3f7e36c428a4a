"""The example of docs/add_a_feature.md computes its formula, learns, and needs one line of a script."""

import importlib.util
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import sasrec
from conftest import CHAIN_FLAGS, EXPERIMENTS

import seqrec
from seqrec import runtime
from seqrec.evaluation import make_top_step
from seqrec.metrics import target_ranks
from seqrec.model import composed_params
from seqrec.params import count_params, init_params
from seqrec.repeats import with_repeats
from seqrec.run.data import make_task
from seqrec.types import HistoryBatch, InputError

PAGE = (Path(__file__).parents[2] / "docs" / "add_a_feature.md").read_text()
CODE, LINE, IMPORTS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
REPLACED = "    return build_model(encoder, config.training, task)\n"
N_ITEMS, LENGTH = 12, 6
STORE = seqrec.store_from_sequences([[1, 2, 3, 4]] * 3)
COUNTS = np.array([0, 90, 40, 20, 10, 5, 5, 3, 2, 1, 1, 0, 0])


def imported(name: str, code: str, directory: Path, patch: pytest.MonkeyPatch):
    file = directory / f"{name}.py"
    file.write_text(code)
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    patch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def feature(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        yield imported("popularity_head", CODE, tmp_path_factory.mktemp("feature"), patch)


@pytest.fixture(scope="module")
def plain():
    return seqrec.softmax_model(seqrec.gru(seqrec.GRUConfig(d_model=8), n_items=N_ITEMS, max_length=LENGTH))


@pytest.fixture(scope="module")
def scaled(feature, plain):
    """The model with the feature, parameters whose scale is 0.7, and scores of all items by the formula."""
    model = feature.with_popularity(plain, COUNTS)
    params = init_params(model.specs, jax.random.key(0)) | {"popularity_scale": np.float32(0.7)}

    def scores(states):
        table = np.asarray(params["item_table"], np.float64)[: N_ITEMS + 1]
        return np.asarray(states, np.float64) @ table.T + 0.7 * np.log1p(COUNTS)

    return model, composed_params(model, params), params, scores


@pytest.fixture(scope="module")
def store():
    """Each user takes items at random, the popular ones more often: nothing but popularity can be learned."""
    chances = COUNTS[1:] / COUNTS.sum()
    return seqrec.store_from_sequences(
        (1 + np.random.default_rng(0).choice(N_ITEMS, (200, LENGTH), p=chances)).tolist(), n_items=N_ITEMS
    )


@pytest.fixture(scope="module")
def queries(store):
    test = seqrec.leave_last_out(store).test
    return seqrec.make_queries(store, test, max_length=LENGTH, batch_size=64, mask_seen=False)


def states_of(model, params, batch):
    return np.asarray(model.encoder.encode(params, batch.batch)).reshape(-1, model.d_model)[batch.last]


def test_loss_is_the_cross_entropy_of_the_formula(scaled, store):
    model, own, params, scores = scaled
    split = seqrec.leave_last_out(store)
    batches = seqrec.training_batches(store, split, max_length=LENGTH, batch_size=8, seed=0)
    batch = jax.tree.map(jnp.asarray, batches.batch(0))
    total, count = model.loss(params, model.step_constants, batch, keys=jax.random.split(jax.random.key(0), 4))
    states = model.encoder.encode(own, batch, key=jax.random.split(jax.random.key(0), 4)[0])
    logits, targets = scores(states)[..., 1:], np.asarray(batch.next_items)
    log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    chosen = np.take_along_axis(log_p, np.maximum(targets - 1, 0)[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(total, -chosen[targets > 0].sum(), rtol=1e-5)
    assert count == np.sum(targets > 0)


def test_ranks_and_lists_are_those_of_the_formula(scaled, queries):
    model, own, _, scores = scaled
    batch = jax.tree.map(jnp.asarray, next(queries.batches()))
    expected = scores(states_of(model, own, batch))[:, 1:]
    ranks, _ = seqrec.make_eval_step(model)(own, batch)
    is_target = batch.targets > 0
    expected_ranks = target_ranks(expected, jnp.maximum(batch.targets - 1, 0))
    np.testing.assert_array_equal(ranks[is_target], expected_ranks[is_target])
    ids, _ = make_top_step(model, k=5)(own, batch)
    np.testing.assert_array_equal(ids, 1 + np.argsort(-expected, axis=1)[:, :5])


def test_continuations_follow_popularity_where_it_decides(scaled):
    model, own, _, _ = scaled
    popular = own | {"popularity": 1e3 * own["popularity"]}
    histories = HistoryBatch(jnp.array([[5, 6]]), jnp.array([2]), jnp.zeros((1, 0), int))
    assert seqrec.generate(seqrec.with_uncached_decoder(model), popular, histories, n=3).items.tolist() == [[1, 2, 3]]


def test_one_number_learns_popularity_and_moves_ranks(feature, plain, store, queries):
    """Only the scale is trained, so only it can have moved the ranks."""
    model = feature.with_popularity(plain, COUNTS)
    only_scale = {name: "scale" if name == "popularity_scale" else "rest" for name in model.specs}
    optimizer = optax.multi_transform({"scale": optax.adam(0.1), "rest": optax.set_to_zero()}, only_scale)
    state = seqrec.init_state(model, optimizer, seed=0)
    step = seqrec.make_train_step(model, optimizer, seed=0, average_decay=0.0)
    eval_step = seqrec.make_eval_step(model)
    before = seqrec.evaluate(eval_step, composed_params(model, state.params), queries).rank
    batches = seqrec.training_batches(store, seqrec.leave_last_out(store), max_length=LENGTH, batch_size=200, seed=0)
    for number in range(40):
        state, _ = step(state, batches.batch(number))
    after = seqrec.evaluate(eval_step, composed_params(model, state.params), queries).rank
    assert 0.5 < state.params["popularity_scale"] < 1.5  # log p is log count, and a constant
    assert after.mean() < before.mean() - 1


def test_a_head_that_it_cannot_wrap_is_refused(feature, plain):
    with pytest.raises(InputError, match="needs a softmax head, not a RepeatHead"):
        feature.with_popularity(with_repeats(plain), COUNTS)


def test_the_script_needs_one_line(feature, chain, tmp_path, monkeypatch):
    script = (EXPERIMENTS / "sasrec.py").read_text()
    assert script.count(REPLACED) == 1
    first, rest = script.replace(REPLACED, LINE).split("from seqrec", 1)
    module = imported("sasrec_popular", f"{first}{IMPORTS}from seqrec{rest}", tmp_path, monkeypatch)
    flags = ("--dataset", "s3rec", "--data-path", str(chain), *CHAIN_FLAGS, "--max-epochs", "1", "--n-blocks", "1")
    config = runtime.parse(module.Config, [*flags, "--output", str(tmp_path / "run")])
    n_parameters = {
        script: count_params(script.build(config, make_task(config.training.data, STORE, seed=0)).specs)
        for script in (sasrec, module)
    }
    assert n_parameters[module] == n_parameters[sasrec] + 1
    assert module.main(config)["test"]["n_users"] == 300
