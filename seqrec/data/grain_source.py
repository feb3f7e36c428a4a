"""Our batches for pipelines written with grain, which this module need not import."""

from dataclasses import dataclass

from seqrec.data.batches import TrainingBatches
from seqrec.types import Batch


@dataclass(frozen=True, repr=False)
class BatchSource:
    """The batches of the first `n_steps` steps, as grain reads them: `grain.MapDataset.source(source)`.

    Batches come shuffled, and with `process_index` and `process_count` shared out, so grain is to do neither.
    """

    batches: TrainingBatches
    n_steps: int

    def __len__(self) -> int:
        return self.n_steps

    def __getitem__(self, step: int) -> Batch:
        if not 0 <= step < self.n_steps:
            raise IndexError(f"step {step} is outside 0..{self.n_steps - 1}")
        return self.batches.batch(step)

    def __repr__(self) -> str:
        # grain's DataLoader keeps this with its position, and refuses to go on with a source that says otherwise.
        batches = self.batches
        return (
            f"BatchSource(data={batches.store.content_hash[:16]}, seed={batches.seed}, rows={batches.n_rows}, length="
            f"{batches.packed.length}, share={tuple(batches.share[:3])}, n_steps={self.n_steps})"
        )
