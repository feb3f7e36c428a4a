"""Rank tables in, tables and plots out; nothing here touches a model."""
