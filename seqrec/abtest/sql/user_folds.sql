-- Each arm in two halves, so that a prediction is fitted on other users than it is used for.
SELECT user_id, MOD(ROW_NUMBER() OVER (PARTITION BY arm ORDER BY user_id), 2) AS fold
FROM user_totals
