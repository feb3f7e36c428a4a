"""The search for a config's best values: a search on disk, and trials that train without seeing the test."""
