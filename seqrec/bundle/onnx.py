"""A bundle's functions as ONNX, for runtimes other than jax: states by jax2onnx, and lists by nodes behind these."""

import importlib.util
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from seqrec.bundle import files
from seqrec.bundle.histories import Histories, make_histories, ragged
from seqrec.bundle.loading import Bundle
from seqrec.bundle.programs import batch_of
from seqrec.bundle.weights import ITEM_TABLE
from seqrec.data.paths import as_input_error
from seqrec.files import JsonObject
from seqrec.heads.softmax import SoftmaxHead
from seqrec.model import Model
from seqrec.params import Params
from seqrec.types import InputError

TOLERANCE = 1e-5
"""Largest difference from the bundle's own programs, absolute and relative."""


def check_convertible(model: Model, *, name: str) -> None:
    """Refuses, before anything is written, what cannot be converted.

    Raises:
      InputError: a package is missing, or the model's head scores items by more than a product.
    """
    if not isinstance(model.head, SoftmaxHead):
        raise InputError(
            f"{name} has no form in ONNX: its head {type(model.head).__name__} scores items by more than a product of "
            "vectors; leave --onnx out, or train it with --no-repeat-mixture and with --fuse that names no table"
        )
    if missing := [each for each in ("jax2onnx", "onnxruntime") if importlib.util.find_spec(each) is None]:
        raise InputError(f'--onnx needs the package {missing[0]}; run pip install "seqrec[onnx]"')


def write_onnx(directory: Path, model: Model, bundle: Bundle, probes: JsonObject) -> None:
    """Writes the functions of a bundle, as `loading.open_bundle` opens it, and compares their answers to the probes.

    Raises:
      InputError: the model's functions cannot be converted, or answer otherwise than the bundle.
    """
    name = bundle.facts.model
    # Neither library has errors of its own for what it cannot do.
    with as_input_error(f"{name} has no form in ONNX that jax2onnx finds ({{error}}); leave --onnx out", Exception):
        converted = _states(model, bundle)
        table = np.asarray(bundle.params[ITEM_TABLE])
        states, top_k = (
            each.SerializeToString() for each in (converted, _with_lists(converted, table, n_items=model.n_items))
        )
        differing = _differing_answers(states, top_k, bundle, probes)
    if differing:
        raise InputError(f"{name} as ONNX answers otherwise than its bundle ({differing}); leave --onnx out")
    (directory / files.ONNX_STATES).write_bytes(states)
    (directory / files.ONNX_TOP_K).write_bytes(top_k)


def _states(model: Model, bundle: Bundle) -> Any:
    """The ONNX model of `states(items, lengths, …) -> [b, d_model]`, for any number of histories."""
    import jax2onnx

    # It warns of each value whose type it leaves open, of which ONNX infers all.
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)
    fields = _histories(bundle, [[1]]).as_dict()

    def states(*given: Array) -> Array:
        return newest_states(model, bundle.params, Histories(**dict(zip(fields, given, strict=True))))

    shapes: list[Any] = [jax.ShapeDtypeStruct(("b", *each.shape[1:]), jnp.int32) for each in fields.values()]
    return jax2onnx.to_onnx(states, shapes, model_name="states", input_names=list(fields), output_names=["states"])


def newest_states(model: Model, params: Params, histories: Histories) -> Float[Array, "users d_model"]:
    """As `programs.states`, without what jax2onnx converts wrongly: to look up a place that is itself computed."""

    def state(history: Histories) -> Array:
        batch, _ = batch_of(jax.tree.map(lambda leaf: leaf[None], history))
        encoded = model.encoder.encode(params, batch)[0].astype(jnp.float32)
        is_newest = jnp.arange(len(encoded)) == history.lengths - 1
        return jnp.sum(jnp.where(is_newest[:, None], encoded, 0.0), axis=0)

    return jax.vmap(state)(histories)


