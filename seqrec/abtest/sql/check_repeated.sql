-- Repeated events: with the same user and sequence number, or without sequence numbers, equal rows. Summed by user,
-- since events of one client are repeated together.
SELECT
    arm,
    COUNT(*) AS n_users,
    SUM(n_repeated) AS y,
    SUM(n_events) AS z,
    SUM(n_repeated * n_repeated) AS yy,
    SUM(n_repeated * n_events) AS yz,
    SUM(n_events * n_events) AS zz
FROM (
    SELECT arm, user_id, 1e0 * SUM(n_copies - 1) AS n_repeated, 1e0 * SUM(n_copies) AS n_events
    FROM (
        SELECT arm, user_id, COUNT(*) AS n_copies
        FROM user_events
        GROUP BY
            arm,
            user_id,
            sequence,
            CASE WHEN sequence IS NULL THEN timestamp_us END,
            CASE WHEN sequence IS NULL THEN seconds END,
            CASE WHEN sequence IS NULL THEN skipped END,
            CASE WHEN sequence IS NULL THEN liked END
    ) AS by_event
    GROUP BY arm, user_id
) AS by_user
GROUP BY arm
ORDER BY arm
