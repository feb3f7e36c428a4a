"""Ranges beside a config's fields, and ranges from the command line."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from seqrec.config import Choices, Range, tunable_fields, values_of, with_traced, with_values
from seqrec.encoders.transformer import TransformerConfig
from seqrec.losses.config import LossConfig
from seqrec.training import OptimizerConfig
from seqrec.tuning.space import search_space
from seqrec.types import InputError


@dataclasses.dataclass(frozen=True)
class Training:
    """Some of what scripts share."""

    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    data: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)


@dataclasses.dataclass(frozen=True)
class Script:
    """A config as scripts have it."""

    training: Training = dataclasses.field(default_factory=Training)
    model: TransformerConfig = dataclasses.field(default_factory=TransformerConfig)


def test_fields_with_a_range_are_searched_and_those_of_the_data_are_not():
    assert set(search_space(Script())) == {
        "model.dropout",
        "training.loss.temperature",
        "training.loss.label_smoothing",
        "training.optimizer.learning_rate",
        "training.optimizer.weight_decay",
    }
    assert all(field.traced for name, field in tunable_fields(Script()).items() if field.range is not None)


def test_every_range_beside_a_field_can_be_taken_by_the_config_of_every_script():
    for name, of in search_space(Script()).items():
        for value in (of.low, of.high):
            assert values_of(with_values(Script(), {name: value}), [name]) == {name: value}


def test_a_range_is_narrowed_added_and_held():
    space = search_space(
        Script(),
        given=("learning-rate=1e-4..1e-3:log", "d-model=32,64", "n-blocks=1..4", "norm=rms,layer", "gated=true,false"),
        hold=("temperature", "label-smoothing", "weight-decay"),
    )
    assert space == {
        "model.dropout": Range(0.0, 0.6),
        "training.optimizer.learning_rate": Range(1e-4, 1e-3, log=True),
        "model.d_model": Choices((32, 64)),
        "model.n_blocks": Range(1, 4),
        "model.norm": Choices(("rms", "layer")),
        "model.gated": Choices((True, False)),
    }


def test_a_range_that_the_config_refuses_is_left_out():
    config = dataclasses.replace(Script(), training=Training(loss=LossConfig(loss="bce")))
    assert "training.loss.label_smoothing" not in search_space(config)
    with pytest.raises(InputError, match="loss=bce has no label_smoothing"):
        search_space(config, given=("label-smoothing=0..0.1",))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("learning-rat=1e-4..1e-2", "perhaps you meant learning-rate"),
        ("batch-size=16,32", "cannot be searched"),
        ("dropout", "has no range; write dropout=low..high"),
        ("dropout=0.1", "two or more"),
        ("dropout=0.1,0.1", "two or more"),
        ("dropout=0.5..0.1", "low below high"),
        ("dropout=0.1..x", "'x' is not a number"),
        ("dropout=0.1..", "'' is not a number"),
        ("dropout=0.1..1.5", r"dropout=1.5 is not a share in \[0, 1\)"),
        ("dropout=nan..0.5", "low below high"),
        ("learning-rate=0..1e-2:log", "no logarithm"),
        ("learning-rate=1e-4..1e-2:ln", "the only scale"),
        ("n-blocks=1.5..3", "'1.5' is not a whole number"),
        ("d-model=32,63", "d_model=63 is not a multiple"),
        ("norm=rms,batch", "'batch' is not one of rms, layer"),
        ("norm=rms..layer", "choices with commas"),
    ],
)
def test_ranges_that_cannot_be_searched_get_one_line(given, message):
    with pytest.raises(InputError, match=message) as refusal:
        search_space(Script(), given=(given,))
    assert "\n" not in str(refusal.value)


def test_what_is_held_must_be_a_field_and_not_be_searched():
    with pytest.raises(InputError, match="perhaps you meant dropout"):
        search_space(Script(), hold=("dropouts",))
    with pytest.raises(InputError, match="both held and searched"):
        search_space(Script(), given=("dropout=0..0.1",), hold=("dropout",))
    ranges = ("dropout", "temperature", "label-smoothing", "learning-rate", "weight-decay")
    with pytest.raises(InputError, match="nothing is searched"):
        search_space(Script(), hold=ranges)


def test_values_that_do_not_go_together_are_refused_by_the_config():
    with pytest.raises(ValueError, match="not a multiple of n_heads=3"):
        with_values(Script(), {"model.d_model": 64, "model.n_heads": 3})


def test_a_traced_number_stands_in_a_config_that_would_refuse_to_look_at_it():
    @jax.jit
    def doubled(rate):
        config = with_traced(Script(), {"model.dropout": rate, "training.optimizer.learning_rate": rate})
        return config.model.dropout + config.training.optimizer.learning_rate

    assert float(doubled(jnp.float32(0.25))) == 0.5
    assert Script().model.dropout == TransformerConfig().dropout
