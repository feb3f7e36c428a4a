"""Studies: variations of one model trained with the same seeds, never twice, and what each of them changes."""
