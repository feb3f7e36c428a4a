-- As metric_values.sql, with the prediction of the other half's regression as the only covariate.
SELECT
    m.user_id,
    m.arm,
    m.exposed_day,
    m.y,
    m.z,
    w.x1 * m.x1 + w.x2 * m.x2 + w.x3 * m.x3 + w.x4 * m.x4 + w.x5 * m.x5 + w.x6 * m.x6 AS v,
    1e0 AS w
FROM cupac_values m
JOIN cupac_weights w ON w.fold = m.fold
