"""The depth decoder: probabilities, ranks and lists as from a table of all items, made by plain Python."""

import collections
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from programs import array_sizes

import seqrec
from seqrec.generative import with_catalogue, with_semantic_ids
from seqrec.heads import code_search
from seqrec.heads.code_probabilities import after_code, code_scores
from seqrec.heads.depth_decoder import DepthDecoder, DepthDecoderConfig
from seqrec.metrics import target_ranks
from seqrec.model import composed_params
from seqrec.params import init_params
from seqrec.prefix_tree import prefix_tree
from seqrec.questions import next_item
from seqrec.semantic_ids.codes import semantic_ids
from seqrec.types import Batch, Head, InputError, NextItemHead

N_CODES, N_ITEMS, D_MODEL, N_USERS = (5, 40, 7), 120, 8, 6
WIDE = DepthDecoderConfig(beam_width=N_ITEMS)


def drawn_codes():
    """Codes of which items 1 and 2 alone have the same."""
    each = np.random.default_rng(0).permutation(np.prod(N_CODES))[: N_ITEMS + 1]
    codes = np.stack(np.unravel_index(each, N_CODES), axis=1)
    codes[2] = codes[1]
    return codes


IDS = semantic_ids(drawn_codes(), N_CODES)
TREE = jax.tree.map(jnp.asarray, prefix_tree(IDS.codes, N_CODES))
ROW = jnp.array([[3, 9, 20, 0]])
TARGETS, EXCLUDE = np.r_[0, 1:20, N_ITEMS + 1], np.array([5, 60, 61, 0, 60])
EVERY, NONE, ALLOWED = np.arange(1, N_ITEMS + 1), np.zeros(5, int), np.array([4, 7, 19, 90])
WIDTH = 6


@pytest.fixture(scope="module")
def made():
    """A model, its composed parameters, drawn wide enough to tell items apart, and a state a user."""
    encoder = seqrec.gru(seqrec.GRUConfig(d_model=D_MODEL), n_items=N_ITEMS, max_length=4)
    model = with_semantic_ids(seqrec.softmax_model(encoder), IDS)

    @jax.jit
    def drawn(key):
        params = jax.tree.map(lambda leaf: 20 * leaf if leaf.ndim == 2 else leaf, init_params(model.specs, key))
        return params, jax.random.normal(key, (N_USERS, D_MODEL))

    params, states = drawn(jax.random.key(1))
    return model, composed_params(model, params), states


@pytest.fixture(scope="module")
def logs(made):
    """Log-probability of each item by its id, from its own codes alone."""
    _, params, states = made
    return np.asarray(jax.jit(slow_logs)(params["semantic_ids"], states))


@pytest.fixture(scope="module")
def ask(made):
    """`rank`, `narrow` and others of the states, each one program, whatever catalogue and lists are asked about."""
    model, _, states = made
    targets = jnp.broadcast_to(TARGETS, (N_USERS, len(TARGETS)))
    beam = DepthDecoder(N_ITEMS, dataclasses.replace(WIDE, ranks="beam"))
    exact = DepthDecoder(N_ITEMS, dataclasses.replace(WIDE, lists="exact"))
    narrow = DepthDecoder(N_ITEMS, DepthDecoderConfig(beam_width=1))

    def program(function, **options):
        n_traces = []

        @jax.jit
        def traced(params, states, lists):
            n_traces.append(1)
            return function(params, states, **options, **lists)

        def call(params, states=states, *, allow=EVERY, exclude=NONE):
            lists = {"exclude": np.tile(exclude, (N_USERS, 1)), "allow": np.resize(allow, (1, N_ITEMS))}
            results = jax.tree.map(np.asarray, traced(params, states, lists))
            assert len(n_traces) == 1
            return results

        return call

    return {
        "exact": program(model.head.rank, targets=targets),
        "beam": program(beam.rank, targets=targets),
        "exact list": program(exact.top_k, k=N_ITEMS),
        "narrow": program(narrow.top_k, k=WIDTH),
    }


