"""What ways to continue histories are compared by, each list made again by a slow loop."""

import functools

import jax
import numpy as np
import pytest

from seqrec.data.batches import make_queries
from seqrec.data.splits import leave_last_n_out
from seqrec.data.store import store_from_sequences
from seqrec.encoders.seq2seq import Seq2SeqConfig, seq2seq
from seqrec.encoders.transformer import TransformerConfig
from seqrec.generation import generate
from seqrec.heads.softmax import softmax_model
from seqrec.metrics import list_ranks, metric_values
from seqrec.params import init_params
from seqrec.questions import continuation
from seqrec.report.continuations import continuation_figures
from seqrec.types import HistoryBatch

N, N_ITEMS, MAX_LENGTH = 3, 20, 8
WIDTH = MAX_LENGTH + 1 - N


@pytest.fixture(scope="module")
def case():
    random = np.random.default_rng(0)
    histories = [random.integers(1, N_ITEMS + 1, random.integers(7, 14)).tolist() for _ in range(20)]
    store = store_from_sequences(histories, n_items=N_ITEMS)
    config = Seq2SeqConfig(TransformerConfig(d_model=8, n_blocks=1, causal=False, dropout=0.0), n_decoder_blocks=1)
    model = softmax_model(seq2seq(config, n_items=N_ITEMS, max_length=MAX_LENGTH), ask=continuation)
    params = init_params(model.specs, jax.random.key(0))
    params = jax.tree.map(lambda leaf: 20 * leaf if leaf.ndim == 2 else leaf, params)
    counts = random.permutation(N_ITEMS + 1)
    counts[0] = 0
    return histories, store, model, params, counts


@functools.cache
def generating(model):
    return jax.jit(functools.partial(generate, model, n=N))


def generated_for(model, params, history, excluded):
    """What is generated for one history; padded, so that all are of one shape."""
    items, left_out = np.zeros((1, WIDTH), np.int32), np.zeros((1, N_ITEMS), np.int32)
    items[0, : len(history)] = history
    left_out[0, : len(excluded)] = sorted(excluded)
    return generating(model)(params, HistoryBatch(items, np.array([len(history)]), left_out)).items[0].tolist()


def ndcg(lists, truths):
    """Mean NDCG of lists of N items, each true item once."""
    values = []
    for items, true in zip(lists, truths, strict=True):
        gain = sum(1 / np.log2(2 + place) for place, item in enumerate(items) if item in true)
        values.append(gain / sum(1 / np.log2(2 + place) for place in range(len(set(true)))))
    return np.mean(values)


@pytest.mark.parametrize("mask_seen", [True, False])
def test_figures_are_those_of_lists_made_one_by_one(case, mask_seen):
    histories, store, model, params, counts = case
    split = leave_last_n_out(store, N, target="first")
    # As in a run: nobody is asked for a first item that is excluded.
    is_query = [not mask_seen or history[-N] not in history[:-N] for history in histories]
    histories = [history for history, is_asked in zip(histories, is_query, strict=True) if is_asked]
    queries = make_queries(store, split.test[is_query], max_length=MAX_LENGTH, batch_size=4, mask_seen=mask_seen)
    figures = continuation_figures(model, params, queries, n=N, counts=counts)
    assert list(figures) == ["greedy", "iterated", "top 3 at once", "popularity"]
    truths, popular, generated = [], [], []
    for history in histories:
        read, seen = history[:-N], set(history[:-N]) if mask_seen else set()
        # What is excluded from the list is no true item of it.
        truths.append([item for item in history[-N:] if item not in seen])
        left = [item for item in range(1, N_ITEMS + 1) if item not in seen]
        popular.append(sorted(left, key=lambda item: -counts[item])[:N])
        generated.append(generated_for(model, params, read[-WIDTH:], seen))
    assert figures["popularity"]["ndcg@3"] == pytest.approx(ndcg(popular, truths), abs=1e-6)
    assert figures["greedy"]["ndcg@3"] == pytest.approx(ndcg(generated, truths), abs=1e-6)
    hits = [len(set(items) & set(true)) / len(set(true)) for items, true in zip(generated, truths, strict=True)]
    assert figures["greedy"]["recall@3"] == pytest.approx(np.mean(hits), abs=1e-6)
    assert figures["greedy"]["n_users"] == len(histories)


def test_a_list_that_is_the_continuation_has_every_figure_1():
    true = np.array([[4, 2, 9], [3, 0, 5]])
    figures = list_ranks(np.array([[9, 4, 2], [3, 5, 8]]), true)
    values = metric_values(figures.rank, ks=(3,), where=figures.where)
    assert {"recall@3", "ndcg@3", "mrr"} <= values.keys()
    assert all(value.tolist() == pytest.approx([1.0, 1.0]) for value in values.values())
