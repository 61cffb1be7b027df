"""Neural vocoders that this repository trains, and adapters for those of others."""
