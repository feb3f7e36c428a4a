-- The analysed users' events: during the experiment since the user's exposure, and before its start.
SELECT
    e.user_id,
    u.arm,
    e.timestamp_us,
    e.seconds,
    e.skipped,
    e.liked,
    e.sequence,
    CASE WHEN e.timestamp_us >= u.exposed_us THEN 1 ELSE 0 END AS is_during,
    CAST(FLOOR((e.timestamp_us - s.start_us) / 86400000000e0) AS BIGINT) AS day
FROM events e
JOIN analysed_users u ON u.user_id = e.user_id
CROSS JOIN settings s
WHERE (e.timestamp_us >= u.exposed_us AND e.timestamp_us < s.until_us)
    OR (e.timestamp_us >= s.before_us AND e.timestamp_us < s.start_us)
