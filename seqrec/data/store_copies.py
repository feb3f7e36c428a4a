"""Stores in a bucket: each is fetched once, and kept by its hash."""

import contextlib
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from seqrec.data.bucket_files import STORE_MARKER, explained, get, open_bucket
from seqrec.data.directories import move_into_place
from seqrec.data.paths import as_input_error, is_in_bucket
from seqrec.data.shards import INDEX_FILES, ROOT, shards_of
from seqrec.types import InputError, Part

logger = logging.getLogger("seqrec")

WHOLE = Part()
SHARED = (".npy", ".parquet")
"""Ends of the names of a store's files that appends leave as they are."""


def local_store(directory: Path, part: Part = WHOLE) -> Path:
    """The local directory of a store: a store in a bucket is fetched once, and kept by its hash.

    It is kept under stores/ in SEQREC_CACHE, or in ~/.cache/seqrec. Of several parts, one fetches its own shards alone,
    and `INDEX_FILES` of others where some are appended, unless the whole store is there already.

    Raises:
      InputError: the bucket cannot be read or holds no store there.
    """
    if not is_in_bucket(directory):
        return directory
    bucket = open_bucket(directory)
    with explained(bucket.address):
        sizes = bucket.sizes()
        if STORE_MARKER not in sizes:
            raise InputError(f"{bucket.address} holds no {STORE_MARKER}, so no whole store; name the directory of one")
        manifest = bucket.files.cat_file(bucket.place(STORE_MARKER))
    hashes, directories, others = [""], {ROOT}, set()
    with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
        facts = json.loads(manifest)
        shards = facts.get("shards", [])
        own = {str(shard["directory"]) for shard in shards[shards_of(part)]}
        if any(shard.get("is_appended") for shard in shards):
            others = {str(shard["directory"]) for shard in shards} - own
        directories = (directories | own) - others
        hashes = [str(each["content_hash"]) for each in (facts, *reversed(facts.get("versions", [])))]
    # They name directories, so they must be what hashes are.
    content_hash, *earlier = hashes
    if not all(re.fullmatch("[0-9a-f]{64}", each) for each in hashes):
        raise InputError(f"{bucket.place(STORE_MARKER)} is not a sequence store's manifest; prepare the data again")
    cache = Path(os.environ.get("SEQREC_CACHE") or Path.home() / ".cache" / "seqrec")
    cached, suffix = cache / "stores" / content_hash, ""
    if part.n_parts > 1 and not (cached / STORE_MARKER).is_file():
        suffix = f"-{part.number}-of-{part.n_parts}"
        cached = cached.with_name(content_hash + suffix)
    if (cached / STORE_MARKER).is_file():
        return cached
    logger.info("fetching    %s into %s", bucket.address, cached)
    with as_input_error(f"{cached.parent} cannot be made ({{error}}); set SEQREC_CACHE to a directory", OSError):
        cached.parent.mkdir(parents=True, exist_ok=True)
        # Beside its place, because a rename is atomic only inside one file system.
        scratch = Path(tempfile.mkdtemp(prefix=".", dir=cached.parent))
    try:
        # Other files are of an append that has not ended, or splits of what the store was before.
        directories |= {name.rpartition("/")[0] for name in sizes if name.startswith(f"splits/{content_hash}/")}
        wanted = {}
        for name, size in sizes.items():
            place, _, file = name.rpartition("/")
            if (place or ROOT) in directories or ((place or ROOT) in others and file in INDEX_FILES):
                wanted[name] = size
        with explained(bucket.address):
            get(bucket, scratch, _not_linked(scratch, wanted, [cached.with_name(each + suffix) for each in earlier]))
            # Who replaces a store takes its manifest away first; who appends to one replaces it last.
            manifest_after = bucket.files.cat_file(bucket.place(STORE_MARKER))
        if manifest_after != manifest:
            raise InputError(f"{bucket.address} was replaced while it was read; start again")
        move_into_place(scratch, cached)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return cached


def _not_linked(fresh: Path, sizes: Mapping[str, int], earlier: Sequence[Path]) -> dict[str, int]:
    """Links what copies of the store before appends hold, since these leave arrays and tables as they are; the rest."""
    left = dict(sizes)
    for name, size in sizes.items():
        file = next((copy / name for copy in earlier if (copy / name).is_file()), None)
        if file is None or ".." in name.split("/") or not name.endswith(SHARED) or file.stat().st_size != size:
            continue
        (fresh / name).parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError):  # a file system without hard links
            os.link(file, fresh / name)
            del left[name]
    return left
