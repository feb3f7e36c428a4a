"""Readers of published data sets and of the user's own files, each written from the format its publisher describes."""
