"""Answers over HTTP from a bundle: what is asked (`schema`), shared calls (`batching`), routes (`app`), a process."""
