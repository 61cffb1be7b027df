"""Diffusion segmentation of vocoder artifacts (Amit et al. 2021, arXiv:2112.00390; Grinberg et al. 2025, arXiv:2506.03425)."""
