-- One row per analysed user, with or without events: sums since the exposure, and before the experiment.
SELECT
    u.user_id,
    u.arm,
    u.exposed_day,
    1 AS users,
    1 AS users_before,
    SUM(CASE WHEN d.is_during = 1 THEN d.plays ELSE 0 END) AS plays,
    SUM(CASE WHEN d.is_during = 0 THEN d.plays ELSE 0 END) AS plays_before,
    SUM(CASE WHEN d.is_during = 1 THEN d.seconds_listened ELSE 0 END) AS seconds_listened,
    SUM(CASE WHEN d.is_during = 0 THEN d.seconds_listened ELSE 0 END) AS seconds_listened_before,
    SUM(CASE WHEN d.is_during = 1 THEN d.skips ELSE 0 END) AS skips,
    SUM(CASE WHEN d.is_during = 0 THEN d.skips ELSE 0 END) AS skips_before,
    SUM(CASE WHEN d.is_during = 1 THEN d.likes ELSE 0 END) AS likes,
    SUM(CASE WHEN d.is_during = 0 THEN d.likes ELSE 0 END) AS likes_before,
    SUM(CASE WHEN d.is_during = 1 THEN d.active_days ELSE 0 END) AS active_days,
    SUM(CASE WHEN d.is_during = 0 THEN d.active_days ELSE 0 END) AS active_days_before,
    SUM(CASE WHEN d.is_during = 1 THEN d.sessions ELSE 0 END) AS sessions,
    SUM(CASE WHEN d.is_during = 0 THEN d.sessions ELSE 0 END) AS sessions_before
FROM analysed_users u
LEFT JOIN user_days d ON d.user_id = u.user_id
GROUP BY u.user_id, u.arm, u.exposed_day
