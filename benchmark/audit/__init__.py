"""The audit of the metrics: hand-computed cases, properties, chance levels and attempts to game, against bounds written down beforehand."""
