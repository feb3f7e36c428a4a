-- One row per assigned user: the first time in the period, after the assignment, at which the arms would differ.
-- Exposures are logged in every arm, in the control as "would have been shown"; without a log of exposures every user is
-- exposed at the assignment.
SELECT
    u.user_id,
    u.arm,
    u.n_arms,
    u.assigned_us,
    MIN(CASE
        WHEN x.timestamp_us >= u.assigned_us AND x.timestamp_us >= s.start_us AND x.timestamp_us < s.until_us
        THEN x.timestamp_us
    END) AS exposed_us
FROM assigned_users u
CROSS JOIN settings s
LEFT JOIN exposures x ON x.user_id = u.user_id
WHERE u.assigned_us >= s.start_us AND u.assigned_us < s.until_us
GROUP BY u.user_id, u.arm, u.n_arms, u.assigned_us