def following(ids, depth):
    """How many children with each code the prefix of each item has: of the last level's, one an item."""
    counts = np.zeros((N_ITEMS + 1, N_CODES[depth]))
    paths = [tuple(IDS.codes[item, : depth + 1].tolist()) for item in ids]
    for path in paths if depth == len(N_CODES) - 1 else set(paths):
        counts[(IDS.codes[:, :depth] == path[:depth]).all(axis=1), path[-1]] += 1
    return counts


def slow_logs(own, states, ids=EVERY):
    """Log-probability of each of these items by its id, in a catalogue of these alone."""
    rows, sums = jnp.broadcast_to(states[:, None], (len(states), N_ITEMS + 1, D_MODEL)), 0.0
    for depth in range(len(N_CODES)):
        codes = jnp.broadcast_to(IDS.codes[:, depth], rows.shape[:2])
        each = code_scores(own, depth, rows)
        each -= jnp.log(jnp.sum(following(ids, depth) * jnp.exp(each), axis=-1, keepdims=True))
        sums += jnp.take_along_axis(each, codes[..., None], axis=-1)[..., 0]
        rows = after_code(own, depth, rows, codes)
    return sums


def test_it_has_all_that_evaluation_and_generation_need(made):
    assert isinstance(made[0].head, Head)
    assert isinstance(made[0].head, NextItemHead)


@pytest.mark.parametrize("ranks", ["exact", "beam"])
def test_ranks_are_those_among_the_products_and_items_with_equal_codes_tie(made, ask, logs, ranks):
    ranks, n_candidates = ask[ranks](made[1], exclude=EXCLUDE)
    where = np.arange(N_ITEMS + 1) > 0
    targets = np.tile(np.where(TARGETS > N_ITEMS, -1, TARGETS), (N_USERS, 1))
    # To 5 digits, so that what only rounding tells apart is not in question.
    exclude = np.tile(EXCLUDE, (N_USERS, 1))
    expected = target_ranks(logs.round(5), targets, where=where[None], exclude=exclude)
    np.testing.assert_array_equal(ranks, expected)
    np.testing.assert_array_equal(ranks[:, 1], ranks[:, 2])
    assert n_candidates.tolist() == [N_ITEMS - 2] * N_USERS  # 60 and 61 are left out; 5 is a target


def test_the_probabilities_of_all_items_sum_to_one(logs):
    np.testing.assert_allclose(np.exp(logs[:, 1:]).sum(axis=1), 1.0, rtol=1e-5)


@pytest.mark.slow
def test_exact_lists_have_all_items_by_the_products_of_the_probabilities_of_their_codes(made, ask, logs):
    ids, scores = ask["exact list"](made[1], exclude=EXCLUDE)
    kept = np.setdiff1d(np.arange(1, N_ITEMS + 1), EXCLUDE)
    order = np.argsort(-logs[:, kept], axis=1, kind="stable")
    np.testing.assert_array_equal(ids, np.pad(kept[order], ((0, 0), (0, 3))))
    np.testing.assert_allclose(scores[:, :-3], np.take_along_axis(logs[:, kept], order, axis=1), rtol=1e-5)


def test_allowed_items_are_ranked_as_in_a_catalogue_of_these_alone(made, ask, logs):
    ranks, n_candidates = ask["exact"](made[1], allow=ALLOWED)
    order = np.argsort(-logs[:, ALLOWED], axis=1)
    np.testing.assert_array_equal(ranks[:, 19], 1 + np.argmax(ALLOWED[order] == 19, axis=1))
    assert np.isnan(ranks[:, 18]).all()
    assert n_candidates.tolist() == [4] * N_USERS


