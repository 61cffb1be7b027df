"""Make the toy front end importable as ``wav2vec2_toys``."""

import importlib.util
import sys
from pathlib import Path

_spec = importlib.util.spec_from_file_location("wav2vec2_toys", Path(__file__).with_name("wav2vec2_toys.py"))
wav2vec2_toys = importlib.util.module_from_spec(_spec)
sys.modules["wav2vec2_toys"] = wav2vec2_toys
_spec.loader.exec_module(wav2vec2_toys)
