"""Vectors of what is known of events beside their items, added to the items' vectors as an encoder reads them."""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from seqrec.data.behaviour import PositionFeature
from seqrec.items import category_specs, category_vectors, number_specs, number_vectors
from seqrec.params import Params, ParamSpec
from seqrec.types import Batch, Encoder, InputError

N_WAVES = 16


def with_behaviour(encoder: Encoder, features: Sequence[PositionFeature]) -> Encoder:
    """The encoder, which reads the sum of each item's vector and those of its event's features.

    They are the features that its batches are made with. A state knows those of the events that it knows the items of,
    and no other: when the next item is predicted they are history. The encoder's table of items must be its own still,
    so items are made of features afterwards. Without features the encoder is returned as it is.

    Raises:
      InputError: a batch does not hold the features.
    """
    if not features:
        return encoder
    d_model = encoder.specs["item_table"].shape[1]
    names = tuple(feature.name for feature in features)

    def encode(params: Params, batch: Batch, *, key: Array | None = None) -> Float[Array, "rows length d_model"]:
        held = batch.event_features or {}
        if missing := [name for name in names if name not in held]:
            raise InputError(f"the batch does not hold {missing[0]!r}; make it with the features of the encoder")
        own = params["behaviour"]
        vectors = [_vectors(feature, own[feature.name], held[feature.name]) for feature in features]
        others = {name: leaf for name, leaf in params.items() if name != "behaviour"}
        return encoder.encode(others, batch, key=key, added=sum(vectors[1:], start=vectors[0]))

    specs = {feature.name: _specs(feature, d_model) for feature in features}
    return dataclasses.replace(
        encoder, specs={**encoder.specs, "behaviour": specs}, encode=encode, event_features=names
    )


def _specs(feature: PositionFeature, d_model: int) -> Params:
    if feature.form == "categories":
        return category_specs(feature.size, d_model)
    if feature.form == "numbers":
        return number_specs(feature.size, d_model)
    drawn = {"frequencies": jax.nn.initializers.normal(1.0), "phases": jax.nn.initializers.uniform(2 * math.pi)}
    waves = {name: ParamSpec((N_WAVES,), (None,), start, decay=False) for name, start in drawn.items()}
    return {**waves, **number_specs(N_WAVES, d_model)}


def _vectors(
    feature: PositionFeature, params: Params, values: Shaped[Array, "rows length width"]
) -> Float[Array, "rows length d_model"]:
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
