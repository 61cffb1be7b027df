"""Rows that every explainer must beat, and the oracles that mark the ceiling."""
