-- A user's value of each segment: one, should an assignment that is logged twice disagree with itself.
SELECT user_id, segment, MIN(value) AS value
FROM segment_values
GROUP BY user_id, segment
