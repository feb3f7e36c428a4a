-- The analysed users: in one arm only, exposed, and not bots. Each rule is the same in all arms.
SELECT
    u.user_id,
    u.arm,
    u.exposed_us,
    CAST(FLOOR((u.exposed_us - s.start_us) / 86400000000e0) AS BIGINT) AS exposed_day
FROM triggered_users u
CROSS JOIN settings s
LEFT JOIN busiest_days b ON b.user_id = u.user_id
WHERE u.n_arms = 1
    AND u.exposed_us IS NOT NULL
    AND (b.most_plays IS NULL OR b.most_plays <= s.max_plays_per_day)
