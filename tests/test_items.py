"""Item vectors are computed from ids and features; new items are represented by their features alone."""

import jax
import numpy as np
import pytest
from packed_rows import rows_of

from seqrec.data.batches import training_batches
from seqrec.data.features import Feature
from seqrec.data.splits import leave_last_out
from seqrec.data.store import store_from_sequences
from seqrec.encoders.transformer import TransformerConfig, transformer
from seqrec.heads.softmax import softmax_model
from seqrec.items import ItemConfig, with_items
from seqrec.model import composed_params
from seqrec.params import count_params, init_params
from seqrec.training import OptimizerConfig, init_state, make_optimizer, make_train_step
from seqrec.types import InputError

N_ITEMS, D_MODEL = 6, 4
TAGS = Feature(
    "tags",
    np.array([[0, 0], [1, 0], [1, 2], [0, 0], [2, 3], [3, 0], [1, 3]], np.int32),
    np.array([False, True, True, False, True, True, True]),
    ("p", "q", "r"),
)
AUDIO = Feature(
    "audio",
    np.random.default_rng(0).normal(size=(N_ITEMS + 1, 3)).astype(np.float32),
    np.array([False, True, True, True, False, True, True]),
)
COUNTS = np.array([0, 5, 4, 3, 2, 1, 0])


def a_plain_model(n_items=N_ITEMS):
    return softmax_model(transformer(TransformerConfig(d_model=D_MODEL, n_blocks=1), n_items=n_items, max_length=8))


def a_model(config, features=(), *, n_items=N_ITEMS, counts=COUNTS):
    return with_items(a_plain_model(n_items), config, features, counts=counts)


def an_item_config(*features, **more):
    return ItemConfig(item_features=tuple(feature.name for feature in features), **more)


def a_table(model, params, key=None):
    return np.asarray(model.compose(params, model.constants, key=key)["item_table"])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def slow_table(params, config):
    """Item by item, by the formulas."""
    own = jax.tree.map(np.asarray, params["items"])
    rows = []
    for item in range(1, N_ITEMS + 1):
        vectors = []
        codes = [code for code in TAGS.values[item] if code]
        table = own["feature tags"]["table"]
        vectors.append(np.mean([table[code] for code in codes], axis=0) if codes else table[0])
        audio = own["feature audio"]
        values = audio["vectors"][item] if config.fine_tune_vectors else AUDIO.values[item]
        vectors.append(values @ audio["projection"] if AUDIO.known[item] else audio["unknown"])
        of_id = own["ids"]["table"][item] if COUNTS[item] else np.zeros(D_MODEL)
        vectors.append(of_id)
        read = np.concatenate(vectors) / 0.02
        if config.combine == "gate":
            share = sigmoid(read @ own["combine"]["gate"])
            rows.append(share * of_id + (1 - share) * (vectors[0] + vectors[1]))
            continue
        rows.append(np.sum(vectors, axis=0))
        if config.combine == "mlp":
            hidden = read @ own["combine"]["up"]
            rows[-1] = rows[-1] + 0.02 * (hidden * sigmoid(hidden)) @ own["combine"]["down"]
    return np.stack(rows)


@pytest.mark.parametrize("fine_tune", [False, True])
@pytest.mark.parametrize("combine", ["sum", "gate", "mlp"])
def test_vectors_are_those_of_the_formulas(combine, fine_tune):
    config = an_item_config(TAGS, AUDIO, combine=combine, fine_tune_vectors=fine_tune)
    model = a_model(config, [TAGS, AUDIO])
    params = init_params(model.specs, jax.random.key(0))
    table = a_table(model, params)
    np.testing.assert_allclose(table[1 : N_ITEMS + 1], slow_table(params, config), rtol=1e-5, atol=1e-7)


def test_without_features_the_model_is_returned_as_it_is():
    plain = a_plain_model()
    assert with_items(plain, ItemConfig(), counts=COUNTS) is plain
    assert composed_params(plain, {"item_table": 1}) == {"item_table": 1}


def test_item_vectors_are_made_once():
    model = a_model(ItemConfig(ids="multi-hash"), [])
    with pytest.raises(InputError, match="the model composes its parameters already; make its item vectors once"):
        with_items(model, an_item_config(TAGS), [TAGS], counts=COUNTS)


def test_training_drops_its_share_of_ids_and_evaluation_none():
    n_items = 2_000
    feature = Feature("one", np.ones((n_items + 1, 1), np.int32), np.ones(n_items + 1, bool), ("x",))
    model = a_model(
        an_item_config(feature, id_dropout=0.3), [feature], n_items=n_items, counts=np.ones(n_items + 1, int)
    )
    params = init_params(model.specs, jax.random.key(0))
    of_feature = np.asarray(params["items"]["feature one"]["table"][1])
    dropped = np.all(a_table(model, params, jax.random.key(1))[1 : n_items + 1] == of_feature, axis=1)
    # Within four standard errors of a share of .3.
    assert abs(dropped.mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / n_items)
    assert not np.all(a_table(model, params)[1 : n_items + 1] == of_feature, axis=1).any()


