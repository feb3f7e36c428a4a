-- Plays on each user's busiest day since the exposure; users above the plan's limit are bots.
SELECT user_id, MAX(n_plays) AS most_plays
FROM (
    SELECT
        e.user_id,
        CAST(FLOOR((e.timestamp_us - s.start_us) / 86400000000e0) AS BIGINT) AS day,
        COUNT(*) AS n_plays
    FROM events e
    JOIN triggered_users u ON u.user_id = e.user_id
    CROSS JOIN settings s
    WHERE e.timestamp_us >= u.exposed_us AND e.timestamp_us < s.until_us
    GROUP BY e.user_id, CAST(FLOOR((e.timestamp_us - s.start_us) / 86400000000e0) AS BIGINT)
) AS days
GROUP BY user_id
