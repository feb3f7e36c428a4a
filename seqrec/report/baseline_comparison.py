"""A model against the baselines beside it, in pairs over users: as JSON, as a table and in one sentence."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int

from seqrec.files import JsonObject
from seqrec.metrics import metric_values
from seqrec.report.comparison_text import decimal, difference_ends, interval_text, metric_label, text_table
from seqrec.report.figures import format_table
from seqrec.stats import holm, paired_comparison

METRIC = "ndcg@10"
"""By which validation chooses a model's epoch, too."""
LEVEL = 0.95


def compare_with_baselines(
    ranks: Float[np.ndarray, " queries"],
    baselines: Mapping[str, Float[np.ndarray, " queries"]],
    *,
    users: Int[np.ndarray, " queries"],
) -> JsonObject:
    """What `metrics.json` holds as `comparisons`: how far the model is above each baseline on NDCG@10.

    `ranks` are the model's, and `baselines` those of each baseline on the same queries; `users` names the user of each
    query. Users are what is drawn and whose signs are flipped (see `paired_comparison`): one with several queries
    counts by the sum of their differences, so that the difference is that of the two means over queries. `p_holm` is
    adjusted for the number of baselines.
    """
    _, row = np.unique(users, return_inverse=True)
    n_users = int(row.max(initial=-1)) + 1

    def of_users(ranks: np.ndarray) -> Float[np.ndarray, " n_users"]:
        values = np.asarray(metric_values(ranks)[METRIC], np.float64)
        return np.bincount(row, values, minlength=n_users) * (n_users / len(users))

    model_values = of_users(ranks)
    pairs = {name: paired_comparison(of_users(each), model_values, level=LEVEL) for name, each in baselines.items()}
    adjusted = holm(np.array([each.p_value for each in pairs.values()]))
    return {
        "metric": METRIC,
        "level": LEVEL,
        "n_users": n_users,
        "baselines": {
            name: {
                "difference": float(each.difference),
                "interval": [float(each.lower), float(each.upper)],
                "p": float(each.p_value),
                "p_holm": float(p_holm),
                "detectable": None if np.isnan(each.detectable) else float(each.detectable),
            }
            for (name, each), p_holm in zip(pairs.items(), adjusted, strict=True)
        },
    }


def verdict_on_baselines(comparisons: JsonObject, *, name: str) -> str:
    """One sentence: the model `name` is above all baselines, or those that it is not above, the best of them first.

    Where no baseline was tested, as none could be fitted, it says so.

    >>> markov = {"difference": 0.02, "interval": [0.01, 0.03], "p_holm": 0.001}
    >>> knn = {"difference": 0.003, "interval": [-0.001, 0.007], "p_holm": 0.2}
    >>> compared = {"metric": "ndcg@10", "level": 0.95, "n_users": 99, "baselines": {"Markov": markov}}
    >>> verdict_on_baselines(compared, name="SASRec")
    'SASRec is above the baseline on NDCG@10 by the paired test: above Markov by .0200 [.0100, .0300]'
    >>> verdict_on_baselines({**compared, "baselines": {"Markov": markov, "item-kNN": knn}}, name="SASRec")
    'SASRec is NOT above all 2 baselines on NDCG@10 by the paired test: not told apart from item-kNN (.0030 [...])'
    """
    label, level = metric_label(comparisons["metric"]), comparisons["level"]
    if not comparisons["baselines"]:
        return f"{name} was compared with no baseline; take --baselines auto"
    by_difference = sorted(comparisons["baselines"].items(), key=lambda item: item[1]["difference"])
    every = "the baseline" if len(by_difference) == 1 else f"all {len(by_difference)} baselines"
    failed = []
    for baseline, each in by_difference:
        if not is_shown(each, level=level):
            failed.append(f"not told apart from {baseline} ({interval_text(difference_ends(each))})")
        elif each["difference"] < 0:
            failed.append(f"below {baseline} by {interval_text(difference_ends(each), sign=-1)}")
    if failed:
        return f"{name} is NOT above {every} on {label} by the paired test: {'; '.join(failed)}"
    nearest, each = by_difference[0]
    return (
        f"{name} is above {every} on {label} by the paired test: above {nearest} by "
        + interval_text(difference_ends(each))
        + ", the nearest" * (len(by_difference) > 1)
    )


def is_shown(difference: JsonObject, *, level: float) -> bool:
    """Whether the paired test shows a difference, after the correction for several baselines."""
    return bool(difference["p_holm"] <= 1.0 - level)


def is_above_all(comparisons: JsonObject) -> bool:
    """Whether the paired test shows the model to be above every baseline, of which there is one at least."""
    every = comparisons["baselines"].values()
    return len(every) > 0 and all(
        each["difference"] > 0 and is_shown(each, level=comparisons["level"]) for each in every
    )


def format_tested(results: JsonObject, *, name: str) -> str:
    """The test figures of the model, then its difference from each baseline; without comparisons, columns alone."""
    if "comparisons" not in results:  # a run that is older than these
        return format_table({name: results["test"], **results["baselines"]})
    comparisons = results["comparisons"]
    metrics = [comparisons["metric"], "recall@10", *(["mrr@20"] if "mrr@20" in results["test"] else ["mrr"])]
    heads = ["baseline", *metrics, f"{name} is above by", "p (Holm)"]
    rows = [
        [
            baseline,
            *(f"{results['baselines'][baseline][metric]:.4f}" for metric in metrics),
            interval_text(difference_ends(each)),
            p_text(each["p_holm"]),
        ]
        for baseline, each in comparisons["baselines"].items()
    ]
    beside = ["", *text_table([heads, *rows])] if rows else []
    return "\n".join([format_table({name: results["test"]}), *beside])


def format_without_tables(results: JsonObject, *, name: str) -> str:
    """The test figures with and without item-to-item tables, and the difference in pairs over users."""
    base = results["unfused"]
    table = format_table({name: results["test"], f"{name} without tables": base["test"]})
    label = metric_label(results["comparisons"]["metric"])
    return f"{table}\ntables raise {label} by {interval_text(difference_ends(base))}, p {p_text(base['p'])}"


def p_text(p: float) -> str:
    """A p-value to three digits.

    >>> p_text(0.00012), p_text(0.25)
    ('<.001', '.250')
    """
    return "<.001" if p < 0.001 else decimal(p, 3)
