-- One row per user and day with events. `users` is 0, because a user counts once and not once a day. A session starts
-- with a play after a pause longer than the gap.
SELECT
    user_id,
    arm,
    is_during,
    day,
    COUNT(*) AS plays,
    SUM(seconds) AS seconds_listened,
    SUM(skipped) AS skips,
    SUM(liked) AS likes,
    1 AS active_days,
    0 AS users,
    SUM(CASE WHEN previous_us IS NULL OR timestamp_us - previous_us > session_gap_us THEN 1 ELSE 0 END) AS sessions
FROM (
    SELECT
        e.user_id,
        e.arm,
        e.is_during,
        e.day,
        e.timestamp_us,
        e.seconds,
        e.skipped,
        e.liked,
        s.session_gap_us,
        LAG(e.timestamp_us) OVER (PARTITION BY e.user_id, e.is_during ORDER BY e.timestamp_us) AS previous_us
    FROM user_events e
    CROSS JOIN settings s
) AS events_in_order
GROUP BY user_id, arm, is_during, day
