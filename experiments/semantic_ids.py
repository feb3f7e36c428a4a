r"""Makes codes of items, semantic ids, from item vectors, for models that write an item code by code.

    python experiments/prepare_data.py --dataset s3rec --data-path Beauty.txt.gz --output beauty
    python experiments/semantic_ids.py beauty --item-features attributes                # into semantic-ids/ beside it
    python experiments/semantic_ids.py beauty --item-features attributes --table runs/sasrec-beauty --output joined
    python experiments/semantic_ids.py beauty --from-file semantic_ids.json.gz --output theirs

The store may be that of a run, such as runs/sasrec-beauty/store, whose split then counts too. Writes codes.parquet and
manifest.json, and a report: report.json and report.html. Codes are made of training events alone: docs/semantic_ids.md.
"""

import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tyro.conf import OmitArgPrefixes, Positional

from seqrec import phases, runtime
from seqrec.baselines.popularity import training_counts
from seqrec.config import to_json
from seqrec.data.directories import replacing_directory
from seqrec.data.split_config import SplitConfig, choose_split, split_store
from seqrec.data.store import open_store
from seqrec.files import JsonObject
from seqrec.pages.html import write_report
from seqrec.report.semantic_ids_page import as_text, page
from seqrec.run.item_vectors import item_vectors, vectors_hash
from seqrec.run.trained import split_of
from seqrec.semantic_ids.figures import report_figures
from seqrec.semantic_ids.files import SEMANTIC_IDS, read_semantic_ids, write_semantic_ids
from seqrec.semantic_ids.making import CodesConfig, check_unset, make_codes
from seqrec.semantic_ids.neighbours import neighbour_pairs
from seqrec.semantic_ids.vectors import VectorConfig
from seqrec.sharding import MeshConfig


@dataclass(frozen=True)
class Config:
    """Makes codes of items from their features, from the item table of a trained run, or from both."""

    store: Positional[Path]
    """Directory of a store: one that prepare_data.py wrote, or runs/NAME/store of a run."""
    output: Path | None = None
    """Directory for the codes; by default semantic-ids beside the store."""
    from_file: Path | None = None
    """File of codes to use instead of making them: JSON {"item": [codes]}, or Parquet with item, code_0, code_1, …"""
    vectors: OmitArgPrefixes[VectorConfig] = field(default_factory=VectorConfig)
    codes: OmitArgPrefixes[CodesConfig] = field(default_factory=CodesConfig)
    split: OmitArgPrefixes[SplitConfig] = field(default_factory=SplitConfig)


def main(config: Config) -> JsonObject:
    """Writes the codes and their report, and returns what report.json holds."""
    runtime.start(MeshConfig())
    store, output = open_store(config.store), config.output or config.store.resolve().with_name("semantic-ids")
    with replacing_directory(output, SEMANTIC_IDS) as fresh:  # which refuses other things before codes are made
        split = split_store(store, choose_split(config.split, split_of(config.store)).config)
        counts, pairs = training_counts(store, split), neighbour_pairs(store, split)
        facts = {"method": "file" if config.from_file else config.codes.method, "seed": config.codes.seed}
        if config.from_file:
            check_unset(config.vectors, config.codes, flag="--from-file")
            ids, quantised = read_semantic_ids(config.from_file, store.item_keys), None
        else:
            vectors = item_vectors(config.vectors, store, counts > 0, split_hash=split.content_hash)
            facts["vectors_hash"] = vectors_hash(vectors)
            with phases.progress(config.codes.method, unit="steps") as step:
                ids, quantised = make_codes(vectors, config.codes, counts=counts, pairs=pairs, between_steps=step)
        facts |= {"data_hash": store.content_hash, "split_hash": split.content_hash, "config": to_json(config)}
        facts |= {"versions": runtime.versions(), "command": shlex.join(["python", *sys.argv])}
        report = {**report_figures(ids, store, split, counts=counts, quantised=quantised), "facts": facts}
        write_semantic_ids(fresh, ids, store.item_keys, facts)
    print(f"\n{as_text(report)}")
    write_report(output / "report.json", report, page(report))
    return report


if __name__ == "__main__":
    runtime.run_script(main, Config)
