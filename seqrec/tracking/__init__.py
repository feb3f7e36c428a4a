"""Sends the files of a run to MLflow, TensorBoard or Weights & Biases, while it trains or later."""
