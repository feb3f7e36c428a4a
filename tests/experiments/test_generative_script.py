"""The script that trains generative models, from a file of codes to the figures of beams."""

import json
from pathlib import Path

import beam_widths
import generative
import pytest

from seqrec import runtime
from seqrec.heads.depth_decoder import DepthDecoder
from seqrec.heads.token_decoder import TokenDecoder
from seqrec.later_targets import next_or_later_item
from seqrec.run.data import make_task
from seqrec.types import InputError


@pytest.fixture
def codes(tmp_path):
    """Codes of the toy items, whose keys are 1..30."""
    file = tmp_path / "codes.json"
    file.write_text(json.dumps({str(item): [item % 6, item // 6] for item in range(1, 31)}))
    return ("--semantic-ids", str(file))


def built(toy, *flags):
    config = runtime.parse(generative.Config, [*toy, *flags])
    return generative.build(config, make_task(config.training.data, store_of_toy(), seed=0))


def store_of_toy():
    from conftest import toy_histories

    from seqrec.data.store import store_from_sequences

    return store_from_sequences(toy_histories())


def test_codes_of_a_file_make_a_model_whose_settings_are_those_of_the_flags(toy, codes):
    model = built(toy, *codes, "--no-item-vectors", "--label-smoothing", "0.1", "--dropout", "0.4", "--beam-width", "7")
    assert isinstance(model.head, DepthDecoder)
    assert (model.head.label_smoothing, model.head.dropout, model.head.config.beam_width) == (0.1, 0.4, 7)
    assert "item_table" not in model.specs


def test_later_items_are_drawn_as_targets(toy, codes):
    flags = ("--later-share", "0.3", "--n-later", "2")
    for tokens in ((), ("--tokens", "codes", "--ranks", "beam")):
        model = built(toy, *codes, *flags, *tokens)
        assert model.ask.func is next_or_later_item
        assert (model.ask.keywords["share"], model.ask.keywords["n_later"]) == (0.3, 2)
        assert model.auxiliary_loss is None  # no scores of items, which would be wrong of codes
    with pytest.raises(InputError, match="later targets need a causal encoder"):
        built(toy, *codes, *flags, *tokens, "--no-causal")


@pytest.mark.parametrize("causal", [True, False])
def test_flat_tokens_are_a_flag(toy, codes, causal):
    flags = ("--tokens", "codes", "--ranks", "beam", "--beam-width", "7", "--n-decoder-blocks", "1")
    model = built(toy, *codes, *flags, *(() if causal else ("--no-causal",)), "--no-item-vectors")
    assert isinstance(model.head, TokenDecoder)
    assert (model.head.beam_width, model.encoder.causal) == (7, causal)
    assert len(model.specs["semantic_ids"]["blocks"]) == 1
    assert "item_table" not in model.specs
    assert "item_table" in built(toy, *codes, *flags).specs


def test_what_a_generative_model_cannot_do_is_refused_in_a_line(toy, codes):
    with pytest.raises(InputError, match="n_decoder_blocks=0 is below 1"):
        generative.Config(n_decoder_blocks=0)
    with pytest.raises(InputError, match="needs codes of its items"):
        built(toy)
    with pytest.raises(InputError, match=r"loss=bce is about scores of items"):
        built(toy, *codes, "--loss", "bce")
    with pytest.raises(InputError, match="use --ranks beam and --lists beam"):
        built(toy, *codes, "--tokens", "codes", "--ranks", "beam", "--lists", "exact")
    with pytest.raises(InputError, match=r"item_features=\('audio',\) make item vectors"):
        built(toy, *codes, "--no-item-vectors", "--item-features", "audio")
    with pytest.raises(InputError, match="--lists exact knows no item vectors"):
        built(toy, *codes, "--dense-weight", "1", "--lists", "exact")
    with pytest.raises(InputError, match=r"widths=\(10, 0\) are to be numbers of 1 or more"):
        beam_widths.Arguments(Path("run"), widths=(10, 0))


@pytest.mark.slow
@pytest.mark.parametrize("causal", ["--causal", "--no-causal"])
def test_a_run_of_flat_tokens_trains_and_is_tested(toy, codes, causal, tmp_path):
    flags = ("--tokens", "codes", "--ranks", "beam", "--beam-width", "30", causal, "--max-epochs", "2")
    results = generative.main(
        runtime.parse(generative.Config, [*toy, *codes, *flags, "--output", str(tmp_path / "run")])
    )
    assert 0 < results["test"]["ndcg@10"] < 1
    with pytest.raises(InputError, match="no model of codes that ranks both exactly and by beams"):
        beam_widths.main(beam_widths.Arguments(tmp_path / "run"))


@pytest.mark.slow
def test_a_run_trains_and_its_beams_are_compared_with_exact_ranks(toy, codes, tmp_path):
    flags = [*toy, *codes, "--max-epochs", "2", "--output", str(tmp_path / "run")]
    results = generative.main(runtime.parse(generative.Config, flags))
    arguments = beam_widths.Arguments(tmp_path / "run", widths=(1, 30), json=tmp_path / "beams.json")
    figures = beam_widths.main(arguments)["figures"]
    # Exact ranks are those of the run, and a beam that holds all items loses none.
    assert figures["exact"]["ndcg@10"] == pytest.approx(results["test"]["ndcg@10"])
    assert figures["beam of 30"]["ndcg@10"] == pytest.approx(figures["exact"]["ndcg@10"])
