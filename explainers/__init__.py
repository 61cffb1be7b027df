"""Who explains: one file per method."""
