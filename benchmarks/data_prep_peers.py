"""Times how a peer loads events, for data_prep.py, which runs this in the peer's own environment.

    rectools-env/bin/python benchmarks/data_prep_peers.py rectools events/events.inter

Imports nothing of seqrec. Timed is from the start of reading to the peer's finished data set, without its imports; the
peak is of the whole process. The last line printed is JSON.
"""

import argparse
import json
import resource
import sys
import time
from importlib.metadata import version
from pathlib import Path


def load_rectools(path: Path):
    import pandas as pd
    from rectools import Columns
    from rectools.dataset import Dataset

    def load() -> int:
        names = [Columns.User, Columns.Item, Columns.Datetime, Columns.Weight]
        events = pd.read_csv(path, sep="\t", header=0, names=names)
        events[Columns.Datetime] = pd.to_datetime(events[Columns.Datetime], unit="ms")
        return len(Dataset.construct(events).interactions.df)

    return load


def load_recbole(path: Path):
    from recbole.config import Config
    from recbole.data import create_dataset

    def load() -> int:
        options = {
            "data_path": str(path.parents[1]),
            "load_col": {"inter": ["user_id", "item_id", "timestamp", "rating"]},
            "USER_ID_FIELD": "user_id",
            "ITEM_ID_FIELD": "item_id",
            "TIME_FIELD": "timestamp",
            "use_gpu": False,
            "train_neg_sample_args": None,
        }
        return create_dataset(Config(model="SASRec", dataset=path.parent.name, config_dict=options)).inter_num

    return load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peer", choices=["rectools", "recbole"], help="library to time")
    parser.add_argument("path", type=Path, help="text file of events that data_prep.py wrote")
    parser.add_argument("--gigabytes", type=float, default=16.0, help="limit on the address space, in GB")
    arguments = parser.parse_args()
    n_bytes = int(arguments.gigabytes * 1e9)
    resource.setrlimit(resource.RLIMIT_AS, (n_bytes, n_bytes))
    sys.argv = sys.argv[:1]  # RecBole reads the command line, too.
    load = {"rectools": load_rectools, "recbole": load_recbole}[arguments.peer](arguments.path.resolve())
    started = time.perf_counter()
    n_events = load()
    seconds = time.perf_counter() - started
    usage = resource.getrusage(resource.RUSAGE_SELF)
    # Kilobytes on Linux, bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    figures = {
        "version": version(arguments.peer),
        "n_events": n_events,
        "seconds": seconds,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_bytes": usage.ru_maxrss * unit,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
