-- New users by day of assignment and arm.
SELECT
    u.arm,
    CAST(FLOOR((u.assigned_us - s.start_us) / 86400000000e0) AS BIGINT) AS day,
    COUNT(*) AS n_users
FROM triggered_users u
CROSS JOIN settings s
WHERE u.n_arms = 1
GROUP BY u.arm, CAST(FLOOR((u.assigned_us - s.start_us) / 86400000000e0) AS BIGINT)
ORDER BY day, u.arm
