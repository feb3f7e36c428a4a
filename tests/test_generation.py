"""Continuations: equal with a cache and without, the likeliest where known, sampled by their probabilities."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from seqrec.encoders.hstu import HSTUConfig, hstu
from seqrec.encoders.seq2seq import Seq2SeqConfig, seq2seq
from seqrec.encoders.transformer import TransformerConfig, transformer
from seqrec.generation import DecodingConfig, generate, with_uncached_decoder
from seqrec.heads.softmax import softmax_model
from seqrec.params import init_params
from seqrec.types import Batch, HistoryBatch, InputError

MAX_LENGTH, N_ITEMS = 10, 12
SIZES = {"d_model": 8, "n_blocks": 2, "n_heads": 2, "dropout": 0.0}


def enlarged(model, *, seed=1):
    """Weights of a trained model's size: at the start, all items are about equally likely."""
    params = init_params(model.specs, jax.random.key(seed))
    return jax.tree.map(lambda leaf: leaf * 20 if leaf.ndim == 2 else leaf, params)


@functools.cache
def a_model(n_items=N_ITEMS, **options):
    # One block reads the history; of those that generate, each has a cache of its own.
    config = Seq2SeqConfig(TransformerConfig(causal=False, **{**SIZES, "n_blocks": 1}, **options))
    model = softmax_model(seq2seq(config, n_items=n_items, max_length=MAX_LENGTH))
    return model, enlarged(model)


def histories_of(*rows, excluded=(), width=6):
    items, lengths = np.zeros((len(rows), width), np.int32), np.array([len(row) for row in rows], np.int32)
    for place, row in enumerate(rows):
        items[place, : len(row)] = row
    return HistoryBatch(
        *map(jnp.asarray, (items, lengths, np.tile(np.array(excluded, np.int32), (len(rows), 1)).astype(np.int32)))
    )


HISTORIES = histories_of([1, 2, 3], [4], [5, 6, 5, 7, 8, 9])


@functools.cache
def compiled(function, **options):
    return jax.jit(functools.partial(function, **options))


def continued(model, params, histories, *, key=None, **options):
    """Continuations, by a program that is compiled once."""
    return compiled(generate, model=model, **options)(params=params, histories=histories, key=key)


def log_probabilities(model, params, history, generated):
    """Of each next item after a history and the items generated so far, of which nothing is cached."""
    read, n_known = [*history, *generated], len(history) - 1
    fields = np.zeros((4, 1, MAX_LENGTH), np.int32)
    fields[0, 0, : len(read)] = read
    fields[1, 0, :n_known] = history[1:]
    fields[2, 0, : len(read)] = 1
    fields[3, 0, : len(read)] = range(len(read))
    state = compiled(model.encoder.encode)(params, Batch(*fields))[0, len(read) - 1]
    scores = np.asarray(params["item_table"], np.float64)[1 : model.n_items + 1] @ np.asarray(state, np.float64)
    return dict(enumerate(scores - np.log(np.exp(scores).sum()), start=1))


FORMS = {
    "rotary": {},
    "learned, after": {"positions": "learned", "norm": "layer", "norm_first": False, "feed_forward": "gelu"},
    "gated": {"gated": True},
}


@pytest.mark.parametrize("form", FORMS)
def test_a_cache_gives_the_states_of_reading_everything_again(form):
    model, params = a_model(**FORMS[form])
    by_cache, by_reading_again = model.decoder, with_uncached_decoder(model, as_history=False).decoder
    random = np.random.default_rng(0)
    fed = [HISTORIES.items[jnp.arange(3), HISTORIES.lengths - 1], *random.integers(1, N_ITEMS, (4, 3))]
    kept = [compiled(decoder.start, n=5)(params, *HISTORIES[:2]) for decoder in (by_cache, by_reading_again)]
    for place, items in enumerate(fed):
        both = []
        for index, decoder in enumerate((by_cache, by_reading_again)):
            memory, cache = kept[index]
            states, cache = compiled(decoder.step)(params, memory, cache, jnp.asarray(items), jnp.int32(place))
            kept[index] = memory, cache
            both.append(states)
        np.testing.assert_allclose(*both, rtol=1e-4, atol=1e-4)
        assert np.abs(both[0][0] - both[0][1]).max() > 1e-2


