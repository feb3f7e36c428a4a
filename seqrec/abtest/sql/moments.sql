-- Sufficient statistics by arm: sums, and sums of products about the overall means, which preserves digits.
SELECT
    m.arm,
    COUNT(*) AS n_users,
    SUM(m.y) AS y,
    SUM(m.z) AS z,
    SUM(m.v) AS v,
    SUM(m.w) AS w,
    SUM((m.y - c.y) * (m.y - c.y)) AS yy,
    SUM((m.y - c.y) * (m.z - c.z)) AS yz,
    SUM((m.y - c.y) * (m.v - c.v)) AS yv,
    SUM((m.y - c.y) * (m.w - c.w)) AS yw,
    SUM((m.z - c.z) * (m.z - c.z)) AS zz,
    SUM((m.z - c.z) * (m.v - c.v)) AS zv,
    SUM((m.z - c.z) * (m.w - c.w)) AS zw,
    SUM((m.v - c.v) * (m.v - c.v)) AS vv,
    SUM((m.v - c.v) * (m.w - c.w)) AS vw,
    SUM((m.w - c.w) * (m.w - c.w)) AS ww,
    MIN(c.y) AS centre_y,
    MIN(c.z) AS centre_z,
    MIN(c.v) AS centre_v,
    MIN(c.w) AS centre_w
FROM metric_values m
CROSS JOIN (SELECT AVG(y) AS y, AVG(z) AS z, AVG(v) AS v, AVG(w) AS w FROM metric_values) AS c
GROUP BY m.arm
ORDER BY m.arm
