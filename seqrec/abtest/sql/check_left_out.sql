-- Rows of the logs that the analysis leaves out.
SELECT 'users assigned outside' AS what, COUNT(*) AS n
FROM assigned_users a
LEFT JOIN triggered_users u ON u.user_id = a.user_id
WHERE u.user_id IS NULL
UNION ALL
SELECT 'assignments repeated' AS what, COALESCE(SUM(n_assignments - 1), 0) AS n
FROM assigned_users
WHERE n_arms = 1
UNION ALL
SELECT 'events unassigned' AS what, COUNT(*) AS n
FROM events e
LEFT JOIN assigned_users u ON u.user_id = e.user_id
WHERE u.user_id IS NULL
UNION ALL
SELECT 'exposures unassigned' AS what, COUNT(*) AS n
FROM exposures x
LEFT JOIN assigned_users u ON u.user_id = x.user_id
WHERE u.user_id IS NULL
