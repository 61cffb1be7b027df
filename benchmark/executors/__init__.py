"""Engines that do the work of a run: in this process, in forked workers, or on other machines. One contract: ``contract.Executor``."""
