-- Events sent again under new sequence numbers: those that agree with an earlier one of the user in all but the number.
-- Only plays of more than a minute count: short ones at one moment may be rounded times of quick skips.
SELECT arm, SUM(n_copies - 1) AS n
FROM (
    SELECT arm, COUNT(*) AS n_copies
    FROM user_events
    WHERE sequence IS NOT NULL AND seconds > 60
    GROUP BY arm, user_id, timestamp_us, seconds, skipped, liked
    HAVING MIN(sequence) < MAX(sequence)
) AS by_row
GROUP BY arm
ORDER BY arm
