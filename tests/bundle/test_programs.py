"""The exported functions: for which devices, of which sizes, and for which models there are any."""

import jax
import numpy as np
import pytest

from bundle.small_bundles import MAX_LENGTH, a_model, kept, loaded, sizes_unchecked
from seqrec.bundle import files
from seqrec.bundle.programs import check_servable, export_programs, has_sessions
from seqrec.data.feature_values import PositionFeature
from seqrec.encoders.hawk import HawkConfig, hawk
from seqrec.encoders.seq2seq import Seq2SeqConfig, seq2seq
from seqrec.event_features import with_event_features
from seqrec.heads.softmax import softmax_model
from seqrec.repeats import with_repeats
from seqrec.types import InputError


def test_one_file_serves_every_platform_and_any_number_of_users():
    exported = jax.export.deserialize(bytearray((kept() / files.TOP_K).read_bytes()))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert [str(aval.shape) for aval in exported.out_avals] == ["(b, k)", "(b, k)"]


@pytest.mark.parametrize("n_users", [1, 3])
def test_the_functions_can_be_called_without_seqrec(n_users):
    exported = jax.export.deserialize(bytearray((kept() / files.STATES).read_bytes()))
    items = np.zeros((n_users, MAX_LENGTH), np.int32)
    items[:, 0] = 1 + np.arange(n_users)
    states = exported.call(loaded().params, {"items": items, "lengths": np.ones(n_users, np.int32)})
    assert states.shape == (n_users, 8)


def test_the_mesh_and_the_paths_of_the_machine_that_exports_are_no_part_of_a_program():
    mesh = jax.make_mesh((1, 1, 1), ("data", "fsdp", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 3)
    with sizes_unchecked(), jax.set_mesh(mesh):
        programs = export_programs(a_model())
    assert all(jax.export.deserialize(bytearray(program)).nr_devices == 1 for program in programs.values())
    text = jax.export.deserialize(bytearray(programs[files.TOP_K])).mlir_module()
    assert "sharding" not in text
    assert "manual" not in text
    assert ".py" not in text


def test_one_file_appends_to_any_rows_of_any_number_of_sessions():
    with sizes_unchecked():
        programs = export_programs(softmax_model(hawk(HawkConfig(d_model=8, n_blocks=1), n_items=30, max_length=8)))
    exported = jax.export.deserialize(bytearray(programs[files.APPEND]))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert str(exported.out_avals[0].shape).startswith("(b, ")
    assert {str(aval.shape[0]) for aval in exported.out_avals[1:]} == {"s"}


def test_a_model_that_knows_the_querys_time_or_repeats_has_no_sessions():
    assert has_sessions(a_model())
    assert not has_sessions(a_model(times="query"))
    assert not has_sessions(with_repeats(a_model()))


def test_an_encoder_decoder_is_refused():
    model = softmax_model(seq2seq(Seq2SeqConfig(), n_items=30, max_length=8))
    with pytest.raises(InputError, match=r"an encoder-decoder generates continuations, .*; export another model"):
        check_servable(model)


def test_a_model_that_reads_more_of_an_event_than_a_request_holds_is_refused():
    model = with_event_features(a_model(), [a_feature()])
    with pytest.raises(InputError, match="the model reads 'device' of events, which a bundle is not told; train one"):
        check_servable(model)


def a_feature() -> PositionFeature:
    return PositionFeature("device", "categories", 3, lambda store, places: np.zeros((len(places), 1), np.int32))
