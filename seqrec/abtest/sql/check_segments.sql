-- Assigned users by segment, its value and arm.
SELECT g.segment, g.value, u.arm, COUNT(*) AS n_users
FROM triggered_users u
JOIN user_segments g ON g.user_id = u.user_id
WHERE u.n_arms = 1
GROUP BY g.segment, g.value, u.arm
ORDER BY g.segment, g.value, u.arm
