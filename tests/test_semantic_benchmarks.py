"""Facts about the benchmarks of models that write semantic ids, at sizes where they take a second."""

import dataclasses
import functools
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import cold_items
import semantic_generation
import semantic_training

from seqrec.baselines.popularity import training_counts
from seqrec.data.synthetic.config import ListeningConfig
from seqrec.encoders.transformer import TransformerConfig
from seqrec.files import read_json
from seqrec.heads.code_probabilities import depth_decoder_specs
from seqrec.heads.code_search import CODES, PARAMS, TREE
from seqrec.heads.depth_decoder import DepthDecoder, DepthDecoderConfig
from seqrec.params import init_params
from seqrec.prefix_tree import prefix_tree


@pytest.mark.slow
def test_a_beam_is_timed_with_and_without_its_tree_and_a_trie(tmp_path):
    file = tmp_path / "out.json"
    config = semantic_generation.Config(
        n_items=(20,), n_codes=4, n_levels=3, d_model=8, beam_width=3, n_users=2, n_rounds=2, json=file
    )
    result = semantic_generation.main(config)
    assert result["catalogues"]["20"]["mb_per_million"] == pytest.approx(result["catalogues"]["20"]["mb"] * 50_000)
    assert read_json(file) == result


def test_a_trie_of_dictionaries_offers_the_codes_that_the_tree_offers():
    codes = np.random.default_rng(0).integers(0, 4, (21, 2))
    trie = semantic_generation.trie_of(prefix_tree(codes, (4, 4)))
    assert sorted((*prefix, code) for prefix, following in trie.items() for code in following if prefix) == sorted(
        map(tuple, codes[1:].tolist())
    )


@pytest.mark.slow
def test_a_beam_with_a_trie_on_the_host_finds_what_the_compiled_one_finds():
    sizes, states = (4, 4, 4), jax.random.normal(jax.random.key(0), (2, 8))
    codes = np.zeros((21, 3), np.int32)
    codes[1:] = np.stack(np.unravel_index(np.random.default_rng(0).choice(64, 20, replace=False), sizes), axis=1)
    tree = jax.tree.map(jnp.asarray, prefix_tree(codes, sizes))
    decoder_params = init_params(depth_decoder_specs(sizes, 8), jax.random.key(1))
    decoder_params = jax.tree.map(lambda leaf: 20 * leaf if leaf.ndim == 2 else leaf, decoder_params)
    head = DepthDecoder(20, DepthDecoderConfig(beam_width=3))
    ids, logs = head.top_k({PARAMS: decoder_params, TREE: tree, CODES: codes}, states, k=3)
    step = functools.partial(semantic_generation.beam_step, width=3)
    prefixes, host_logs = semantic_generation.host_beam(step, decoder_params, states, semantic_generation.trie_of(tree))
    np.testing.assert_array_equal(codes[ids], prefixes)
    np.testing.assert_allclose(logs, host_logs, rtol=1e-5)


@pytest.mark.slow
def test_steps_of_generative_models_are_compared_with_the_softmax(tmp_path):
    config = semantic_training.Config(
        n_items=40,
        n_items_large=60,
        n_codes=4,
        n_levels=3,
        n_rows=2,
        max_length=8,
        n_rounds=2,
        json=tmp_path / "out.json",
        model=TransformerConfig(d_model=8, n_blocks=1),
    )
    result = semantic_training.main(config)
    assert result["to_softmax"]["softmax"] == 1.0
    assert read_json(tmp_path / "out.json") == result


SMALL_WORLD = cold_items.Config(
    seeds=(0,),
    n_epochs=1,
    max_length=8,
    world=ListeningConfig(n_users=60, n_items=80, n_artists=20, repeat_share=0.0, sessions_per_user=4.0),
    model=TransformerConfig(d_model=8, n_blocks=1),
)


def test_cold_items_are_targets_and_nothing_else(tmp_path):
    random = np.random.default_rng(0)
    items = [random.permutation(np.arange(1, 81))[: random.integers(3, 12)] for _ in range(60)]
    lines = [" ".join(map(str, [user, *of_user])) for user, of_user in enumerate(items, 1)]
    (tmp_path / "Few.txt").write_text("\n".join(lines))
    (tmp_path / "Few_item2attributes.json").write_text(json.dumps({i: [i % 7, 7 + i % 3] for i in range(1, 81)}))
    simulated = cold_items.make_trial(SMALL_WORLD, 0)
    of_file = cold_items.make_trial(dataclasses.replace(SMALL_WORLD, data_path=tmp_path / "Few.txt"), 0)
    for trial in (simulated, of_file):
        check_cold_items(trial)
    keys, counts = np.unique(np.concatenate(items), return_counts=True)
    assert len(of_file.vectors) == len(keys)
    assert counts[of_file.is_cold].max() <= counts[~of_file.is_cold].min()


def check_cold_items(trial):
    store, targets = trial.store, trial.split.test[trial.split.test >= 0]
    is_cold = trial.is_cold[np.asarray(store.items) - 1]
    assert np.count_nonzero(trial.is_cold) == 8
    assert len(targets) > 5
    assert np.flatnonzero(is_cold).tolist() == sorted(targets.tolist())
    assert not training_counts(store, trial.split)[1:][trial.is_cold].any()
    # A target is the last event of its listener, and has a history.
    assert set(targets + 1) <= set(store.offsets.tolist())
    assert not set(targets) & set(store.offsets.tolist())


@pytest.mark.slow
def test_models_are_compared_on_cold_tracks_beside_chance(tmp_path):
    result = cold_items.main(dataclasses.replace(SMALL_WORLD, n_codes=4, json=tmp_path / "out.json"))
    assert result["means"]["chance"] == {"all": 50 / 80, "cold": 1.0}
    # All of the 8 cold tracks are among 50.
    assert {row["cold"] for row in result["means"].values()} == {1.0}
    assert read_json(tmp_path / "out.json") == result
