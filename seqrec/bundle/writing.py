"""Bundles written whole or not at all, and their programs exported anew."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from seqrec.bundle import files
from seqrec.bundle.files import Facts, ItemTableType, Search, Vocabulary, open_directory
from seqrec.bundle.histories import Ragged, ragged
from seqrec.bundle.loading import Bundle, open_bundle
from seqrec.bundle.onnx import check_convertible, write_onnx
from seqrec.bundle.programs import export_programs, has_sessions
from seqrec.bundle.search import MIN_CANDIDATES, check_products, scores_are_products, write_index
from seqrec.bundle.sessions import Sessions
from seqrec.bundle.weights import CONSTANTS, map_item_table, write_constants, write_weights
from seqrec.data.directories import replacing_directory
from seqrec.files import JsonObject, read_object, write_json
from seqrec.model import Model
from seqrec.params import Params
from seqrec.types import InputError

N_PROBES = 8
TOLERANCE = 1e-5
RECALL_AT = 20


class HeldOut(NamedTuple):
    """Histories of test users, of known ids, which searches are compared on."""

    items: Ragged
    seconds: Ragged | None = None
    """Of a model that reads times, as in `Bundle.top_ids`."""


class Description(NamedTuple):
    """What a bundle says of its model."""

    name: str
    """Of the script that trains such models."""
    config: JsonObject
    """What that script was told."""
    card: Callable[[Facts], str]
    """Text of README.md, which says how the searches did."""
    files: tuple[Path, ...] = ()
    """Other files that go with it, such as pictures that the card shows."""


def write_bundle(
    directory: Path | str,
    model: Model,
    params: Params,
    vocabulary: Vocabulary,
    description: Description,
    *,
    mask_seen: bool,
    item_table: ItemTableType = "float32",
    index: bool = False,
    onnx: bool = False,
    held_out: HeldOut | None = None,
) -> Facts:
    """Writes the bundle of a model and its parameters; one that is there is replaced. Returns its facts.

    Lists leave seen items out where `mask_seen`, unless a request says otherwise. Answers to a few random histories are
    kept, to compare with after `refresh_bundle`. With `index` there is one for approximate search. What the searches
    find of exact search's lists is measured on the histories `held_out`, of a catalogue that has more items than these
    searches rank. With `onnx` its functions are also written in that form.

    Raises:
      InputError: the model cannot be served or, with `index`, its scores are no products of vectors; or the directory
        holds something else, or cannot be written.
    """
    facts = Facts(
        model=description.name,
        n_items=len(vocabulary.keys),
        max_length=model.reads.max_length,
        d_model=model.d_model,
        times=model.reads.times,
        mask_seen=mask_seen,
        item_table=item_table,
        jax_version=jax.__version__,
        sessions=has_sessions(model),
    )
    if index:
        check_products(_names(model), "an index")
    if onnx:
        check_convertible(model, name=facts.model)
    with replacing_directory(directory, files.BUNDLE) as fresh:
        kept = {each: params[each] for each in model.specs}
        write_weights(fresh / files.WEIGHTS, jax.tree.map(np.asarray, kept), item_table=item_table)
        files.write_vocabulary(fresh / files.ITEMS, vocabulary)
        write_json(fresh / files.CONFIG, description.config)
        for file in description.files:
            shutil.copyfile(file, fresh / file.name)
        if model.constants is not None:
            write_constants(fresh / files.CONSTANTS, model.constants)
        _write_programs(fresh, model)
        if index:
            write_index(fresh / files.INDEX, map_item_table(fresh / files.WEIGHTS), facts.n_items)
        bundle = open_bundle(fresh, facts)
        answered = with_answers(bundle, probes(facts))
        write_json(fresh / files.PROBES, answered)
        if onnx:
            write_onnx(fresh, model, bundle, answered)
        if held_out is not None and scores_are_products(_names(model)) and facts.n_items > MIN_CANDIDATES:
            facts = facts._replace(recall=_recall(bundle, fresh, held_out, ("int8", "ann") if index else ("int8",)))
        (fresh / files.CARD).write_text(description.card(facts), encoding="utf-8")
        files.write_manifest(fresh, facts)
    return facts


def refresh_bundle(directory: Path, build: Callable[[JsonObject, Facts], Model]) -> None:
    """Exports the programs of a bundle anew, by this version of jax, from `build(config, facts)`.

    Raises:
      InputError: the bundle is damaged, or the new programs answer otherwise than the old; then nothing is changed.
    """
    _, old = open_directory(directory)
    model = build(read_object(directory / files.CONFIG), old)
    facts = old._replace(jax_version=jax.__version__, sessions=has_sessions(model))
    with replacing_directory(directory, files.BUNDLE) as fresh:
        for file in directory.iterdir():
            if file.name not in (files.MANIFEST, files.TOP_K, files.STATES, *files.SESSION_PROGRAMS):
                shutil.copyfile(file, fresh / file.name)
        _write_programs(fresh, model)
        kept = read_object(fresh / files.PROBES, items=list, k=int, answers=list, scores=list)
        bundle = open_bundle(fresh, facts)
        ways = [with_answers(bundle, kept)]
        if facts.sessions:
            ways.append(_answered_by_sessions(bundle, kept))
        for answered in ways:
            for place, (ids, scores) in enumerate(zip(kept["answers"], kept["scores"], strict=True)):
                if ids != answered["answers"][place] or not np.allclose(
                    scores, answered["scores"][place], rtol=TOLERANCE, atol=TOLERANCE
                ):
                    raise InputError(
                        f"{directory}: probe {place} is answered by {answered['answers'][place][:5]}…, "
                        f"not by {ids[:5]}… as at its export; the bundle is left as it was: use jax {old.jax_version}, "
                        "or export the run again"
                    )
        files.write_manifest(fresh, facts)


def _names(model: Model) -> Params:
    """The names of the bundle's parameters."""
    return {**model.specs, **({} if model.constants is None else {CONSTANTS: None})}