@pytest.mark.parametrize("ids", ["quotient-remainder", "multi-hash", "frequent"])
def test_shared_vectors_have_fewer_numbers_and_still_distinguish_items(ids):
    n_items = 500
    counts = np.append(0, np.arange(n_items)[::-1])
    model = a_model(ItemConfig(ids=ids), n_items=n_items, counts=counts)
    table = a_table(model, init_params(model.specs, jax.random.key(0)))[1 : n_items + 1]
    assert count_params(model.specs["items"]) < n_items * D_MODEL
    # As many vectors as a tenth of the catalogue: one for each of 49 items and one for all others.
    assert len(np.unique(table, axis=0)) == (50 if ids == "frequent" else n_items)
    if ids == "frequent":
        assert len(np.unique(table[:49], axis=0)) == 49
    # All start with the length of a table's vectors, whose numbers have a standard deviation of .02.
    assert 0.015 < np.unique(table, axis=0).std() < 0.026


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"id_dropout": 0.2}, "no item_features; name the features"),
        ({"ids": "none"}, "no item_features; name the features"),
        ({"item_features": ("x",), "id_dropout": 1.0}, "id_dropout=1.0 is not a share"),
        ({"item_features": ("x", "x:number")}, "has a name twice"),
        ({"item_features": ("x:number",), "shuffled_features": ("y",)}, "names y, which is not in item_features"),
        ({"item_features": ("x",), "ids": "none", "combine": "gate"}, "weighs ids against features, and ids=none"),
        ({"ids": "frequent", "id_rows": -1}, "id_rows=-1 is below 0"),
    ],
)
def test_a_bad_item_config_is_refused(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        ItemConfig(**options)


N_GENRES, N_WARM, N_COLD = 4, 10, 4


def share_of_new_items_before_the_target(*, informative):
    """Share of the new items that rank before the target, a new item too; mean over listeners.

    New items are in no history. Each listener stays in one genre, also with the next item. Where the feature is not
    informative, the new items of each genre have every genre's label once.
    """
    rng = np.random.default_rng(0)
    per_genre = N_WARM + N_COLD
    of_listener = rng.integers(N_GENRES, size=400)
    histories = np.stack([1 + g * per_genre + rng.choice(N_WARM, 8, replace=False) for g in of_listener])
    targets = 1 + of_listener * per_genre + N_WARM + rng.integers(N_COLD, size=400)
    is_new = np.append(False, np.tile(np.arange(per_genre) >= N_WARM, N_GENRES))
    label = np.append(0, np.repeat(np.arange(1, N_GENRES + 1), per_genre))
    if not informative:
        label[is_new] = np.tile(np.arange(1, N_GENRES + 1), N_GENRES)
    feature = Feature("genre", label[:, None].astype(np.int32), label > 0, tuple("wxyz"))
    n_items = N_GENRES * per_genre
    store = store_from_sequences(histories.tolist(), n_items=n_items)
    encoder = transformer(TransformerConfig(d_model=16, n_blocks=1, dropout=0.1), n_items=n_items, max_length=8)
    model = with_items(
        softmax_model(encoder),
        an_item_config(feature, id_dropout=0.3),
        [feature],
        counts=np.bincount(histories.ravel(), minlength=n_items + 1),
    )
    batches = training_batches(store, leave_last_out(store), max_length=8, batch_size=100, seed=0)
    optimizer = make_optimizer(OptimizerConfig(learning_rate=1e-2, warmup_steps=10), model.specs, n_steps=80)
    state = init_state(model, optimizer, seed=0)
    step = make_train_step(model, optimizer, seed=0, average_decay=0.9)
    for number in range(80):
        state, _ = step(state, batches.batch(number))
    params = composed_params(model, state.averaged)
    states = jax.jit(encoder.encode)(params, rows_of(*[[history] for history in histories.tolist()], length=8))[:, -1]
    scores = np.asarray(states @ params["item_table"][: n_items + 1].T)
    lead = scores[:, is_new] - scores[np.arange(400), targets][:, None]
    # New items of one label have the same vector, the target among them: half of those that tie are before it.
    return ((np.sign(lead) + 1) / 2).sum(axis=1).mean() / is_new.sum()


def test_new_items_are_ranked_by_their_features():
    # A quarter is of the listener's genre, which tie.
    assert share_of_new_items_before_the_target(informative=True) < 0.15
    assert abs(share_of_new_items_before_the_target(informative=False) - 0.5) < 0.1
