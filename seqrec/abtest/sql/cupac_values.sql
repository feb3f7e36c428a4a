-- A metric (y over z) and all measures before the experiment, with each user's half. The braces are replaced by
-- names from a fixed list of measures.
SELECT
    u.user_id,
    u.arm,
    u.exposed_day,
    f.fold,
    1e0 * u.{numerator} AS y,
    1e0 * u.{denominator} AS z,
    1e0 * u.plays_before AS x1,
    1e0 * u.seconds_listened_before AS x2,
    1e0 * u.skips_before AS x3,
    1e0 * u.likes_before AS x4,
    1e0 * u.active_days_before AS x5,
    1e0 * u.sessions_before AS x6
FROM user_totals u
JOIN user_folds f ON f.user_id = u.user_id
