-- One measure a user, for quantiles. The braces are filled from a fixed list of measures, never from a file.
SELECT arm, 1e0 * {numerator} AS y
FROM user_totals
ORDER BY arm, y
