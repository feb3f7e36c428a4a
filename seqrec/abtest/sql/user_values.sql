-- One measure per user, for quantiles. The braces are replaced by names from a fixed list of measures.
SELECT arm, 1e0 * {numerator} AS y
FROM user_totals
ORDER BY arm, y
