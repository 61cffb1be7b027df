"""Trees with the published layout, from published names, and real recordings laid into them."""

import csv
from collections import defaultdict

import numpy as np
import pytest
import soundfile


def sound(name, seconds=0.6, rate=16000):
    """A short sound that depends on the name alone."""
    rng = np.random.default_rng(list(name.encode()))
    t = np.arange(round(seconds * rate)) / rate
    level = np.interp(t, np.linspace(0, seconds, 9), rng.random(9))
    return (0.2 * level * np.sin(2 * np.pi * rng.uniform(200, 2000) * t) + 1e-3 * rng.standard_normal(len(t))).astype(np.float32)


@pytest.fixture(scope="session")
def lay():
    """Write a sound, or given samples, at a path; the format follows the suffix."""

    def write(path, samples=None, rate=16000, **options):
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, sound(path.stem, rate=rate) if samples is None else samples, rate, **options)
        return path

    return write


@pytest.fixture(scope="session")
def real_pairs(shared_data):
    """Rows of the shared manifest by source and utterance: the recording first, then its copies."""
    groups = defaultdict(list)
    with (shared_data / "manifest.csv").open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            if row["set"] == "public_pairs":
                groups[row["source"], row["utterance_id"]].append({**row, "file": shared_data / row["path"]})
    return {key: sorted(rows, key=lambda r: (r["vocoder"] != "bonafide", r["vocoder"])) for key, rows in groups.items()}
