"""What serving needs of a run, and nothing of training: written by `writing`, read by `loading`."""
