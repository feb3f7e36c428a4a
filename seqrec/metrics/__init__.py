"""Ranking metrics: ranks of held-out items, metrics of ranks, metrics of graded labels, properties of lists.

- `ranks`: scores -> the rank of each target, with the cost of ties and NaN.
- `at_k`: ranks -> recall, NDCG, MRR and others, as values per user or as sums and counts.
- `graded`: scores and labels -> the same metrics for any number of relevant items, in the signatures of rax.
- `beyond_accuracy`: recommended lists -> coverage, concentration, popularity, novelty, diversity, repetition.

Only jax and NumPy are imported.
"""

from seqrec.metrics.at_k import AT_K as AT_K
from seqrec.metrics.at_k import WITHOUT_K as WITHOUT_K
from seqrec.metrics.at_k import MetricSums as MetricSums
from seqrec.metrics.at_k import average_precision_at_k as average_precision_at_k
from seqrec.metrics.at_k import hit_at_k as hit_at_k
from seqrec.metrics.at_k import mean_rank as mean_rank
from seqrec.metrics.at_k import means as means
from seqrec.metrics.at_k import merge_sums as merge_sums
from seqrec.metrics.at_k import metric_sums as metric_sums
from seqrec.metrics.at_k import metric_values as metric_values
from seqrec.metrics.at_k import ndcg_at_k as ndcg_at_k
from seqrec.metrics.at_k import precision_at_k as precision_at_k
from seqrec.metrics.at_k import recall_at_k as recall_at_k
from seqrec.metrics.at_k import reciprocal_rank as reciprocal_rank
from seqrec.metrics.beyond_accuracy import catalogue_coverage as catalogue_coverage
from seqrec.metrics.beyond_accuracy import coverage_of_counts as coverage_of_counts
from seqrec.metrics.beyond_accuracy import exposure_counts as exposure_counts
from seqrec.metrics.beyond_accuracy import gini as gini
from seqrec.metrics.beyond_accuracy import gini_of_counts as gini_of_counts
from seqrec.metrics.beyond_accuracy import intra_list_diversity as intra_list_diversity
from seqrec.metrics.beyond_accuracy import intra_list_diversity_of_attributes as intra_list_diversity_of_attributes
from seqrec.metrics.beyond_accuracy import novelty as novelty
from seqrec.metrics.beyond_accuracy import personal_repeat_share as personal_repeat_share
from seqrec.metrics.beyond_accuracy import popularity_bias as popularity_bias
from seqrec.metrics.graded import ap_metric as ap_metric
from seqrec.metrics.graded import dcg_metric as dcg_metric
from seqrec.metrics.graded import exponential_gain as exponential_gain
from seqrec.metrics.graded import hit_metric as hit_metric
from seqrec.metrics.graded import log2_discount as log2_discount
from seqrec.metrics.graded import mrr_metric as mrr_metric
from seqrec.metrics.graded import ndcg_metric as ndcg_metric
from seqrec.metrics.graded import precision_metric as precision_metric
from seqrec.metrics.graded import recall_metric as recall_metric
from seqrec.metrics.ranks import ListRanks as ListRanks
from seqrec.metrics.ranks import Ties as Ties
from seqrec.metrics.ranks import distinct_targets as distinct_targets
from seqrec.metrics.ranks import list_ranks as list_ranks
from seqrec.metrics.ranks import target_ranks as target_ranks
