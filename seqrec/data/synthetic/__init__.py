"""Music listening whose truth is known: listeners, tracks and plays to any size, and the best that a model can do."""

from seqrec.data.synthetic.catalogue import daily_popularity, item_table, shuffled_attribute
from seqrec.data.synthetic.config import ListeningConfig
from seqrec.data.synthetic.listeners import ExpectedPlay, expected_play, played_shares, taste
from seqrec.data.synthetic.optimum import (
    BestPossible,
    HeldOut,
    best_possible_ndcg,
    held_out_plays,
    next_item_distribution,
)
from seqrec.data.synthetic.simulation import event_blocks, simulate_events, write_events, write_items

__all__ = [
    "BestPossible",
    "ExpectedPlay",
    "HeldOut",
    "ListeningConfig",
    "best_possible_ndcg",
    "daily_popularity",
    "event_blocks",
    "expected_play",
    "held_out_plays",
    "item_table",
    "next_item_distribution",
    "played_shares",
    "shuffled_attribute",
    "simulate_events",
    "taste",
    "write_events",
    "write_items",
]
