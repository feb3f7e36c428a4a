"""Writes what serving needs of a run, its bundle: weights, vocabulary, exported functions and a model card.

    python experiments/export.py runs/sasrec-movielens-demo-20260101-120000 --output bundle
    python experiments/export.py --refresh bundle      # exports its functions anew, by the jax that is installed here

docs/bundle.md says what is in it, and how to ask it for recommendations.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from scripts import TRAINING
from tyro.conf import Positional, arg

from seqrec import runtime
from seqrec.bundle.files import ItemTableType
from seqrec.data.buckets import working_copy
from seqrec.export import bundle_run, refresh
from seqrec.files import address_of
from seqrec.runs import beside
from seqrec.types import InputError


@dataclass(frozen=True)
class Arguments:
    """Exports a run as a bundle for serving, or the functions of a bundle anew."""

    run: Annotated[Positional[Path | None], arg(metavar="RUN")] = None
    """Directory of the run, as the training script printed it."""
    output: Path | None = None
    """Directory of the bundle, which may be s3:// or gs://; a bundle that is there is replaced."""
    item_table: ItemTableType = "float32"
    """Type in which the item table is stored. bfloat16 halves it and int8 quarters it; both round the scores."""
    index: bool = False
    """Also write an index for approximate search of a large catalogue (extra ann), which --search ann reads."""
    onnx: bool = False
    """Also write the functions in the ONNX format, and check that onnxruntime answers as the bundle does."""
    beam_width: int | None = None
    """Prefixes that the beam keeps at each level, of a model of generative.py; by default as many as in the run."""
    refresh: Path | None = None
    """Bundle whose functions are exported anew from its config, by the installed jax, and must answer as before."""
    catalogue: Path | None = None
    """Codes of the items that the bundle to refresh lists from now on, of a model of generative.py: a directory of
    semantic_ids.py or a file, of the run's codebooks. The bundle's functions stay as they are."""

    def __post_init__(self):
        for flag, part in (("index", "the index"), ("onnx", "ONNX files"), ("beam-width", "the beam")):
            if self.refresh is not None and getattr(self, flag.replace("-", "_")):
                raise InputError(f"--refresh keeps {part} that the bundle has; leave --{flag} out, or export the run")
        if (self.refresh is None) == (self.run is None) or (self.run is None) != (self.output is None):
            raise InputError("name a run and its --output, or a bundle to --refresh")
        if self.refresh is None and self.catalogue is not None:
            raise InputError("--catalogue changes a bundle that is there; name it by --refresh")


def main(arguments: Arguments) -> None:
    """Writes the bundle and says how to use it."""
    if arguments.refresh is not None:
        with working_copy(arguments.refresh) as directory:
            print(f"refreshed  {address_of(arguments.refresh)}; {refresh(directory, TRAINING, arguments.catalogue)}")
        return
    assert arguments.run is not None and arguments.output is not None  # noqa: PT018
    with working_copy(arguments.run, read_only=True) as run, working_copy(arguments.output) as output:
        options = {name: getattr(arguments, name) for name in ("item_table", "index", "onnx", "beam_width")}
        facts = bundle_run(run, TRAINING, output, **options)
    address = address_of(arguments.output)
    print(f"bundle         {address}\nmodel card     {address}/README.md")
    if facts.recall is not None:
        recalls = ", ".join(f"{name} {facts.recall[name]:.4f}" for name in ("int8", "ann") if name in facts.recall)
        n_users = f"{facts.recall['n_users']:,} test users"
        print(f"recall@{facts.recall['k']}      {recalls}, against exact search for {n_users}")
    flags = ["--histories", "plays.parquet", "--output", "lists.parquet"]
    print(f"serve it       {beside(__file__, 'serve.py', address)}")
    print(f"lists from it  {beside(__file__, 'recommend.py', address, *flags)}")


if __name__ == "__main__":
    runtime.run_script(main, Arguments)