def test_a_beam_as_narrow_as_its_list_finds_all_that_are_allowed_however_unlikely(made, ask, logs):
    ids, scores = ask["narrow"](made[1], allow=ALLOWED)
    order = np.argsort(-logs[:, ALLOWED], axis=1)
    np.testing.assert_array_equal(ids, np.pad(ALLOWED[order], ((0, 0), (0, 2))))
    np.testing.assert_allclose(scores[:, :4], np.take_along_axis(logs[:, ALLOWED], order, axis=1), rtol=1e-5)
    assert np.isneginf(scores[:, 4:]).all()


def test_a_narrow_beam_finds_what_one_over_a_trie_of_dictionaries_finds(made, ask, logs):
    _, params, states = made
    own, (ids, scores) = params["semantic_ids"], ask["narrow"](params)
    after = jax.jit(after_code, static_argnums=1)
    scores_of = jax.jit(code_scores, static_argnums=1)
    items = collections.Counter(tuple(row) for row in IDS.codes[1:].tolist())
    children = collections.Counter({codes[:depth]: 1 for codes in items for depth in range(1, 3)}) + items
    for user in range(2):
        beams = [((), 0.0, states[user])]
        for depth, n_codes in enumerate(N_CODES):
            grown = []
            for prefix, log, state in beams:
                each = np.asarray(scores_of(own, depth, state))
                n_each = np.array([children[*prefix, code] for code in range(n_codes)])
                each = each - np.log(np.sum(n_each * np.exp(each)))
                for code in np.flatnonzero(n_each).tolist():
                    grown += [((*prefix, code), log + each[code], (state, code))] * n_each[code]
            best = sorted(grown, key=lambda beam: -beam[1])[:WIDTH]
            beams = [(prefix, log, after(own, depth, state, jnp.int32(code))) for prefix, log, (state, code) in best]
        # By their probabilities, since rounding may swap two codes.
        np.testing.assert_allclose(scores[user], [log for _, log, _ in beams], rtol=1e-5)
        np.testing.assert_allclose(logs[user, ids[user]], scores[user], rtol=1e-5)
        assert len(set(ids[user].tolist())) == WIDTH


def test_a_diverged_model_ranks_its_targets_last_and_lists_nothing(made, ask):
    _, params, states = made
    for how in ("exact", "beam"):
        ranks, _ = ask[how](params, states * jnp.nan)
        assert ranks[:, 5].tolist() == [N_ITEMS] * N_USERS
    assert not ask["narrow"](params, states * jnp.nan)[0].any()


def test_a_fresh_catalogue_is_ranked_and_listed_by_the_same_program(made, ask):
    items = np.array([4, 7, 19])
    today = with_catalogue(made[1], prefix_tree(IDS.codes, N_CODES, items=items, like=TREE))
    ids, scores = ask["narrow"](today)
    logs = np.asarray(slow_logs(made[1]["semantic_ids"], made[2], items))[:, items]
    np.testing.assert_array_equal(ids, np.pad(items[np.argsort(-logs, axis=1)], ((0, 0), (0, 3))))
    np.testing.assert_allclose(np.exp(scores[:, :3]).sum(axis=1), 1.0, rtol=1e-5)
    assert ask["exact"](today)[1].tolist() == [3] * N_USERS


def test_long_lists_of_many_users_are_searched_for_in_as_much_memory_as_one_users(made, monkeypatch):
    model, params, states = made
    # What a step has for one user of a list of all items, though the config's beams are far narrower than the list.
    monkeypatch.setattr(code_search, "BEAM_SCORES", N_ITEMS * max(level.n_candidates for level in TREE.levels))
    top_k = functools.partial(model.head.top_k, k=N_ITEMS)
    one, many = (jax.make_jaxpr(top_k)(params, states[rows]) for rows in (np.zeros(1, int), np.zeros(9, int)))
    assert model.head.config.beam_width < N_ITEMS
    assert max(array_sizes(many)) == max(array_sizes(one))


