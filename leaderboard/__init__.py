"""Who shows: rows and the static site."""
