-- Users by day of exposure: their number, and their sums before the experiment.
SELECT
    arm,
    exposed_day AS day,
    COUNT(*) AS n_users,
    SUM(v) AS v,
    SUM(w) AS w,
    SUM(v * v) AS vv,
    SUM(v * w) AS vw,
    SUM(w * w) AS ww
FROM metric_values
GROUP BY arm, exposed_day
ORDER BY arm, exposed_day
