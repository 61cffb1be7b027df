"""The contract suite as a pytest plugin."""
