"""Semantic ids: each item as a short sequence of codes, learned from item vectors."""
