"""Another catalogue for a bundle whose items have codes, such as the tracks of today: arrays change, programs stay."""

import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Integer

from seqrec.bundle import files
from seqrec.bundle.files import Vocabulary, open_directory, read_vocabulary, write_vocabulary
from seqrec.bundle.loading import open_bundle
from seqrec.bundle.weights import read_constants, write_constants
from seqrec.bundle.writing import probes, with_answers
from seqrec.data.directories import replacing_directory
from seqrec.data.paths import as_input_error
from seqrec.files import write_json
from seqrec.layers import item_table_rows
from seqrec.prefix_tree import prefix_tree
from seqrec.semantic_ids.codes import SemanticIds
from seqrec.semantic_ids.files import read_item_keys, read_semantic_ids
from seqrec.types import InputError


class Changes(NamedTuple):
    """What became of the items."""

    n_listed: int
    """Items of the new catalogue."""
    n_new: int
    """Those of them that the bundle did not know."""
    n_left: int
    """Items that are known in histories and listed no more."""

    def __str__(self) -> str:
        """One line.

        >>> print(Changes(30, 2, 0))
        30 items are listed, 2 of them new; 0 known ones are not
        """
        return f"{self.n_listed:,} items are listed, {self.n_new:,} of them new; {self.n_left:,} known ones are not"


def replace_catalogue(directory: Path, codes: Path) -> Changes:
    """Makes the items of a file of codes the catalogue of the bundle in a local directory.

    Items of which the file has no codes are read in histories as before, and never listed; new ones are known by their
    codes alone. Codes must be of the codebooks of the run. Programs and weights stay as they are.

    Raises:
      InputError: the bundle's items have no codes, the new ones are of other codebooks, or they do not fit the sizes
        that its programs were exported for; the bundle is left as it was.
    """
    _, facts = open_directory(directory)
    if not (directory / files.CODES).is_file():
        raise InputError(f"{directory}: the model's items have no codes; give a bundle of a run of generative.py")
    vocabulary = read_vocabulary(directory / files.ITEMS)
    listed = read_item_keys(codes, vocabulary.keys)
    known = set(vocabulary.keys.tolist())
    vocabulary = _with_items(vocabulary, np.array([key for key in listed.tolist() if key not in known], listed.dtype))
    place = {key: item for item, key in enumerate(vocabulary.keys.tolist(), start=1)}
    ids = np.array([place[key] for key in listed.tolist()], np.int32)
    is_listed = np.isin(np.arange(1, 1 + len(vocabulary.keys)), ids)
    constants = read_constants(directory / files.CONSTANTS)
    own_keys = read_item_keys(directory / files.CODES, vocabulary.keys)
    n_room = len(constants["codes"]) - 1
    if n_room < item_table_rows(len(own_keys)):  # no room was made, and what is left are rows of padding
        n_room = len(own_keys)
    if len(vocabulary.keys) > n_room:
        raise InputError(
            f"{codes}: with {len(vocabulary.keys) - len(known):,} new items there are {len(vocabulary.keys):,}, and "
            f"{directory} has room for {n_room:,}; train and export again"
        )
    first = read_semantic_ids(directory / files.CODES, own_keys)
    new = read_semantic_ids(codes, listed)
    _check_codebooks(codes, first, new, constants["codes"], ids)
    rows = constants["codes"].astype(np.int32)
    rows[ids] = new.codes[1:]
    # The sizes of the programs' tree are those that it had at the export.
    exported = np.zeros_like(rows)
    exported[: len(first.codes)] = first.codes
    like = prefix_tree(exported, first.n_codes, items=np.arange(1, len(first.codes)))
    with as_input_error(f"{codes}: {{error}}", InputError):
        tree = prefix_tree(rows, first.n_codes, items=ids, like=like)
    constants = {"codes": rows.astype(constants["codes"].dtype), "tree": tree}
    n_items = len(vocabulary.keys)
    facts = facts._replace(n_items=n_items)
    with replacing_directory(directory, files.BUNDLE) as fresh:
        for file in directory.iterdir():
            if file.name not in (files.MANIFEST, files.CONSTANTS, files.ITEMS, files.PROBES):
                shutil.copyfile(file, fresh / file.name)
        write_constants(fresh / files.CONSTANTS, constants)
        write_vocabulary(fresh / files.ITEMS, vocabulary._replace(is_listed=None if is_listed.all() else is_listed))
        write_json(fresh / files.PROBES, with_answers(open_bundle(fresh, facts), probes(facts)))
        files.write_manifest(fresh, facts)
    return Changes(len(ids), n_items - len(known), n_items - len(ids))


def _with_items(vocabulary: Vocabulary, new: np.ndarray) -> Vocabulary:
    """The vocabulary with more items, of which nothing but their keys is known."""
    titles, attributes = vocabulary.titles, vocabulary.attributes
    return Vocabulary(
        np.concatenate([vocabulary.keys, new]),
        np.concatenate([vocabulary.n_events, np.zeros(len(new), np.int64)]),
        None if titles is None else np.concatenate([titles, np.full(len(new), "", object)]),
        None if attributes is None else pa.concat_arrays([attributes, pa.array([[]] * len(new), attributes.type)]),
    )


def _check_codebooks(
    path: Path, first: SemanticIds, new: SemanticIds, codes: Integer[np.ndarray, "n_rows n_levels"], ids: np.ndarray
) -> None:
    """Refuses codes that cannot be of the same codebooks: sizes that do not fit, or known items that moved."""
    n_codes = tuple(int(n) for n in 1 + new.codes[1:].max(axis=0))
    if len(n_codes) != first.n_levels or any(n > most for n, most in zip(n_codes, first.n_codes, strict=True)):
        raise InputError(
            f"{path} has codes below {n_codes}, a number a level, and the model writes codes below {first.n_codes}; "
            "make codes with the codebooks of its run"
        )
    known = ids <= len(first.codes) - 1
    if not known.any():
        raise InputError(f"{path} has codes of none of the bundle's own items; write the keys of its data")
    n_moved = int(np.count_nonzero(codes[ids[known], 0] != new.codes[1:][known, 0]))
    if 2 * n_moved > np.count_nonzero(known):
        raise InputError(
            f"{path}: {n_moved:,} of {np.count_nonzero(known):,} known items have another first code than at the "
            "export, so the codes are of other codebooks; make codes with those of the run"
        )
