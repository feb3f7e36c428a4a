"""Bundles of models that are too small to be good, in seconds."""

import contextlib
import dataclasses
import functools
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import jax
import jaxtyping
import numpy as np

from seqrec.bundle import files
from seqrec.bundle.files import Facts, Vocabulary
from seqrec.bundle.loading import Bundle, load_bundle
from seqrec.bundle.writing import Description, write_bundle
from seqrec.data.history import History, history_batch
from seqrec.encoders.hstu import HSTUConfig, hstu
from seqrec.encoders.transformer import TransformerConfig, transformer
from seqrec.files import read_object, write_json
from seqrec.heads.softmax import softmax_model
from seqrec.model import Model
from seqrec.params import Params, init_params

N_ITEMS, MAX_LENGTH = 30, 6
KEYS = np.array([f"track-{number}" for number in range(1, N_ITEMS + 1)], object)
COUNTS = np.array([9 if item == 6 else 5 if item == 4 else 1 for item in range(1, N_ITEMS + 1)])
"""Popularity: item 6 before item 4 before all others, which tie."""


@contextlib.contextmanager
def sizes_unchecked():
    """Inside, the types that only tests check are not: an exported function's sizes are expressions, not numbers."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def a_model(n_items: int = N_ITEMS, *, times: str = "none") -> Model:
    """A Transformer of one block, or HSTU where the query's time is read."""
    if times == "query":
        return softmax_model(
            hstu(HSTUConfig(d_model=8, n_blocks=1), n_items=n_items, max_length=MAX_LENGTH, times=times)
        )
    config = TransformerConfig(d_model=8, n_blocks=1)
    return softmax_model(transformer(config, n_items=n_items, max_length=MAX_LENGTH, times=times))


def random_params(model: Model, *, seed: int = 0) -> Params:
    """Parameters large enough that no two items score alike."""
    return jax.tree.map(lambda leaf: 5 * leaf, init_params(model.specs, jax.random.key(seed)))


def write(
    directory: Path,
    model: Model,
    params: Params,
    *,
    keys: np.ndarray = KEYS,
    counts: np.ndarray = COUNTS,
    name: str = "sasrec",
    card: Callable[[Facts], str] = lambda facts: "a card\n",
    **options,
) -> None:
    """Writes a bundle of this model."""
    description = Description(name, {}, card)
    with sizes_unchecked():
        write_bundle(
            directory,
            model,
            params,
            Vocabulary(keys, counts[: len(keys)]),
            description,
            **{"mask_seen": True, **options},
        )


@functools.cache
def kept(times: str = "none") -> Path:
    """The directory of a bundle that no test changes."""
    directory = Path(tempfile.mkdtemp(prefix="seqrec-bundle-")) / "bundle"
    model = a_model(times=times)
    write(directory, model, random_params(model))
    return directory


@functools.cache
def loaded(times: str = "none") -> Bundle:
    """The bundle of `kept`."""
    return load_bundle(kept(times))


def copy_of(directory: Path, *, times: str = "none") -> Path:
    """A bundle that a test may damage."""
    return Path(shutil.copytree(kept(times), directory / "bundle"))


def without_sessions(bundle: Path) -> Path:
    """The same as it was written before there were sessions."""
    manifest = read_object(bundle / files.MANIFEST)
    del manifest["sessions"]
    for name in files.SESSION_PROGRAMS:
        (bundle / name).unlink()
        del manifest["files"][name]
    write_json(bundle / files.MANIFEST, manifest)
    return bundle


def answers_of(model: Model, params: Params, histories: list[History], *, k: int, mask_seen: bool = True):
    """Ids and scores of each history's best items, as `make_recommend` finds them, one history at a time."""
    width = max(len(history.items) for history in histories)

    @jax.jit
    def top(params, batch, last, excluded):
        return model.head.top_k(params, model.queries(params, batch, last), k=k, exclude=excluded)

    answers = []
    for history in histories:
        items = np.asarray(history.items, np.int32)
        excluded = np.zeros((1, width), np.int32)
        excluded[0, : len(items)] = items * mask_seen
        last = np.array([min(len(items), model.reads.max_length) - 1], np.int32)
        batch = history_batch(history._replace(items=items), model.reads)
        answers.append(tuple(np.asarray(each)[0] for each in top(params, batch, last, excluded)))
    return answers


def replace_facts(bundle: Bundle, **facts) -> Bundle:
    """The bundle with other facts."""
    return dataclasses.replace(bundle, facts=bundle.facts._replace(**facts))
