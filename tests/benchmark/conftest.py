"""Make the toy world importable as ``toys``, also in processes that the tests start."""

import importlib.util
import sys
from pathlib import Path

_spec = importlib.util.spec_from_file_location("toys", Path(__file__).with_name("toys.py"))
toys = importlib.util.module_from_spec(_spec)
sys.modules["toys"] = toys
_spec.loader.exec_module(toys)
