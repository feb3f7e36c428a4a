"""Features of a study against their placebos: the same variations with shuffled features."""

import math
import shlex
from collections.abc import Mapping
from typing import Any

from scipy import stats

from seqrec.files import JsonObject
from seqrec.report.comparison_text import decimal, difference_ends, interval_text

_SHUFFLING = ("--shuffled-features", "--shuffled-event-features")


def placebos_of(arms: Mapping[str, str]) -> dict[str, str]:
    """The placebo of each variation that has one: the variation with the same flags and shuffled features in addition.

    >>> placebos_of({"ids": "", "genres": "--item-features genres", "year": "--item-features year",
    ...     "shuffled": "--item-features genres --shuffled-features genres"})
    {'genres': 'shuffled'}
    """
    flags = {name: _values_by_flag(words) for name, words in arms.items()}
    shuffled = {name: each for name, each in flags.items() if any(flag in each for flag in _SHUFFLING)}
    without = {
        name: {flag: values for flag, values in each.items() if flag not in _SHUFFLING}
        for name, each in shuffled.items()
    }
    return {
        feature: placebo
        for feature, each in flags.items()
        for placebo, others in without.items()
        if feature not in shuffled and each == others
    }


def _values_by_flag(flags: str) -> dict[str, list[str]]:
    by_flag: dict[str, list[str]] = {}
    values: list[str] = []
    for word in shlex.split(flags):
        if word.startswith("--"):
            values = by_flag.setdefault(word, [])
        else:
            values.append(word)
    return by_flag


def against_placebos(study: Mapping[str, Any]) -> dict[str, JsonObject]:
    """By feature: its `placebo`, its mean `difference` from it, the `interval`, and whether this is `exact`.

    `study` is what study.json holds. Studies of earlier versions hold no contrast with the placebo. Their intervals are
    then the widest that their figures allow: a difference of two differences varies over users by at most the sum of
    both standard errors, over seeds as much as each, and has at least the degrees of freedom of the seeds.
    """
    variations, primary = study["variations"], study["primary"]
    exact = study.get("placebos", {})
    contrasts = {}
    for feature, placebo in placebos_of(study["arms"]).items():
        if feature in exact:
            contrasts[feature] = {**exact[feature], "exact": True}
        elif feature in variations and placebo in variations:
            ours, theirs = (variations[name][primary] for name in (feature, placebo))
            if None in (ours["users_error"], theirs["users_error"]):
                continue
            difference = ours["difference"] - theirs["difference"]
            error = math.hypot(ours["users_error"] + theirs["users_error"], ours["seeds_error"] or 0.0)
            degrees = study["n_users"] - 1
            if len(study["seeds"]) > 1:
                degrees = min(degrees, len(study["systems"]) * (len(study["seeds"]) - 1))
            margin = float(stats.t.isf((1.0 - study["level"]) / 2.0, degrees)) * error
            contrasts[feature] = {
                "placebo": placebo,
                "difference": difference,
                "interval": [difference - margin, difference + margin],
                "exact": False,
            }
    return contrasts


def placebo_sentences(study: Mapping[str, Any]) -> list[str]:
    """What each feature that has a placebo gains over it, a sentence each."""
    sentences = []
    for feature, contrast in against_placebos(study).items():
        low, high = contrast["interval"]
        if low is None:
            continue
        by = interval_text(difference_ends(contrast))
        by += "" if contrast["exact"] else " by the widest interval that the kept figures allow"
        if low <= 0.0 <= high:
            outcome = f"no difference shown ({by})" if contrast["exact"] else f"not decided ({by})"
        else:
            outcome = f"better ({by})" if low > 0 else f"worse ({by})"
        sentence = f"{feature} against its placebo, {contrast['placebo']}: {outcome}."
        if study["variations"][contrast["placebo"]]["verdict"]["kind"] == "helps":
            placebo, whole = (
                decimal(study["variations"][name][study["primary"]]["difference"])
                for name in (contrast["placebo"], feature)
            )
            sentence += (
                f" The placebo helps too: {placebo} of the gain of {whole} comes with the added parameters alone, not "
                "from what the feature says."
            )
        sentences.append(sentence)
    return sentences
