"""Disturbances for training, drawn once per pair and applied to both twins alike."""
