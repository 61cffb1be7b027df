"""Who measures: suite, plan, run, score, statistics."""
