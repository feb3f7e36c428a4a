-- Users by arm at each step from the assignment to the analysis. Users in two arms count in neither.
SELECT
    u.arm,
    SUM(CASE WHEN u.n_arms = 1 THEN 1 ELSE 0 END) AS n_assigned,
    SUM(CASE WHEN u.n_arms > 1 THEN 1 ELSE 0 END) AS n_in_two_arms,
    SUM(CASE WHEN u.n_arms = 1 AND u.exposed_us IS NOT NULL THEN 1 ELSE 0 END) AS n_exposed,
    SUM(CASE WHEN u.n_arms = 1 AND u.exposed_us IS NOT NULL AND b.most_plays > s.max_plays_per_day
        THEN 1 ELSE 0 END) AS n_bots
FROM triggered_users u
CROSS JOIN settings s
LEFT JOIN busiest_days b ON b.user_id = u.user_id
GROUP BY u.arm
ORDER BY u.arm
