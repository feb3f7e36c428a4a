"""Sequence encoders: a config in, an `Encoder` out."""
