"""One file per family of metrics; each metric is a pure function and a record."""
