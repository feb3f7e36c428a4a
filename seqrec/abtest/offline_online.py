"""How well offline metrics predict online ones, from experiments that have both."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from seqrec.abtest.means import check_share
from seqrec.files import JsonObject, read_object
from seqrec.types import InputError


class Agreement(NamedTuple):
    """Agreement of the offline and online effects of past experiments."""

    n_experiments: int
    n_signed: int
    """Experiments in which neither effect is 0."""
    sign_agreement: float
    """Share of those in which both effects have the same sign."""
    sign_lower: float
    sign_upper: float
    """Bounds of Wilson's interval (1927)."""
    rank_correlation: float
    """Spearman's; NaN where either side is constant."""
    rank_lower: float
    rank_upper: float
    """Bounds of its interval by Fisher's transform with the variance of Bonett and Wright (2000); NaN below 4
    experiments and at a correlation of 1."""


def offline_online(
    offline: Float[np.ndarray, " n_experiments"], online: Float[np.ndarray, " n_experiments"], *, level: float = 0.95
) -> Agreement:
    """The agreement of offline and online differences, treatment minus control, with one entry per experiment.

    Noise in the online effects draws the correlation towards 0, and so does selection: experiments are run because they
    look good offline. So the correlation describes past offline wins and no more.

    >>> agreement = offline_online(np.array([1.0, 2.0, 3.0, -1.0]), np.array([0.1, 0.3, 0.2, 0.1]))
    >>> agreement.sign_agreement, round(agreement.rank_correlation, 2)
    (0.75, 0.74)
    """
    check_share(level=level)
    if offline.shape != online.shape or len(offline) < 2:
        raise InputError(
            f"{len(offline)} offline and {len(online)} online effects; give one of each for at least 2 experiments"
        )
    if not (np.isfinite(offline).all() and np.isfinite(online).all()):
        row = int(np.argmax(~(np.isfinite(offline) & np.isfinite(online))))
        raise InputError(
            f"experiment {row} has effects {offline[row]} and {online[row]}; leave out experiments without both"
        )
    signed = (offline != 0) & (online != 0)
    n_signed = int(signed.sum())
    n_agree = int(np.sum(np.sign(offline[signed]) == np.sign(online[signed])))
    if n_signed:
        interval = stats.binomtest(n_agree, n_signed).proportion_ci(level, method="wilson")
        share, low, high = n_agree / n_signed, float(interval.low), float(interval.high)
    else:
        share, low, high = np.nan, np.nan, np.nan
    n = len(offline)
    rank, rank_low, rank_high = np.nan, np.nan, np.nan
    if np.ptp(offline) > 0 and np.ptp(online) > 0:
        rank = float(stats.spearmanr(offline, online).statistic)
        if n > 3 and abs(rank) < 1:
            reach = stats.norm.isf((1 - level) / 2) * np.sqrt((1 + rank**2 / 2) / (n - 3))
            rank_low, rank_high = (float(np.tanh(np.arctanh(rank) + side * reach)) for side in (-1, 1))
    return Agreement(n, n_signed, share, low, high, rank, rank_low, rank_high)


def read_offline(file: Path, arms: Sequence[str]) -> dict[str, dict[str, dict[str, float | None]]]:
    """Arm -> offline metric -> its difference from the control, with its interval and smallest detectable difference.

    `file` is a comparison.json that `experiments/compare.py` writes. Its reference is the control. Its other runs are
    the treatments: matched by name, or a single run with a single treatment.
    """
    comparison = read_object(file)
    try:
        by_run = {
            str(run): {
                str(metric): {
                    "difference": each["difference"],
                    "lower": each["interval"][0],
                    "upper": each["interval"][1],
                    "detectable": each["detectable"],
                }
                for metric, each in metrics.items()
            }
            for run, metrics in comparison["comparisons"].items()
        }
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise InputError(
            f"{file} is not a comparison ({error!r}); give a file that experiments/compare.py wrote"
        ) from error
    treatments = list(arms)[1:]
    if len(by_run) == 1 and len(treatments) == 1:
        return {treatments[0]: next(iter(by_run.values()))}
    missing = [arm for arm in treatments if arm not in by_run]
    if missing:
        raise InputError(
            f"{file} compares {', '.join(by_run)}, and none is named as the arm {missing[0]!r}; name runs like arms"
        )
    return {arm: by_run[arm] for arm in treatments}


def with_offline(
    result: JsonObject, offline: dict[str, dict[str, dict[str, float | None]]], past: Sequence[Path] = ()
) -> JsonObject:
    """The result with `offline` added, and how well each offline metric predicts the primary one over this result and
    `past` ones (ab_result.json files of analyses with an offline comparison).

    Blocked experiments are left out and counted, because their effects cannot be relied on.
    """
    results = [(Path("this result"), {**result, "offline": offline}), *((file, read_object(file)) for file in past)]
    pairs: dict[str, list[tuple[float, float]]] = {}
    n_blocked = 0
    for file, each in results:
        try:
            for arm, metrics in each["offline"].items():
                if each["verdicts"][arm]["decision"] == "blocked":
                    n_blocked += 1
                    continue
                primary = each["effects"][arm]["primary"]["relative"]
                sign = 1 if each["plan"]["primary"]["more_is_better"] else -1
                for metric, compared in metrics.items():
                    if primary is not None and compared["difference"] is not None:
                        pairs.setdefault(metric, []).append((float(compared["difference"]), sign * float(primary)))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise InputError(
                f"{file} is not a result with an offline comparison ({error!r}); analyse it again with --offline"
            ) from error
    agreements = {}
    for metric, effects in pairs.items():
        if len(effects) > 1:
            agreement = offline_online(*(np.array(side) for side in zip(*effects, strict=True)))._asdict()
            agreements[metric] = {name: None if np.isnan(value) else value for name, value in agreement.items()}
    return {**result, "offline": offline, "offline_online": {"agreements": agreements, "n_blocked": n_blocked}}
