-- Lost events: sequence numbers between a user's first and last that are absent. Summed by user, since events of one
-- client are lost together.
SELECT
    arm,
    COUNT(*) AS n_users,
    SUM(n_sent - n_arrived) AS y,
    SUM(n_sent) AS z,
    SUM((n_sent - n_arrived) * (n_sent - n_arrived)) AS yy,
    SUM((n_sent - n_arrived) * n_sent) AS yz,
    SUM(n_sent * n_sent) AS zz
FROM (
    SELECT
        u.arm,
        e.user_id,
        1e0 * COUNT(DISTINCT e.sequence) AS n_arrived,
        1e0 * (MAX(e.sequence) - MIN(e.sequence) + 1) AS n_sent
    FROM events e
    JOIN analysed_users u ON u.user_id = e.user_id
    CROSS JOIN settings s
    WHERE e.timestamp_us >= u.exposed_us AND e.timestamp_us < s.until_us
    GROUP BY u.arm, e.user_id
) AS by_user
GROUP BY arm
ORDER BY arm
