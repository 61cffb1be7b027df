"""One file per vocoder: each copies a recording so that only the vocoder's artifacts differ."""
