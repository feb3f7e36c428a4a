"""The one reader of tables that users give: files, databases and frames, for events, features, lists and logs."""
