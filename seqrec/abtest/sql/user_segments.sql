-- A user's value of each segment; the smallest, where repeated assignments disagree.
SELECT user_id, segment, MIN(value) AS value
FROM segment_values
GROUP BY user_id, segment
