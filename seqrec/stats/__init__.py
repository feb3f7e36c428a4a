"""Statistics of values per user: intervals, paired tests, tests over seeds and users, many tests at once.

NumPy and SciPy only. Every function takes plain arrays, one row or entry a user.
"""

from seqrec.stats.bootstrap import bootstrap_intervals
from seqrec.stats.multiplicity import benjamini_hochberg, bonferroni, holm
from seqrec.stats.paired import PairedComparison, difference_intervals, paired_comparison
from seqrec.stats.seeds_and_users import (
    Contrast,
    SeedUserSummary,
    compare_over_seeds_and_users,
    contrast_over_seeds_and_users,
    seed_user_summary,
)

__all__ = [
    "Contrast",
    "PairedComparison",
    "SeedUserSummary",
    "benjamini_hochberg",
    "bonferroni",
    "bootstrap_intervals",
    "compare_over_seeds_and_users",
    "contrast_over_seeds_and_users",
    "difference_intervals",
    "holm",
    "paired_comparison",
    "seed_user_summary",
]
