-- How much each day's events change the sums over users of running totals, their squares and products: for a total that
-- grows from P to Y on a day, Y * Y - P * P. Only days with events of the user have rows.
SELECT
    arm,
    day,
    SUM(y - p) AS y,
    SUM(z - q) AS z,
    SUM(y * y - p * p) AS yy,
    SUM(y * z - p * q) AS yz,
    SUM(z * z - q * q) AS zz,
    SUM((y - p) * v) AS yv,
    SUM((y - p) * w) AS yw,
    SUM((z - q) * v) AS zv,
    SUM((z - q) * w) AS zw
FROM (
    SELECT
        m.arm,
        d.day,
        m.v,
        m.w,
        SUM(1e0 * d.{numerator}) OVER (PARTITION BY d.user_id ORDER BY d.day) AS y,
        SUM(1e0 * d.{numerator}) OVER (PARTITION BY d.user_id ORDER BY d.day) - 1e0 * d.{numerator} AS p,
        SUM(1e0 * d.{denominator}) OVER (PARTITION BY d.user_id ORDER BY d.day) AS z,
        SUM(1e0 * d.{denominator}) OVER (PARTITION BY d.user_id ORDER BY d.day) - 1e0 * d.{denominator} AS q
    FROM user_days d
    JOIN metric_values m ON m.user_id = d.user_id
    WHERE d.is_during = 1
) AS running
GROUP BY arm, day
ORDER BY arm, day
