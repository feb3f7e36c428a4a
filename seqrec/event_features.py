"""Vectors of events' other features, added to the items' vectors as an encoder reads them."""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from seqrec.data.feature_values import PositionFeature
from seqrec.items import category_specs, category_vectors, number_specs, number_vectors
from seqrec.model import Model
from seqrec.params import Params, ParamSpec
from seqrec.types import Batch, InputError, States

N_WAVES = 16
PARAMS = "behaviour"
"""Name of the parameters; their start values depend on it, so that another name would move kept figures."""


def with_event_features(model: Model, features: Sequence[PositionFeature]) -> Model:
    """The model whose encoder reads the sum of each item's vector and those of its event's features.

    They are the features that its batches are made with. A state knows the features of the events whose items it
    knows, and of no other: when the next item is predicted they are history. Without features the model is returned
    as it is.

    Raises:
      InputError: the model's states know later events than their own, or it reads event features already; or, from
        `encode`, a batch lacks a feature.
    """
    if not features:
        return model
    names = tuple(feature.name for feature in features)
    if model.reads.event_features:
        raise InputError(f"the model reads {model.reads.event_features[0]!r} already; add all event features at once")
    if not model.encoder.causal:
        raise InputError(f"{names[0]!r} needs a causal encoder, whose states know no later event; leave it out")
    encode_items = model.encoder.encode

    def encode(params: Params, batch: Batch, *, key: Array | None = None, added: States | None = None) -> States:
        in_batch = batch.event_features or {}
        if missing := [name for name in names if name not in in_batch]:
            raise InputError(f"the batch does not hold {missing[0]!r}; make it with the features of the model")
        feature_params = params[PARAMS]
        vectors = [_vectors(feature, feature_params[feature.name], in_batch[feature.name]) for feature in features]
        if added is not None:
            vectors.append(added)
        others = {name: leaf for name, leaf in params.items() if name != PARAMS}
        return encode_items(others, batch, key=key, added=sum(vectors[1:], start=vectors[0]))

    specs = {feature.name: _specs(feature, model.d_model) for feature in features}
    reads = dataclasses.replace(model.reads, event_features=names)
    # Without what would read no features.
    encoder = dataclasses.replace(model.encoder, encode=encode, reads=reads, decoder=None, incremental=None)
    return dataclasses.replace(model, specs={**model.specs, PARAMS: specs}, encoder=encoder)


def _specs(feature: PositionFeature, d_model: int) -> Params:
    if feature.form == "categories":
        return category_specs(feature.size, d_model)
    if feature.form == "numbers":
        return number_specs(feature.size, d_model)
    drawn = {"frequencies": jax.nn.initializers.normal(1.0), "phases": jax.nn.initializers.uniform(2 * math.pi)}
    waves = {name: ParamSpec((N_WAVES,), (None,), start, decay=False) for name, start in drawn.items()}
    return {**waves, **number_specs(N_WAVES, d_model)}


def _vectors(feature: PositionFeature, params: Params, values: Shaped[Array, "rows length width"]) -> States:
    flat = values.reshape(-1, values.shape[-1])
    if feature.form == "categories":
        n_each = jnp.maximum(jnp.sum(flat > 0, axis=1), 1).astype(jnp.float32)
        vectors = category_vectors(params, flat, n_each)
    else:
        known = ~jnp.isnan(flat[:, 0])
        numbers = jnp.where(known[:, None], flat, 0.0)  # before they are used: a gradient of NaN is NaN even unused
        vectors = number_vectors(params, waves(params, numbers) if feature.form == "waves" else numbers, known)
    return vectors.reshape(*values.shape[:-1], -1)


def waves(params: Params, numbers: Float[Array, "n 1"]) -> Float[Array, "n n_waves"]:
    """A learned function of a number: one straight line, and waves of learned lengths (Kazemi et al. 2019, eq. 1)."""
    angles = numbers * params["frequencies"] + params["phases"]
    return jnp.concatenate([angles[:, :1], jnp.sin(angles[:, 1:])], axis=1)
