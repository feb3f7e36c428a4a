"""Facts about the benchmarks of models that write semantic ids, at sizes where they take a second."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import semantic_generation
import semantic_training

from seqrec.encoders.transformer import TransformerConfig
from seqrec.files import read_json


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
    trie = semantic_generation.trie_of(semantic_generation.prefix_tree(codes, (4, 4)))
    assert sorted((*prefix, code) for prefix, following in trie.items() for code in following if prefix) == sorted(
        map(tuple, codes[1:].tolist())
    )


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