@pytest.mark.parametrize("config", [DecodingConfig(), DecodingConfig("beam", beam_width=3), DecodingConfig("sample")])
def test_a_cache_generates_the_same_as_reading_everything_again(config):
    model, params = a_model()
    ways = (model, with_uncached_decoder(model, as_history=False))
    ours, slow = (continued(way, params, HISTORIES, n=5, config=config, key=jax.random.key(0)) for way in ways)
    np.testing.assert_array_equal(ours.items, slow.items)
    np.testing.assert_allclose(ours.log_probability, slow.log_probability, rtol=1e-4)


def test_greedy_takes_the_likeliest_item_each_time_and_is_a_beam_of_one():
    model, params = a_model()
    ours = continued(model, params, HISTORIES, n=4)
    for row, length in enumerate(HISTORIES.lengths.tolist()):
        history, generated, total = HISTORIES.items[row, :length].tolist(), [], 0.0
        for _ in range(4):
            logs = log_probabilities(model, params, history, generated)
            best = max((item for item in logs if item not in generated), key=logs.get)
            generated.append(best)
            total += logs[best]
        assert ours.items[row].tolist() == generated
        assert float(ours.log_probability[row]) == pytest.approx(total, rel=1e-4)
    beam = continued(model, params, HISTORIES, n=4, config=DecodingConfig("beam", beam_width=1))
    jax.tree.map(np.testing.assert_array_equal, beam, ours)


@pytest.mark.parametrize("no_repeat", [True, False])
def test_a_beam_as_wide_as_the_catalogue_finds_the_likeliest_pair(no_repeat):
    # Ten models, since in some the greedy pair is the likeliest too.
    n_greedy_misses = 0
    model, _ = a_model(n_items=5)
    history = [1, 4, 2]
    wide = DecodingConfig("beam", beam_width=5, no_repeat=no_repeat)
    for seed in range(10):
        params = enlarged(model, seed=seed)
        first = log_probabilities(model, params, history, [])
        total = {
            (one, two): first[one] + logs[two]
            for one in first
            for logs in [log_probabilities(model, params, history, [one])]
            for two in first
            if not (no_repeat and one == two)
        }
        best = max(total, key=total.get)
        ours, greedy = (
            continued(model, params, histories_of(history), n=2, config=config)
            for config in (wide, DecodingConfig(no_repeat=no_repeat))
        )
        assert tuple(ours.items[0].tolist()) == best
        assert float(ours.log_probability[0]) == pytest.approx(total[best], rel=1e-4)
        n_greedy_misses += tuple(greedy.items[0].tolist()) != best
    assert 0 < n_greedy_misses < 10


@pytest.mark.parametrize("options", [{"temperature": 2.5}, {"temperature": 1.5, "top_k": 3}])
def test_pairs_are_sampled_by_their_probabilities(options):
    model, params = a_model(n_items=5)
    params = params | {"item_table": params["item_table"] * 0.3}  # so that no item is almost certain
    history, n_draws = [3, 1], 4000
    histories = histories_of(*[history] * n_draws, width=2)
    config = DecodingConfig("sample", **options)
    ours = continued(model, params, histories, n=2, config=config, key=jax.random.key(3))

    def chances(generated):
        logs = log_probabilities(model, params, history, generated)
        left = sorted((item for item in logs if item not in generated), key=logs.get, reverse=True)
        left = left[: options.get("top_k") or None]
        weights = np.exp([logs[item] / options["temperature"] for item in left])
        return dict(zip(left, weights / weights.sum(), strict=True))

    expected = {(one, two): p * q for one, p in chances([]).items() for two, q in chances([one]).items()}
    drawn = [tuple(pair) for pair in ours.items.tolist()]
    assert set(drawn) <= set(expected)
    counts = np.array([drawn.count(pair) for pair in expected])
    often = np.array(list(expected.values())) * n_draws
    # Rare pairs are pooled, as the chi-square test needs.
    rare = often < 5
    counts, often = (np.append(values[~rare], values[rare].sum()) for values in (counts, often))
    kept = often > 0
    assert stats.chisquare(counts[kept], often[kept] * counts.sum() / often[kept].sum()).pvalue > 0.001
    one, two = drawn[0]
    first, second = (log_probabilities(model, params, history, before) for before in ([], [one]))
    assert float(ours.log_probability[0]) == pytest.approx(first[one] + second[two], rel=1e-3)


