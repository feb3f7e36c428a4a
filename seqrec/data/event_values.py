"""What values of events mean, whatever table or array holds them: missing ones, times, and the order of ties."""

import numpy as np

MISSING_VALUES = (
    *("nan", "NaN", "NULL", "null", "None", "NA", "N/A", "n/a", "<NA>", "#N/A", "#N/A N/A", "#NA", "-nan", "-NaN"),
    *("1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN", "\\N"),
)
"""What pandas, R, spreadsheets, SQL and C libraries write into text where there is no value: the words that
`pandas.read_csv` reads so, in these spellings alone, and Hive's. Others, such as none or Na, may be names."""
MISSING_TIMES = ("NaT",)
"""What pandas and NumPy write for a missing time, in addition."""
PLAUSIBLE_YEARS = (1980, 2100)
"""Where times whose unit nobody named must fall."""
POSSIBLE_YEARS = (1900, 2200)
"""Where times must fall whose unit is named."""
MIN_ORDERED_SHARE = 0.6
MIN_DEVIATIONS = 4.0


def years_us(years: tuple[int, int]) -> tuple[int, int]:
    """Microseconds since 1970 at which these years begin.

    >>> years_us((1970, 1971))
    (0, 31536000000000)
    """
    low, high = (int(np.datetime64(f"{year}-01-01", "us").astype(np.int64)) for year in years)
    return low, high


def follow_ids(n_rising: int, n_distinct: int) -> bool:
    """Whether ties in time are in the order of item ids, rising or falling, clearly more often than by chance.

    That is for at least three fifths of them, and for four standard deviations of a fair coin more than a half. In an
    order drawn by lot the number of rising pairs varies at most as much as that of heads, so that chance alone exceeds
    this for one file in 15,000. Ids fall in a file that was turned around, such as to have the newest events first.

    >>> follow_ids(17, 17), follow_ids(0, 17), follow_ids(15, 15), follow_ids(560_000, 1_000_000)
    (True, True, False, False)
    """
    n_ordered = max(n_rising, n_distinct - n_rising)
    return n_ordered >= MIN_ORDERED_SHARE * n_distinct and 2 * n_ordered - n_distinct > MIN_DEVIATIONS * n_distinct**0.5