def _with_lists(states: Any, item_table: Float[np.ndarray, "n_rows d_model"], *, n_items: int) -> Any:
    """The ONNX model of `top_k(items, lengths, …, allow, exclude, k) -> ids [b, k], scores [b, k]`.

    Built of nodes here: jax2onnx does not convert the scatter that marks listed items, and k would be fixed.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.ModelProto()
    model.CopyFrom(states)
    graph = model.graph
    graph.name = "top_k"
    rows = np.arange(len(item_table))
    constants = {
        "lists_item_table": item_table,
        "lists_not_an_item": np.where((rows >= 1) & (rows <= n_items), 0, -np.inf).astype(np.float32),
        "lists_none": np.float32(-np.inf),
        "lists_zero": np.float32(0),
        "lists_padding": np.int32(0),
        "lists_id": np.int32(0),
    }
    graph.initializer.extend(numpy_helper.from_array(np.asarray(each), name) for name, each in constants.items())
    int32, int64 = TensorProto.INT32, TensorProto.INT64
    graph.input.extend(
        helper.make_tensor_value_info(name, kind, shape)
        for name, kind, shape in (("allow", int32, ["b", "a"]), ("exclude", int32, ["b", "e"]), ("k", int64, [1]))
    )
    node = helper.make_node
    graph.node.extend(
        [
            node("Gemm", ["states", "lists_item_table"], ["lists_products"], transB=1),
            # A NaN is never listed.
            node("IsNaN", ["lists_products"], ["lists_is_nan"]),
            node("Where", ["lists_is_nan", "lists_none", "lists_products"], ["lists_numbers"]),
            node("Add", ["lists_numbers", "lists_not_an_item"], ["lists_scores"]),
            node("Shape", ["exclude"], ["lists_exclude_shape"]),
            node("Expand", ["lists_none", "lists_exclude_shape"], ["lists_excluded"]),
            node("ScatterElements", ["lists_scores", "exclude", "lists_excluded"], ["lists_left"], axis=1),
            # Where `allow` names nothing for anybody, every item may be listed; else those alone that it names.
            node("ReduceMax", ["allow"], ["lists_last_allowed"], keepdims=0),
            node("Greater", ["lists_last_allowed", "lists_padding"], ["lists_is_limited"]),
            node("Where", ["lists_is_limited", "lists_none", "lists_zero"], ["lists_unnamed"]),
            node("Shape", ["lists_left"], ["lists_shape"]),
            node("Expand", ["lists_unnamed", "lists_shape"], ["lists_all_unnamed"]),
            node("Shape", ["allow"], ["lists_allow_shape"]),
            node("Expand", ["lists_zero", "lists_allow_shape"], ["lists_allowed"]),
            node("ScatterElements", ["lists_all_unnamed", "allow", "lists_allowed"], ["lists_added"], axis=1),
            node("Add", ["lists_left", "lists_added"], ["lists_candidates"]),
            node("TopK", ["lists_candidates", "k"], ["scores", "lists_places"], axis=1),
            node("Cast", ["lists_places"], ["lists_ids"], to=int32),
            node("Greater", ["scores", "lists_none"], ["lists_is_listed"]),
            node("Where", ["lists_is_listed", "lists_ids", "lists_id"], ["ids"]),
        ]
    )
    del graph.output[:]
    graph.output.extend(
        [
            helper.make_tensor_value_info("ids", int32, ["b", "k"]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["b", "k"]),
        ]
    )
    onnx.checker.check_model(model)
    return model


def _histories(bundle: Bundle, items: list[list[int]], seconds: list[list[int]] | None = None) -> Histories:
    facts = bundle.facts
    if facts.times != "none" and seconds is None:
        seconds = [[0] * (len(row) + (facts.times == "query")) for row in items]
    given = None if seconds is None else ragged(seconds, np.int64)
    return make_histories(ragged(items, np.int32), max_length=facts.max_length, times=facts.times, seconds=given)


def _differing_answers(states: bytes, top_k: bytes, bundle: Bundle, probes: JsonObject) -> str:
    """What differs first, or nothing: states, lists, lists without the best items, and those of given items alone."""
    n_users, n_items, k = len(probes["items"]), bundle.facts.n_items, probes["k"]
    given = _histories(bundle, probes["items"], probes.get("seconds")).as_dict()
    expected = np.asarray(bundle.programs[files.STATES](bundle.params, given))
    (encoded,) = _run(states, given)
    if not np.allclose(encoded, expected, rtol=TOLERANCE, atol=TOLERANCE):
        return f"its states by up to {np.abs(encoded - expected).max():.1e}"
    # All of one shape, which is compiled once.
    nothing, best = np.zeros((n_users, k), np.int32), np.asarray(probes["answers"], np.int32)
    alternate = np.zeros_like(nothing) + np.arange(1, 2 * k, 2, dtype=np.int32) % (n_items + 1)
    for allow, exclude in ((nothing, nothing), (nothing, best), (alternate, best)):
        wanted = bundle.programs[files.TOP_K](bundle.params, given, allow, exclude, np.zeros(k, np.int8))
        lists = _run(top_k, {**given, "allow": allow, "exclude": exclude, "k": np.array([k])})
        if not _same_lists(lists, [np.asarray(each) for each in wanted]):
            return "its lists"
    return ""


def _same_lists(lists: list[np.ndarray], wanted: list[np.ndarray]) -> bool:
    """Whether scores are equal to `TOLERANCE`, and ids where no neighbour in the list, or behind it, ties with them."""
    (ids, scores), (wanted_ids, wanted_scores) = lists, wanted
    near: dict[str, Any] = {"rtol": TOLERANCE, "atol": TOLERANCE}
    ties = np.isclose(wanted_scores[:, 1:], wanted_scores[:, :-1], **near)
    is_tied: Bool[np.ndarray, "users k"] = np.pad(ties, ((0, 0), (1, 0))) | np.pad(
        ties, ((0, 0), (0, 1)), constant_values=True
    )
    return bool(np.allclose(scores, wanted_scores, **near) and np.all((ids == wanted_ids) | is_tied))


def _run(program: bytes, given: Mapping[str, Int[np.ndarray, "..."]]) -> list[np.ndarray]:
    """What onnxruntime answers."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(program, options, providers=["CPUExecutionProvider"])
    return session.run(None, dict(given))
