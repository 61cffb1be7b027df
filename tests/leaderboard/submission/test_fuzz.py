"""Fuzzing of the package reader: whatever the bytes, it accepts or raises ``SubmissionError``, within 2 s and 1 GB."""

import io
import json
import random
import resource
import struct
import time
import zipfile
import zlib
from hashlib import sha256

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xaibench.errors import SubmissionError
from xaibench.leaderboard.submission.card import read_card
from xaibench.leaderboard.submission.index import read_index
from xaibench.leaderboard.submission.npy import dump, parse
from xaibench.leaderboard.submission.package import Package

SHAPE = (17, 9)
CARD = """
name = "mine"
version = "1.0"
suite = "toy"
authors = ["A. Author"]
licence = "CC0-1.0"
task = {{name = "toy", fingerprint = "{0}"}}
detector = {{name = "toy_detector", fingerprint = "{0}"}}
{1}
""".format
LIMIT_S, LIMIT_BYTES = 2.0, 1 << 30
TOKENS = (
    b"PK\x01\x02",
    b"PK\x03\x04",
    b"PK\x05\x06",
    b"PK\x06\x06",
    b"PK\x06\x07",
    b"../",
    b"\x93NUMPY",
    b"NaN",
    b"[[[[",
    b"\xff\xff\xff\xff",
    b"\x00" * 8,
)


def seeds():
    """Honest packages of both tracks, stored and deflated."""
    maps = [dump(np.full(SHAPE, float(i), np.float32)) for i in range(4)]
    index = "\n".join(json.dumps({"id": f"clip-{i}", "sha256": sha256(m).hexdigest()}) for i, m in enumerate(maps))
    code = 'track = "code"\ncode = {entry = "mine:Mine"}'
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        for files in (
            {"submission.toml": CARD("0" * 64, ""), "index.jsonl": index, **{f"heatmaps/{sha256(m).hexdigest()}.npy": m for m in maps}},
            {"submission.toml": CARD("0" * 64, code), "code/mine.py": "x = 1\n" * 50},
        ):
            buffer = io.BytesIO()
            with zipfile.ZipFile(buffer, "w", compression) as package:
                for name, content in files.items():
                    package.writestr(name, content)
            yield buffer.getvalue()


def mutated(content: bytes, dice: random.Random) -> bytes:
    """Change a few bytes, or what a field of the format says, or what lies where."""
    data = bytearray(content)
    for _ in range(dice.choice((1, 1, 1, 2, 4, 16))):
        at = dice.randrange(len(data)) if data else 0
        if dice.random() < 0.5 and (structure := data.find(dice.choice(TOKENS[:3]), at)) >= 0:
            at = min(structure + dice.randrange(46), len(data) - 1)
        kind = dice.randrange(7)
        if not data:
            break
        if kind == 0:
            data[at] ^= 1 << dice.randrange(8)
        elif kind == 1:
            data[at : at + 4] = struct.pack("<L", dice.choice((0, 1, 0x7FFFFFFF, 0xFFFFFFFF, dice.randrange(1 << 32))))
        elif kind == 2:
            del data[at : at + dice.randrange(1, 64)]
        elif kind == 3:
            data[at:at] = dice.choice(TOKENS)
        elif kind == 4:
            data[at : at + 2] = struct.pack("<H", dice.randrange(1 << 16))
        elif kind == 5:
            start = dice.randrange(len(data))
            data[at:at] = data[start : start + dice.randrange(1, 200)]
        else:
            data = data[:at]
    return repaired(bytes(data)) if dice.random() < 0.4 else bytes(data)


def repaired(content: bytes) -> bytes:
    """Correct the checksums of stored members, so that mutations reach the readers behind the zip."""
    data, at = bytearray(content), 0
    while (at := data.find(b"PK\x03\x04", at)) >= 0 and at + 30 <= len(data):
        size, name, extra = struct.unpack_from("<L", data, at + 18)[0], *struct.unpack_from("<2H", data, at + 26)
        start = at + 30 + name + extra
        if start + size <= len(data) and size < 1 << 16:
            crc = struct.pack("<L", zlib.crc32(data[start : start + size]))
            old = bytes(data[at + 14 : at + 18])
            data[at + 14 : at + 18] = crc
            if (directory := data.find(b"PK\x01\x02", start)) >= 0 and (place := data.find(old, directory)) >= 0:
                data[place : place + 4] = crc
        at += 4
    return bytes(data)


def said(error: SubmissionError) -> str:
    """Return the sentence, which must be printable."""
    text = str(error)
    assert text.isprintable()
    return text


def look(path) -> str:
    """Read everything in a package; say how it ended."""
    try:
        with Package(path) as package:
            for entry in package.index.values():
                if entry.sha256:
                    package.heatmap(entry, SHAPE)
            package.code()
            _ = package.sha256
    except SubmissionError as error:
        return said(error).split(",")[0]
    return "accepted"


def fuzz(folder, count: int, seed: int) -> dict[str, int]:
    """Read mutants and return how many ended in which way; fails on a crash, a hang, or too much memory."""
    originals, dice, ends, slowest = list(seeds()), random.Random(seed), {}, 0.0
    path = folder / "mutant.zip"
    for original in originals:
        path.write_bytes(original)
        assert look(path) == "accepted"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(count):
        path.write_bytes(mutated(dice.choice(originals), dice))
        start = time.process_time()
        try:
            end = look(path)
        except Exception as error:
            raise AssertionError(f"mutant {number} of seed {seed}: {type(error).__name__}: {error}") from error
        slowest = max(slowest, time.process_time() - start)
        ends[end] = ends.get(end, 0) + 1
    assert slowest < LIMIT_S
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10 < LIMIT_BYTES
    return ends


def test_two_thousand_mutants_crash_nothing_and_reach_every_reader(tmp_path):
    ends = fuzz(tmp_path, 2000, seed=1)
    assert sum(ends.values()) == 2000
    assert 0 < ends.pop("accepted", 0) < 1000
    for reader in ("must be a zip file", "submission.toml must", "index.jsonl must", "SHA-256", "must be intact", "members of a package"):
        assert any(reader in end for end in ends), reader


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 6))
def test_twenty_thousand_mutants_crash_nothing(tmp_path, seed):
    fuzz(tmp_path, 6000, seed)


def only_submission_error(read, content):
    try:
        read(content)
    except SubmissionError as error:
        said(error)


@settings(max_examples=150, deadline=2000)
@given(st.one_of(st.binary(max_size=300), st.text(max_size=300).map(lambda text: text.encode("utf-8", "surrogatepass"))))
def test_readers_of_card_index_and_map_take_any_bytes(content):
    for read in (
        read_card,
        read_index,
        parse,
        lambda raw: read_card(CARD("0" * 64, "").encode() + raw),
        lambda raw: parse(dump(np.zeros(SHAPE, np.float32))[:20] + raw),
    ):
        only_submission_error(read, content)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=2000)
@given(st.dictionaries(st.sampled_from(["id", "recipe", "status", "sha256", "why", "x"]), JSON, max_size=6))
def test_the_index_takes_any_json(value):
    only_submission_error(read_index, json.dumps(value).encode())


@settings(max_examples=100, deadline=2000)
@given(st.binary(max_size=400))
def test_any_bytes_before_an_honest_ending_are_no_package(tmp_path_factory, head):
    path = tmp_path_factory.getbasetemp() / "head.zip"
    path.write_bytes(head + next(seeds())[-22:])
    assert look(path) != "accepted"
