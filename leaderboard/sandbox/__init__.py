"""Other people's code, run where it can see a waveform and ask a detector, and nothing else."""
