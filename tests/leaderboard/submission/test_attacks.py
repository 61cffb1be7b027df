"""The attack corpus on packages: each file is hostile in one way, and each is refused with the sentence that says why."""

import io
import json
import os
import pickle
import re
import struct
import zipfile
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from xaibench.errors import ExitCode, SubmissionError
from xaibench.leaderboard.submission import archive
from xaibench.leaderboard.submission.card import read_card
from xaibench.leaderboard.submission.index import read_index
from xaibench.leaderboard.submission.npy import dump, parse
from xaibench.leaderboard.submission.package import Package, check_coverage

CARD = """
name = "mine"
version = "1.0"
suite = "toy"
authors = ["A. Author"]
licence = "CC0-1.0"
[task]
name = "toy"
fingerprint = "{0}"
[detector]
name = "toy_detector"
fingerprint = "{0}"
""".format("0" * 64)
SHAPE = (129, 33)
GOOD = dump(np.arange(SHAPE[0] * SHAPE[1], dtype=np.float32).reshape(SHAPE))


def digest(content):
    return sha256(content).hexdigest()


def entry(content=GOOD, **more):
    return json.dumps({"id": "u00-alpha", "sha256": digest(content), **more}).encode()


def pack(path, members=(), *, card=CARD, index=None, maps=(GOOD,), compression=zipfile.ZIP_DEFLATED):
    """Write a package; ``members`` are added as they are, ``ZipInfo`` or name with content."""
    index = entry(maps[0]) if index is None else index
    with zipfile.ZipFile(path, "w", compression) as package:
        if card is not None:
            package.writestr("submission.toml", card)
        package.writestr("index.jsonl", index)
        for content in maps:
            package.writestr(f"heatmaps/{digest(content)}.npy", content)
        for name, content in members:
            package.writestr(name, content)
    return path


def opened(path):
    """Open a package and look at every map, as `submit check` does."""
    with Package(path) as package:
        for found in package.index.values():
            package.heatmap(found, SHAPE)


def refused(path, words):
    with pytest.raises(SubmissionError, match=words) as caught:
        opened(path)
    said = str(caught.value)
    assert said.isprintable(), said
    assert caught.value.exit_code == ExitCode.SUBMISSION_INVALID == 6
    return said


def test_the_honest_package_of_this_corpus_is_accepted(tmp_path):
    opened(pack(tmp_path / "good.zip"))


def header(descr="'<f4'", fortran="False", shape="(129, 33)", version=b"\x01\x00", more=""):
    text = f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, {more}}}\n".encode()
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text


BODY = bytes(SHAPE[0] * SHAPE[1] * 4)


