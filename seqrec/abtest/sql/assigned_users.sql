-- One row per user: the arm, the time of the first assignment, and the number of arms that were logged.
SELECT
    user_id,
    MIN(arm) AS arm,
    MIN(timestamp_us) AS assigned_us,
    COUNT(*) AS n_assignments,
    COUNT(DISTINCT arm) AS n_arms
FROM assignments
GROUP BY user_id
