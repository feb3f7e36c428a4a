"""Music listening whose truth is known: listeners, tracks and plays to any size, and the best that a model can do."""
