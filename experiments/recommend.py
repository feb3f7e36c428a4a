"""Writes lists of recommended items for all users of a file, from a bundle that export.py wrote.

    python experiments/recommend.py bundle --histories plays.parquet --k 50 --output lists.parquet

The file may be any that training reads. A command that was killed goes on where it was when it is given again.
"""

from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm
from tyro.conf import OmitArgPrefixes, Positional

from seqrec import load_bundle, runtime
from seqrec.bundle.files import Search
from seqrec.bundle.histories_file import HistoriesConfig, open_histories
from seqrec.bundle.lists_file import ListOptions, Summary, write_item_vectors, write_lists
from seqrec.data.moments import moment_us
from seqrec.data.repeated_targets import MaskSeen
from seqrec.files import address_of
from seqrec.sharding import MeshConfig
from seqrec.types import InputError


@dataclass(frozen=True)
class Arguments:
    """Writes lists of recommended items for all users of a file."""

    bundle: Positional[Path]
    """Directory of the bundle, which may be s3:// or gs://."""
    source: OmitArgPrefixes[HistoriesConfig] = field(default_factory=HistoriesConfig)
    output: Path | None = None
    """File of the lists, .parquet or .csv."""
    k: int = 50
    """Length of a list."""
    search: Search = "exact"
    """How the best items are found: exact scores all items. int8 (which takes less memory) and ann (the index that
    export.py --index wrote) choose candidates first, whose exact scores are then compared."""
    mask_seen: MaskSeen = "auto"
    """Whether items of the user's history are left out; auto does as the run was tested."""
    at: str | None = None
    """Moment that the lists are for, such as 2026-01-31, after all events; for a model that reads the query's time."""
    item_vectors: Path | None = None
    """Directory to write the vectors of all items to: vectors.npy, and keys.parquet with the item of each row."""
    user_vectors: Path | None = None
    """The same of the users; the product of a user's and an item's vector is the item's score, but for items of the
    history under --repeat-mixture, and for what the tables of --fuse add."""

    def __post_init__(self):
        if self.output is None and self.item_vectors is None and self.user_vectors is None:
            raise InputError("nothing is to be written; give an --output, --item-vectors or --user-vectors")


def main(arguments: Arguments) -> Summary | None:
    """Writes the files and says what is in them."""
    runtime.start(MeshConfig())
    bundle = load_bundle(arguments.bundle, search=arguments.search)
    if arguments.item_vectors is not None:
        write_item_vectors(bundle, arguments.item_vectors)
        print(f"written  {address_of(arguments.item_vectors)}: {bundle.facts.n_items:,} items")
    if arguments.output is None and arguments.user_vectors is None:
        return None
    mask_seen = {"auto": None, "yes": True, "no": False}[arguments.mask_seen]
    moment = None if arguments.at is None else moment_us(arguments.at) // 1_000_000
    options = ListOptions(arguments.k, mask_seen, moment)
    histories = open_histories(arguments.source, bundle.vocabulary.keys)
    with tqdm(total=histories.n_users, desc="users", disable=None, leave=False) as bar:

        def report(n_users: int) -> None:
            bar.update(n_users)
            runtime.check_interrupt()

        files = {"output": arguments.output, "user_vectors": arguments.user_vectors}
        summary = write_lists(bundle, histories, options, **files, report=report)
    print(f"written  {arguments.output or arguments.user_vectors}: {summary}")
    return summary


if __name__ == "__main__":
    runtime.run_script(main, Arguments)
