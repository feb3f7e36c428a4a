"""The gate before a new model replaces the one in use: no metric may drop by more than a margin, on the same users."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from seqrec.files import JsonObject
from seqrec.metrics import AT_K, metric_values
from seqrec.report.compared_runs import TESTED_ALIKE, protocol_notes, protocol_of, slicings_of
from seqrec.report.rank_tables import RankTableFile, align, read_rank_table
from seqrec.report.slices import Slicing, cold_slicing
from seqrec.stats import non_inferiority
from seqrec.types import InputError

ALL_USERS = "all"
"""What stands for a slice in tests of all users."""


def parse_max_drops(arguments: Sequence[str]) -> dict[str, float]:
    """The margin of each metric, from texts of the form METRIC=MARGIN.

    >>> parse_max_drops(["ndcg@10=0.002", "mrr=0.01"])
    {'ndcg@10': 0.002, 'mrr': 0.01}
    """
    margins: dict[str, float] = {}
    for argument in arguments:
        metric, _, text = argument.partition("=")
        try:
            margin = float(text)
        except ValueError:
            margin = math.nan
        if not metric or not 0.0 <= margin < 1.0:
            raise InputError(
                f"--max-drop {argument} is not METRIC=MARGIN with a margin from 0 to below 1; write ndcg@10=0.002, say"
            )
        if metric in margins:
            raise InputError(f"--max-drop names {metric} twice; give each metric one margin")
        margins[metric] = margin
    if not margins:
        raise InputError("--max-drop names no metric; write --max-drop ndcg@10=0.002, say")
    return margins


def metric_of_users(metric: str, ranks: Float[np.ndarray, " n_users"]) -> Float[np.ndarray, " n_users"]:
    """Each user's value of a metric from 0 to 1, at any cut-off.

    >>> metric_of_users("recall@3", np.array([2.0, 4.0])).tolist()
    [1.0, 0.0]
    """
    name, at, k = metric.partition("@")
    if metric == "mrr":
        [values] = metric_values(ranks, ks=(), without_k=("mrr",)).values()
    elif at and name in AT_K and k.isdecimal() and 0 < int(k) < 2**31:
        [values] = metric_values(ranks, ks=(int(k),), at_k=(name,), without_k=()).values()
    else:
        raise InputError(f"metric {metric!r} is unknown; write {', '.join(f'{name}@10' for name in AT_K)} or mrr")
    return np.asarray(values, np.float64)


def users_in_slices(slicings: Sequence[Slicing], names: Sequence[str]) -> dict[str, Bool[np.ndarray, " n_users"]]:
    """The users of each slice that a name stands for, by what is shown for the slice.

    A name is a slicing's, which stands for all its slices, or LABEL, or SLICING=LABEL. The part of a label before a
    colon is enough. Case does not matter, nor which of blanks, underscores, hyphens and dashes is written.

    >>> slicing = Slicing("cold targets", "target_events", ("cold: not in training", "warm"), np.array([1, 0]))
    >>> {name: users.tolist() for name, users in users_in_slices([slicing], ["cold"]).items()}
    {'cold: not in training (cold targets)': [False, True]}
    """
    users = {}
    for name in names:
        of, _, wanted = map(_plain, name.rpartition("="))
        matches = [
            (slicing, place)
            for slicing in slicings
            for place, label in enumerate(slicing.labels)
            if _plain(name) == _plain(slicing.name)
            or (of in ("", _plain(slicing.name)) and wanted in (_plain(label), _plain(label.partition(":")[0])))
        ]
        names_found = list(dict.fromkeys(slicing.name for slicing, _ in matches))
        if len(names_found) != 1:
            known = "; ".join(f"{slicing.name}: {', '.join(slicing.labels)}" for slicing in slicings) or "none"
            what = f"is in {' and '.join(names_found)}: write SLICING=LABEL" if matches else "is not among the slices"
            raise InputError(f"--slice {name} {what}; these users have {known}")
        for slicing, place in matches:
            users[f"{slicing.labels[place]} ({slicing.name})"] = slicing.slice_of_user == place
    return users


def _plain(text: str) -> str:
    return re.sub("[-_ \N{EN DASH}]", " ", text).strip().lower()


def judge(
    runs: Mapping[str, Path],
    max_drops: Mapping[str, float],
    *,
    slices: Sequence[str] = (),
    joins: Sequence[str] = (),
    level: float = 0.95,
    strict: bool = False,
) -> JsonObject:
    """Whether the second run may replace the first: what the gate's JSON file holds.

    `tests` has one test for each metric of `max_drops`, over all users and in each slice; see `non_inferiority`. The
    `verdict` is fail if any test fails, else pass if all pass, else cannot tell. A slice without users, such as cold
    targets on a day without any, is one of `empty_slices` and has no test; if `strict`, it cannot be told.

    Raises:
      InputError: the runs were not tested on the same users, held-out items and protocol, or a metric, slice or margin
        cannot be used.
    """
    incumbent, candidate = runs
    protocols = {name: protocol_of(path) for name, path in runs.items()}
    _check_alike(protocols)
    aligned = align({name: read_rank_table(path) for name, path in runs.items()})
    if any(aligned.n_dropped.values()):
        extra = " and ".join(f"{n:,} of {name}" for name, n in aligned.n_dropped.items() if n)
        raise InputError(f"{extra} are users whom the other run was not tested on; test both on the same users")
    tables = aligned.tables
    everyone = {ALL_USERS: np.ones(tables[incumbent].n_users, bool)}
    named = users_in_slices(_slicings(tables[incumbent], joins), slices) if slices else {}
    empty = [name for name, users in named.items() if not users.any()]
    groups = everyone | {name: users for name, users in named.items() if name not in empty}
    values = {
        metric: {name: metric_of_users(metric, table.rank) for name, table in tables.items()} for metric in max_drops
    }
    pairs = [
        (metric, group, {name: each[users] for name, each in values[metric].items()})
        for metric in max_drops
        for group, users in groups.items()
    ]
    inferiority_tests = non_inferiority(
        [each[incumbent] - each[candidate] for _, _, each in pairs],
        [max_drops[metric] for metric, _, _ in pairs],
        level=level,
    )
    tests = [
        {
            "metric": metric,
            "slice": group,
            "incumbent": float(each[incumbent].mean()),
            "candidate": float(each[candidate].mean()),
            **test._asdict(),
            "n_users_needed": math.ceil(test.n_users_needed) if test.n_users_needed < math.inf else None,
        }
        for (metric, group, each), test in zip(pairs, inferiority_tests, strict=True)
    ]
    verdicts = {test.verdict for test in inferiority_tests} | ({"cannot tell"} if strict and empty else set())
    verdict = "fail" if "fail" in verdicts else "cannot tell" if "cannot tell" in verdicts else "pass"
    heads = {"candidate": candidate, "incumbent": incumbent, "verdict": verdict, "level": level}
    notes = [f"No user is in the slice {name}, so nothing is judged there." for name in empty]
    return heads | {"tests": tests, "empty_slices": empty, "notes": [*notes, *protocol_notes(protocols)]}


def _slicings(reference: RankTableFile, joins: Sequence[str]) -> list[Slicing]:
    """All slicings, and that of cold targets where all or none are: a day without any is no misspelt slice."""
    slicings = slicings_of(reference, joins, ())
    if "target_events" in reference.columns and all(slicing.name != "cold targets" for slicing in slicings):
        slicings.append(cold_slicing(reference.columns["target_events"]))
    return slicings


def _check_alike(protocols: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuses runs whose protocols differ; what has none is checked by its users and held-out items alone."""
    (incumbent, one), (candidate, other) = protocols.items()
    for name in ("data_hash", "split_hash", *TESTED_ALIKE, "time_aware") if one and other else ():
        if one.get(name) != other.get(name):
            raise InputError(
                f"{incumbent} and {candidate} were not tested alike: {name} is {one.get(name)!r} and "
                f"{other.get(name)!r}; test both on one split of the same data"
            )
