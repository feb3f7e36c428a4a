-- Each arm in two halves: a prediction is fitted on one half and used for the other.
SELECT user_id, MOD(ROW_NUMBER() OVER (PARTITION BY arm ORDER BY user_id), 2) AS fold
FROM user_totals
