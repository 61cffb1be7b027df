"""Other people's explainers: packages read without trusting a byte, scored here, and recorded so that no score can be edited by hand."""
