"""RecTools' side of `time_to_quality.py`: trains SASRecModel and shows its vectors after every epoch.

`time_to_quality.py` starts it with an interpreter that has RecTools; this script imports nothing of seqrec. After each
epoch it writes users' and items' vectors, whose products are RecTools' scores, prints one line of JSON and waits for
the line "go" on its input; any other ends it. What it waits and writes is not in the seconds that it tells.

The model and its sizes are those of `rectools_epoch.py`.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import pytorch_lightning
import rectools
import torch
from rectools.dataset import Dataset
from rectools.models import SASRecModel
from rectools_epoch import MODEL_CONFIG, cpu_name, read_training_part


class Stopwatch:
    """Seconds since it was made, but for those while it was held."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.held = 0.0

    def seconds(self) -> float:
        return time.perf_counter() - self.started - self.held


class ShowVectors(pytorch_lightning.Callback):
    """After each epoch shows what the model has learned, and asks whether to go on."""

    def __init__(self, directory: Path, dataset: Dataset, stopwatch: Stopwatch) -> None:
        self.directory, self.dataset, self.stopwatch = directory, dataset, stopwatch
        self.model: SASRecModel | None = None

    def __deepcopy__(self, memo) -> "ShowVectors":
        return self  # RecTools trains with a copy of the trainer, which must show the same model

    def on_train_epoch_end(self, trainer, module) -> None:
        seconds = self.stopwatch.seconds()
        stopped = time.perf_counter()
        preparator = self.model.data_preparator
        users = preparator.transform_dataset_u2i(self.dataset, self.dataset.user_id_map.external_ids)
        loader = preparator.get_dataloader_recommend(users, self.model.recommend_batch_size)
        hidden, items = module._get_user_item_embeddings(loader, "cpu")
        module.train()
        epoch = trainer.current_epoch + 1
        file = self.directory / f"epoch-{epoch}.npz"
        n_tokens = len(items) - len(preparator.get_known_item_ids())  # padding stands before the items
        np.savez(
            file,
            users=np.asarray(users.user_id_map.external_ids, np.int64),
            items=np.asarray(preparator.get_known_item_ids(), np.int64),
            user_vectors=hidden.numpy(),
            item_vectors=items.numpy()[n_tokens:],
        )
        print(json.dumps({"epoch": epoch, "seconds": seconds, "file": str(file)}), flush=True)
        trainer.should_stop = sys.stdin.readline().strip() != "go"
        self.stopwatch.held += time.perf_counter() - stopped


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains RecTools' SASRecModel and shows its vectors every epoch.")
    parser.add_argument(
        "--data-path", type=Path, required=True, help="file with one line 'user item' per event; may be .gz"
    )
    parser.add_argument("--directory", type=Path, required=True, help="directory to write the vectors to")
    parser.add_argument("--epochs", type=int, default=200, help="largest number of epochs")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, batches and dropout")
    arguments = parser.parse_args()
    stopwatch = Stopwatch()
    pytorch_lightning.seed_everything(arguments.seed, verbose=False)
    dataset = Dataset.construct(read_training_part(arguments.data_path, max_users=None))
    show = ShowVectors(arguments.directory, dataset, stopwatch)

    def make_trainer() -> pytorch_lightning.Trainer:
        return pytorch_lightning.Trainer(
            accelerator="cpu",
            devices=1,
            min_epochs=1,
            max_epochs=arguments.epochs,
            callbacks=[show],
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
        )

    show.model = SASRecModel(**MODEL_CONFIG, get_trainer_func=make_trainer)
    versions = {"rectools": rectools.__version__, "torch": torch.__version__}
    print(json.dumps({"versions": versions, "n_threads": torch.get_num_threads(), "cpu": cpu_name()}), flush=True)
    show.model.fit(dataset)


if __name__ == "__main__":
    main()