def _write_programs(directory: Path, model: Model) -> None:
    for name, program in export_programs(model).items():
        (directory / name).write_bytes(program)


def probes(facts: Facts) -> JsonObject:
    """Histories to ask after, none of them a user's: random items, from one to twice as many as the model reads."""
    random = np.random.default_rng(0)
    lengths = np.geomspace(1, 2 * facts.max_length, N_PROBES).astype(int).tolist()
    items = [random.integers(1, facts.n_items + 1, length).tolist() for length in lengths]
    seconds = None
    if facts.times != "none":
        seconds = [
            np.cumsum(random.integers(0, 10**6, length + (facts.times == "query"))).tolist() for length in lengths
        ]
    return {"items": items, "seconds": seconds, "k": min(20, facts.n_items)}


def with_answers(bundle: Bundle, probes: JsonObject) -> JsonObject:
    """Probes with a bundle's answers to them."""
    seconds: Ragged | None = None if probes.get("seconds") is None else ragged(probes["seconds"], np.int64)
    ids, scores = bundle.top_ids(ragged(probes["items"], np.int32), probes["k"], seconds=seconds, mask_seen=False)
    return {**probes, "answers": ids.tolist(), "scores": scores.astype(float).tolist()}


def _recall(exact: Bundle, directory: Path, held_out: HeldOut, searches: Sequence[Search]) -> JsonObject:
    """What each search finds of the lists of the exact one."""
    k = min(RECALL_AT, exact.facts.n_items)
    best, _ = exact.top_ids(held_out.items, k, seconds=held_out.seconds)
    shares: JsonObject = {}
    for search in searches:
        retrieved, _ = open_bundle(directory, exact.facts, search=search).top_ids(
            held_out.items, k, seconds=held_out.seconds
        )
        shares[search] = float(recall_of(retrieved, best).mean())
    return {"k": k, "n_users": len(best), **shares}


def recall_of(retrieved: Int[np.ndarray, "users k"], best: Int[np.ndarray, "users k"]) -> Float[np.ndarray, " users"]:
    """The share of each user's best items that was found; 0 fills lists, and of no items all are found.

    >>> recall_of(np.array([[3, 1, 0], [4, 5, 6]]), np.array([[1, 2, 0], [6, 5, 4]])).tolist()
    [0.5, 1.0]
    """
    n_common = np.sum((retrieved[:, :, None] == best[:, None, :]) & (best > 0)[:, None, :], axis=(1, 2))
    n_best = np.sum(best > 0, axis=1)
    return np.where(n_best > 0, n_common / np.maximum(n_best, 1), 1.0)


def _answered_by_sessions(bundle: Bundle, probes: JsonObject) -> JsonObject:
    """The same by sessions that read all events of a probe but the newest, and then that one."""
    keys = [bundle.vocabulary.keys[np.array(row) - 1].tolist() for row in probes["items"]]
    users, earlier, newest = [str(number) for number in range(len(keys))], slice(None, -1), slice(-1, None)

    def part(rows: list[list[Any]], which: slice) -> list[list[Any]]:
        return [row[-bundle.facts.max_length :][which] for row in rows]

    def times(which: slice) -> list[list[int]] | None:
        return None if probes.get("seconds") is None else part(probes["seconds"], which)

    sessions = Sessions(bundle, len(users))
    sessions.recommend(users, [[]] * len(users), histories=part(keys, earlier), times=times(earlier))
    answers = sessions.recommend(users, part(keys, newest), probes["k"], times=times(newest), mask_seen=False)
    return {"answers": [[bundle.ids[key] for key in row] for row in answers.items], "scores": answers.scores}
