-- One row a user: the arm, when the user was first assigned, and whether other arms were ever logged.
SELECT
    user_id,
    MIN(arm) AS arm,
    MIN(timestamp_us) AS assigned_us,
    COUNT(*) AS n_assignments,
    COUNT(DISTINCT arm) AS n_arms
FROM assignments
GROUP BY user_id
