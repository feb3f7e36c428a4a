"""Ranking metrics: ranks of held-out items, metrics of ranks, metrics of graded labels, properties of lists.

- `ranks`: scores -> the rank of each target, with the cost of ties and NaN.
- `at_k`: ranks -> recall, NDCG, MRR and others, as values per user or as sums and counts.
- `graded`: scores and labels -> the same metrics for any number of relevant items, in the signatures of rax.
- `beyond_accuracy`: recommended lists -> coverage, concentration, popularity, novelty, diversity, repetition.

Only jax and NumPy are imported.
"""

from seqrec.metrics.at_k import (
    AT_K,
    WITHOUT_K,
    MetricSums,
    average_precision_at_k,
    hit_at_k,
    mean_rank,
    means,
    merge_sums,
    metric_sums,
    metric_values,
    ndcg_at_k,
    precision_at_k,
    recall_at_k,
    reciprocal_rank,
)
from seqrec.metrics.beyond_accuracy import (
    catalogue_coverage,
    coverage_of_counts,
    exposure_counts,
    gini,
    gini_of_counts,
    intra_list_diversity,
    intra_list_diversity_of_attributes,
    novelty,
    personal_repeat_share,
    popularity_bias,
)
from seqrec.metrics.graded import (
    ap_metric,
    dcg_metric,
    exponential_gain,
    hit_metric,
    log2_discount,
    mrr_metric,
    ndcg_metric,
    precision_metric,
    recall_metric,
)
from seqrec.metrics.ranks import ListRanks, Ties, distinct_targets, list_ranks, target_ranks

__all__ = [
    "AT_K",
    "WITHOUT_K",
    "ListRanks",
    "MetricSums",
    "Ties",
    "ap_metric",
    "average_precision_at_k",
    "catalogue_coverage",
    "coverage_of_counts",
    "dcg_metric",
    "distinct_targets",
    "exponential_gain",
    "exposure_counts",
    "gini",
    "gini_of_counts",
    "hit_at_k",
    "hit_metric",
    "intra_list_diversity",
    "intra_list_diversity_of_attributes",
    "list_ranks",
    "log2_discount",
    "mean_rank",
    "means",
    "merge_sums",
    "metric_sums",
    "metric_values",
    "mrr_metric",
    "ndcg_at_k",
    "ndcg_metric",
    "novelty",
    "personal_repeat_share",
    "popularity_bias",
    "precision_at_k",
    "precision_metric",
    "recall_at_k",
    "recall_metric",
    "reciprocal_rank",
    "target_ranks",
]