class Evil:
    """Would run a command where it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch /tmp/xaibench-was-here",)


def object_array():
    buffer = io.BytesIO()
    np.save(buffer, np.array([Evil()], object), allow_pickle=True)
    return buffer.getvalue()


NPY = {
    "pickle": pickle.dumps(Evil()),
    "object array": object_array(),
    "structured": header("[('a', '<f4')]") + BODY,
    "integers": header("'<i4'") + BODY,
    "double": header("'<f8'") + BODY * 2,
    "big endian": header("'>f4'") + BODY,
    "fortran order": header(fortran="True") + BODY,
    "4 GB lie": header(shape="(32768, 32768)") + BODY,
    "16 GB lie": header(shape="(99999, 99999)") + BODY,
    "negative shape": header(shape="(-129, 33)") + BODY,
    "huge shape": header(shape=f"({'9' * 400}, 33)") + BODY,
    "one axis": header(shape="(4257,)") + BODY,
    "three axes": header(shape="(1, 129, 33)") + BODY,
    "zero": header(shape="(0, 33)") + BODY,
    "code in the header": header(descr="__import__('os').system('true')") + BODY,
    "nested header": header(descr="[" * 3000) + BODY,
    "version 2": header(version=b"\x02\x00") + BODY,
    "short": header() + BODY[:-1],
    "long": header() + BODY + b"\0",
    "header beyond the end": b"\x93NUMPY\x01\x00\xff\xff{",
    "bare magic": b"\x93NUMPY",
    "empty": b"",
    "text": b"<script>alert(1)</script>",
}


@pytest.mark.parametrize("content", NPY.values(), ids=NPY.keys())
def test_what_is_no_plain_float_array_is_refused_and_nothing_is_run(tmp_path, content):
    refused(
        pack(tmp_path / "p.zip", maps=(content,)),
        "must be a .npy file of float16 or float32|must have the .* bytes that its header claims|must have shape",
    )
    assert not Path("/tmp/xaibench-was-here").exists()


def test_the_reader_agrees_with_numpy_on_what_numpy_writes():
    generator = np.random.default_rng(0)
    for dtype in (np.float16, np.float32):
        for shape in ((1, 1), (513, 253), (129, 33)):
            array = generator.standard_normal(shape).astype(dtype)
            np.testing.assert_array_equal(parse(dump(array)), np.load(io.BytesIO(dump(array)), allow_pickle=False).astype(np.float32))
            np.testing.assert_array_equal(parse(dump(np.asfortranarray(array))), array.astype(np.float32))


def member(name, *, mode=0o100644, system=3):
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = system, mode << 16
    return info


NAMES = {
    "zip-slip": "../../etc/cron.d/x",
    "zip-slip inside": "heatmaps/../../x.npy",
    "absolute": "/etc/passwd",
    "windows": "C:\\windows\\x.npy",
    "backslash": "heatmaps\\x.npy",
    "hidden": ".git/hooks/post-checkout",
    "nested zip": "more.zip",
    "pickle": "model.pkl",
    "case clash": "Submission.toml",
    "unicode clash": "submission\u200b.toml",
    "combining": "heatmaps/e\u0301.npy",
    "direction": "heatmaps/\u202egpj.npy",
    "control": "heatmaps/\x1b[31m.npy",
    "long": "heatmaps/" + "a" * 5000 + ".npy",
    "upper-case hash": f"heatmaps/{digest(GOOD).upper()}.npy",
    "folder": "heatmaps/",
    "code without a code card": "code/x.py",
    "map of nothing": f"heatmaps/{'0' * 64}.npy",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
def test_a_member_that_no_rule_allows_is_refused_by_name(tmp_path, name):
    refused(pack(tmp_path / "p.zip", [(member(name), b"x")]), "package must hold|plain files")


@pytest.mark.parametrize("mode", [0o120777, 0o020666, 0o010644, 0o060660, 0o140644], ids=["link", "device", "pipe", "block", "socket"])
def test_links_and_devices_are_refused(tmp_path, mode):
    name = f"heatmaps/{digest(b'/etc/shadow')}.npy"
    path = pack(tmp_path / "p.zip", [(member(name, mode=mode), b"/etc/shadow")])
    refused(path, "members of a package must be plain files")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_the_same_name_twice_is_refused(tmp_path):
    refused(pack(tmp_path / "p.zip", [("index.jsonl", entry(id="other"))]), "names in a package must be distinct, got 'index.jsonl' twice")


def test_a_name_cut_by_a_nul_is_refused(tmp_path):
    path = pack(tmp_path / "p.zip", [("index_jsonl", b"x")])
    path.write_bytes(path.read_bytes().replace(b"index_jsonl", b"index.jsonl\0"[:11]).replace(b"submission.toml", b"submission.tom\0"))
    refused(path, "package must")


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path):
    name = f"heatmaps/{'1' * 64}.npy"
    path = pack(tmp_path / "p.zip", [(name, bytes(200 << 20))])
    assert path.stat().st_size < 1 << 20
    refused(path, "must have at most 16777216 bytes, got 209715200")


def test_many_small_bombs_are_refused_by_their_sum(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MAX_UNPACKED_BYTES", 20 << 20)
    bombs = [(f"heatmaps/{i:064x}.npy", bytes(4 << 20)) for i in range(6)]
    refused(pack(tmp_path / "p.zip", bombs), "package must unpack to at most 20 MiB")


def test_a_directory_that_lies_about_sizes_does_not_get_more_than_it_claimed(tmp_path):
    path = pack(tmp_path / "p.zip", maps=(dump(np.zeros((1000, 3000), np.float32)),))
    content = bytearray(path.read_bytes())
    for found in re.finditer(re.escape(struct.pack("<L", 12000128)), bytes(content)):
        content[found.start() : found.start() + 4] = struct.pack("<L", len(GOOD))
    path.write_bytes(content)
    refused(path, "must be intact|must unpack to the")


def test_members_that_share_bytes_are_refused(tmp_path):
    """A directory with two entries for one local file is how a small file unpacks to any size."""
    second = dump(np.ones(SHAPE, np.float32))
    path = pack(tmp_path / "p.zip", maps=(GOOD, second), index=entry() + b"\n" + entry(second, id="u01-alpha"))
    with zipfile.ZipFile(path) as package:
        infos = [i for i in package.infolist() if i.filename.startswith("heatmaps/")]
    content = path.read_bytes()
    path.write_bytes(
        content.replace(
            struct.pack("<L", infos[1].header_offset) + infos[1].filename.encode(),
            struct.pack("<L", infos[0].header_offset) + infos[1].filename.encode(),
        )
    )
    refused(path, "must not overlap")


def test_too_many_members_are_refused_before_the_directory_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MAX_MEMBERS", 50)
    refused(pack(tmp_path / "p.zip", [(f"heatmaps/{i:064x}.npy", b"") for i in range(60)]), "package must hold at most 50 files, got 63")
    honest = pack(tmp_path / "q.zip").read_bytes()
    end = bytearray(honest[-22:])
    end[8:12] = struct.pack("<2H", 65535, 65535)
    (tmp_path / "q.zip").write_bytes(honest[:-22] + bytes(end))
    refused(tmp_path / "q.zip", "at most 50 files, got 65535")


@pytest.mark.parametrize("where", ["before", "after", "comment", "two discs", "cut", "zip64"])
def test_bytes_outside_the_zip_are_refused(tmp_path, where):
    path = pack(tmp_path / "p.zip")
    content = path.read_bytes()
    spoilt = {
        "before": b"#!/bin/sh\n" + content,
        "after": content + b"x",
        "comment": content[:-2] + b"\x05\x00hello",
        "two discs": content[:-18] + b"\x01" + content[-17:],
        "cut": content[:-10],
        "zip64": content[:-22] + b"PK\x06\x07" + bytes(16) + content[-22:],
    }
    path.write_bytes(spoilt[where])
    refused(path, "package must be")


def test_other_kinds_of_compression_and_passwords_are_refused(tmp_path):
    refused(pack(tmp_path / "lzma.zip", compression=zipfile.ZIP_LZMA), "stored or deflated")
    refused(pack(tmp_path / "bz2.zip", compression=zipfile.ZIP_BZIP2), "stored or deflated")
    path = pack(tmp_path / "p.zip")
    content = bytearray(path.read_bytes())
    for found in re.finditer(b"PK\x01\x02", bytes(content)):
        content[found.start() + 8] |= 1
    path.write_bytes(content)
    refused(path, "without a password")


def test_a_folder_a_pipe_and_nothing_are_no_packages(tmp_path):
    (tmp_path / "empty.zip").touch()
    for path in (tmp_path, tmp_path / "none.zip", tmp_path / "empty.zip"):
        refused(path, "package must be a file")


def test_damaged_members_and_swapped_maps_are_refused(tmp_path):
    path = pack(tmp_path / "p.zip", compression=zipfile.ZIP_STORED)
    content = path.read_bytes()
    path.write_bytes(content.replace(GOOD[-40:], bytes(40)))
    refused(path, "must be intact, got BadZipFile: Bad CRC-32")
    other = dump(np.zeros(SHAPE, np.float32))
    with zipfile.ZipFile(tmp_path / "q.zip", "w") as package:
        package.writestr("submission.toml", CARD)
        package.writestr("index.jsonl", entry())
        package.writestr(f"heatmaps/{digest(GOOD)}.npy", other)
    refused(tmp_path / "q.zip", "must have the SHA-256 that the index names")


INDEX = {
    "no line": (b"\n\n", "at least one heatmap"),
    "no json": (b"{'id': 1}", "must be JSON"),
    "nan": (b'{"id": NaN}', "must be an entry"),
    "list": (b"[]", "must be an entry"),
    "deep": (b"[" * 3900, "must be JSON"),
    "long": (b'{"id": "' + b"a" * 5000 + b'"}', "at most 4000 bytes"),
    "no utf-8": (b'{"id": "\xff"}', "must be JSON"),
    "key twice": (b'{"id": "a", "id": "b"}', "a key twice"),
    "score": (entry(generalized_dice=0.99), "generalized_dice"),
    "traversal in the hash": (b'{"id": "u00-alpha", "sha256": "../../../../etc/passwd"}', "sha256"),
    "hash without status": (b'{"id": "u00-alpha"}', "exactly where status is ok"),
    "failed with a map": (entry(status="failed"), "exactly where status is ok"),
    "same clip twice": (entry() + b"\n" + entry(), "must be distinct"),
    "missing map": (b'{"id": "u00-alpha", "sha256": "%s"}' % (b"0" * 64), "1 missing"),
}


@pytest.mark.parametrize(("content", "words"), INDEX.values(), ids=INDEX.keys())
def test_a_line_that_is_no_entry_is_refused(tmp_path, content, words):
    refused(pack(tmp_path / "p.zip", index=content), words)


IDS = [
    "../../u00-alpha",
    "/u00-alpha",
    "u00-alpha\x00",
    "u00-alpha\n",
    "u00-alpha\x1b[2J",
    "\u202eahpla-00u",
    "U00-ALPHA",
    "u00-a\u0301lpha",
    "u00-alpha ",
    "<script>alert(1)</script>",
    "=HYPERLINK(1)",
    "no such clip",
]


@pytest.mark.parametrize("name", IDS)
def test_an_id_that_is_not_letter_for_letter_a_clips_is_refused_in_printable_words(tmp_path, place, name):
    path = pack(tmp_path / "p.zip", index=entry(id=name))
    with Package(path) as package, pytest.raises(SubmissionError, match="id must be that of a test clip") as caught:
        check_coverage(package, place.task, place.shape)
    assert str(caught.value).isprintable()


def test_a_recipe_that_the_card_does_not_announce_is_refused(tmp_path, place):
    with (
        Package(pack(tmp_path / "p.zip", index=entry(recipe="sym-floor60-v1"))) as package,
        pytest.raises(SubmissionError, match="recipe must be empty"),
    ):
        check_coverage(package, place.task, place.shape)


FIELDS = ("authors", "licence", "contact", "family", "compute", "training_data", "paper", "name", "version")
TEXTS = {
    "markup": "<script>alert(1)</script>",
    "colour": "\\u001b[31mred",
    "bell": "\\u0007",
    "direction": "\\u202egnp.exe",
    "zero width": "a\\u200bb",
    "line": "a\\nb",
    "surrogate": "\\ud800",
    "long": "x" * 2500,
    "decomposed": "e\\u0301",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
@pytest.mark.parametrize("field", FIELDS)
def test_hostile_text_is_refused_in_every_field_of_the_card(tmp_path, field, text):
    value = f'["{text}"]' if field == "authors" else f'"{text}"'
    lines = [line for line in CARD.splitlines() if not line.startswith(f"{field} ")]
    said = refused(pack(tmp_path / "p.zip", card="\n".join([f"{field} = {value}", *lines])), "submission.toml must")
    assert "\x1b" not in said


CARDS = {
    "self-reported score": ("generalized_dice = 0.99\n", "generalized_dice.*remove it, scores are made here"),
    "rows": ("[[rows]]\nmean = 1.0\n", "rows.*scores are made here"),
    "javascript link": ('paper = "javascript:alert(1)"\n', "paper"),
    "data link": ('paper = "data:text/html,x"\n', "paper"),
    "link with a quote": ("paper = 'https://a.org/\" onmouseover=\"x'\n", "paper"),
    "built-in name of a control": ('track = "results"\n', "track"),
    "code without code": ('track = "code"\n', r"\[code\]"),
    "number as text": ("contact = 1\n", "contact"),
    "deep": ("x = " + "[" * 5000 + "\n", "TOML"),
    "huge number": ("seeds = [" + "9" * 5000 + "]\n", "submission.toml must"),
    "many seeds": ("seeds = [" + "1," * 5000 + "]\n", "seeds"),
}


@pytest.mark.parametrize(("line", "words"), CARDS.values(), ids=CARDS.keys())
def test_a_card_that_breaks_a_rule_is_refused_and_the_key_is_named(tmp_path, line, words):
    refused(pack(tmp_path / "p.zip", card=line + CARD if not line.startswith("[[") else CARD + line), words)


def test_a_row_cannot_take_the_name_of_a_control():
    card = read_card(CARD.replace('"mine"', '"oracle_mask"').encode())
    from xaibench.registry import NAME

    assert card.label == "oracle_mask@1.0"
    assert not NAME.match(card.label)


def test_reading_an_index_of_the_largest_size_is_quick():
    import time

    lines = b"\n".join(json.dumps({"id": f"clip-{i}", "sha256": "0" * 64}).encode() for i in range(archive.MAX_MEMBERS))
    start = time.process_time()
    assert len(read_index(lines)) == archive.MAX_MEMBERS
    with pytest.raises(SubmissionError, match="at most 20000 entries"):
        read_index(lines + b'\n{"id": "one more", "status": "failed"}')
    assert time.process_time() - start < 4


SLOW = {
    "dotted": "a." * 8000 + "b = 1",
    "inline": "x = " + "{a=" * 5000,
    "tables": "\n".join(f"[a{i}.b]" for i in range(1500)),
    "quotes": 'x = """' + '" ' * 8000,
    "keys": "\n".join(f"k{i} = 1" for i in range(1500)),
    "times": "x = [" + "1979-05-27T07:32:00Z," * 700 + "]",
    "comment": "# " + "x" * 16000,
    "deep tables": "[" + "a." * 8000 + "a]",
}


@pytest.mark.parametrize("text", SLOW.values(), ids=SLOW.keys())
def test_a_card_made_to_be_slow_is_refused_in_time(text):
    import time

    start = time.process_time()
    assert len(text) < archive.MAX_CARD_BYTES
    with pytest.raises(SubmissionError):
        read_card(text.encode())
    assert time.process_time() - start < 2
