"""A log replayed day by day: how models that are refreshed warm, trained anew or never compare on the next day."""
