"""Statistics of values per user: intervals, paired tests, tests over seeds and users, many tests at once.

NumPy and SciPy only. Every function takes plain arrays, one row or entry a user.
"""

from seqrec.stats.bootstrap import bootstrap_intervals as bootstrap_intervals
from seqrec.stats.multiplicity import benjamini_hochberg as benjamini_hochberg
from seqrec.stats.multiplicity import bonferroni as bonferroni
from seqrec.stats.multiplicity import holm as holm
from seqrec.stats.non_inferiority import NonInferiority as NonInferiority
from seqrec.stats.non_inferiority import non_inferiority as non_inferiority
from seqrec.stats.paired import PairedComparison as PairedComparison
from seqrec.stats.paired import difference_intervals as difference_intervals
from seqrec.stats.paired import paired_comparison as paired_comparison
from seqrec.stats.seeds_and_users import Contrast as Contrast
from seqrec.stats.seeds_and_users import SeedUserSummary as SeedUserSummary
from seqrec.stats.seeds_and_users import compare_over_seeds_and_users as compare_over_seeds_and_users
from seqrec.stats.seeds_and_users import contrast_over_seeds_and_users as contrast_over_seeds_and_users
from seqrec.stats.seeds_and_users import seed_user_summary as seed_user_summary