@pytest.mark.slow
def test_drawn_items_follow_their_probabilities_among_what_is_left(made, logs):
    model, params, states = made
    exclude = jnp.array([[9, 0]])
    ids, item_logs = jax.vmap(
        lambda key: model.head.draw(params, states[:1], temperature=1.0, exclude=exclude, key=key)
    )(jax.random.split(jax.random.key(0), 2000))
    drawn = np.bincount(ids[:, 0], minlength=N_ITEMS + 1)
    assert drawn[9] == drawn[0] == 0
    expected = np.where(np.isin(np.arange(N_ITEMS + 1), [0, 9]), 0.0, np.exp(logs[0]))
    expected *= 2000 / expected.sum()
    assert np.sum((drawn - expected)[expected > 0] ** 2 / expected[expected > 0]) < 2 * N_ITEMS
    np.testing.assert_allclose(item_logs[:, 0], logs[0][ids[:, 0]], rtol=1e-5)


def batch_of(items):
    following = jnp.pad(items[:, 1:], ((0, 0), (0, 1)))
    return Batch(items, following, (items > 0).astype(jnp.int32), jnp.arange(items.shape[1])[None])


@pytest.fixture(scope="module")
def losses(made):
    """Losses of heads and questions about one row, and the log-probabilities that they are made of, in one program."""
    model, params, _ = made
    question = next_item(batch_of(ROW))

    @jax.jit
    def ask(params, states):
        own, key = params["semantic_ids"], jax.random.key(0)
        weighed = question._replace(weights=jnp.array([[0.5, 2.0, 3.0, 3.0]]))
        at_positions = question._replace(targets=jnp.array([[20, 0]]), positions=jnp.array([[1, 0]]))
        state, even = states[0, 1], 0.0
        for depth, code in enumerate(IDS.codes[20].tolist()):
            scores, n_each = code_scores(own, depth, state), following(EVERY, depth)[20]
            even += jnp.sum(n_each * scores) / n_each.sum() - jnp.log(jnp.sum(n_each * jnp.exp(scores)))
            state = after_code(own, depth, state, jnp.int32(code))
        return {
            "logs": slow_logs(own, states[0]),
            "even": even,
            "plain": model.head.loss(params, states, question, key=key),
            "weighed": model.head.loss(params, states, weighed, key=key),
            "at positions": model.head.loss(params, states, at_positions, key=key),
            "smooth": DepthDecoder(N_ITEMS, label_smoothing=0.25).loss(params, states, at_positions, key=key),
        }

    return jax.tree.map(np.asarray, ask(params, jax.random.normal(jax.random.key(2), (1, 4, D_MODEL))))


def test_the_loss_is_the_surprise_at_the_targets(losses):
    first, second = -losses["logs"][0, 9], -losses["logs"][1, 20]
    np.testing.assert_allclose(losses["plain"], (first + second, 2), rtol=1e-5)
    np.testing.assert_allclose(losses["weighed"], (0.5 * first + 2 * second, 2.5), rtol=1e-5)
    np.testing.assert_allclose(losses["at positions"], (second, 1), rtol=1e-5)


def test_label_smoothing_divides_its_share_evenly_among_the_codes_that_may_follow(losses):
    expected = -0.75 * losses["logs"][1, 20] - 0.25 * losses["even"]
    np.testing.assert_allclose(losses["smooth"][0], expected, rtol=1e-5)


def test_what_it_cannot_do_is_refused(made, unchecked):
    model, params, states = made
    question = next_item(batch_of(ROW))._replace(unwanted=ROW)
    with pytest.raises(InputError, match="skip"):
        model.head.loss(params, states[None, :4], question, key=jax.random.key(0))
    with pytest.raises(InputError, match=r"k=121 is not in 1\.\.n_items=120"):
        model.head.top_k(params, states, k=N_ITEMS + 1)
    with pytest.raises(ValueError, match="beam_width"):
        DepthDecoderConfig(beam_width=0)
