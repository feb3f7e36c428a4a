-- A metric's four columns: y over z, and the same before the experiment (v, w). The braces are replaced by
-- names from a fixed list of measures.
SELECT
    user_id,
    arm,
    exposed_day,
    1e0 * {numerator} AS y,
    1e0 * {denominator} AS z,
    1e0 * {numerator}_before AS v,
    1e0 * {denominator}_before AS w
FROM user_totals