@examples(20)
@given(
    st.lists(st.lists(st.integers(1, N_ITEMS), min_size=1, max_size=6), min_size=2, max_size=2),
    st.lists(st.integers(0, N_ITEMS), min_size=3, max_size=3),
    st.sampled_from(["greedy", "beam", "sample"]),
    st.integers(0, 100),
)
def test_no_item_is_repeated_or_excluded(rows, excluded, method, seed):
    model, params = a_model()
    config = DecodingConfig(method, beam_width=3, temperature=3.0)
    histories = histories_of(*rows, excluded=excluded)
    for row in continued(model, params, histories, n=5, config=config, key=jax.random.key(seed)).items.tolist():
        assert len(set(row)) == 5
        assert not set(row) & set(excluded)
        assert all(1 <= item <= N_ITEMS for item in row)


@pytest.mark.parametrize("method", ["greedy", "beam", "sample"])
def test_a_list_ends_where_no_item_is_left(method):
    model, params = a_model(n_items=5)
    config = DecodingConfig(method, beam_width=2)
    ours = continued(model, params, histories_of([1, 2], excluded=[1, 2, 0]), n=4, config=config, key=jax.random.key(0))
    assert sorted(ours.items[0, :3].tolist()) == [3, 4, 5]
    assert ours.items[0, 3] == 0
    assert ours.log_probability[0] == -np.inf


def test_items_repeat_where_they_may():
    model, params = a_model()
    certain = params["item_table"].at[7].multiply(100.0)
    config = DecodingConfig("sample", temperature=0.01, no_repeat=False)
    ours = continued(model, params | {"item_table": certain}, HISTORIES, n=5, config=config, key=jax.random.key(0))
    assert any(len(set(row)) < 5 for row in ours.items.tolist())


def test_a_next_item_model_continues_by_adding_its_best_item_to_the_history():
    model = softmax_model(transformer(TransformerConfig(**SIZES), n_items=N_ITEMS, max_length=MAX_LENGTH))
    params = enlarged(model)
    ours = continued(with_uncached_decoder(model), params, HISTORIES, n=4)
    for row, length in enumerate(HISTORIES.lengths.tolist()):
        history, generated = HISTORIES.items[row, :length].tolist(), []
        for _ in range(4):
            logs = log_probabilities(model, params, history + generated, [])
            generated.append(max((item for item in logs if item not in generated), key=logs.get))
        assert ours.items[row].tolist() == generated


def test_generation_lowers_for_every_platform_in_one_trace():
    model, params = a_model()
    for method in ("greedy", "beam", "sample"):
        step = jax.jit(functools.partial(generate, model, n=3, config=DecodingConfig(method, beam_width=2)))
        exported = jax.export.export(step, platforms=("tpu", "cuda"))(params, HISTORIES, key=jax.random.key(0))
        assert exported.out_avals[0].shape == (3, 3)


@pytest.mark.parametrize(
    ("n", "config", "message"),
    [
        (11, DecodingConfig(), "n=11 is not in 1..10, the model's max_length"),
        (6, DecodingConfig(), "histories of 6 items and 6 more do not fit max_length=10; give the latest 5 items"),
        (2, DecodingConfig("beam", beam_width=13), "beam_width=13 is above n_items=12"),
        (2, DecodingConfig("sample"), "was given no key"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(n, config, message):
    model, params = a_model()
    with pytest.raises(InputError, match=message):
        generate(model, params, HISTORIES, n=n, config=config)


def test_a_model_without_a_decoder_is_refused():
    model = softmax_model(transformer(TransformerConfig(**SIZES), n_items=N_ITEMS, max_length=MAX_LENGTH))
    with pytest.raises(InputError, match=r"this model has no decoder; give with_uncached_decoder\(model\)"):
        generate(model, {}, HISTORIES, n=2)


def test_a_model_that_reads_times_cannot_continue_from_item_ids():
    encoder = hstu(HSTUConfig(**SIZES), n_items=N_ITEMS, max_length=MAX_LENGTH, times="history")
    with pytest.raises(InputError, match="a model that reads times=history cannot continue from item ids alone"):
        with_uncached_decoder(softmax_model(encoder))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"beam_width": 0}, "beam_width=0 is below 1"),
        ({"temperature": 0.0}, "temperature=0.0 is not above 0; for the best item use method=greedy"),
        ({"top_k": -1}, "top_k=-1 is below 0"),
    ],
)
def test_bad_ways_of_decoding_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        DecodingConfig(**bad)
