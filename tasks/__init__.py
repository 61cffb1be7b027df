"""What is explained, and the truth: pairs, front end, masks, detectors."""
