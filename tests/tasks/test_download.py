import hashlib
import http.server
import io
import socket
import threading
from dataclasses import replace
from functools import cache

import numpy as np
import pooch
import pytest
import soundfile
import soxr
import torch

from xaibench.errors import DataError, DataMismatchError, ExitCode
from xaibench.tasks.audio import decoded_sha256, read_audio
from xaibench.tasks.corpora.download import get_public_pairs, within_tolerance
from xaibench.tasks.corpora.public_pairs import ListedFile, read_list
from xaibench.tasks.corpora.public_pairs_list import sketch

RATES = {"a": 22050, "b": 24000, "c": 16000}
LOUD = "d"


@cache
def raw_bytes(name):
    """A second of noise as a home serves it: ``b`` in stereo, ``c`` at full scale, ``d`` beyond it, as some outputs of vocoders are."""
    rng = np.random.default_rng(ord(name))
    rate = RATES.get(name, 16000)
    samples = 0.1 * rng.standard_normal((rate, 2 if name == "b" else 1))
    if name in "cd":
        samples *= (1.0 if name == "c" else 1.2) / np.abs(samples).max()
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


def expected_samples(name):
    """The conversion again, without the code under test: mean of channels, soxr, peak .9999, rounding to 16 bits."""
    samples, rate = soundfile.read(io.BytesIO(raw_bytes(name)), dtype="float32", always_2d=True)
    mono = soxr.resample(samples.mean(1), rate, 16000, quality="VHQ") if rate != 16000 else samples.mean(1)
    mono = mono * min(1.0, 0.9999 / np.abs(mono).max())
    return torch.from_numpy(np.rint(mono * 32768).astype(np.int16))


def listed(name, **changes):
    samples = expected_samples(name)
    file = ListedFile(
        path=f"src/v/{name}.flac",
        repository="owner/repo",
        commit="c0ffee",
        original_path=f"audio/{name}.wav",
        raw_sha1=hashlib.sha1(raw_bytes(name), usedforsecurity=False).hexdigest(),
        git_blob="0" * 40,
        sha256=decoded_sha256(samples),
        sketch=sketch(samples),
        sample_rate=RATES.get(name, 16000),
        seconds=1.0,
        corpus="noise",
        corpus_named=True,
        speaker="s",
        utterance=name,
        vocoder="v",
        family="V",
        bonafide="src/gt/a.flac",
        lag=0,
        split="test",
        seen_vocoder=True,
        licence="CC0",
        note="",
    )
    return replace(file, **changes)


FILES = tuple(listed(name) for name in RATES)
PATHS = {f.path for f in FILES}


class Home(http.server.ThreadingHTTPServer):
    """A home on this machine; ``mood`` says how it serves a name: ok, 404, 500, other, short, cut, cut_once."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.mood, self.asked = {}, []
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        name = self.path.rsplit("/", 1)[1].removesuffix(".wav")
        assert self.path == f"/owner/repo/c0ffee/audio/{name}.wav"
        mood = self.server.mood.get(name, "ok")
        if mood == "cut_once":
            mood = "ok" if name in self.server.asked else "cut"
        self.server.asked.append(name)
        if mood.isdigit():
            self.send_error(int(mood))
            return
        content = raw_bytes("a" if mood == "other" else name)
        sent = content[: len(content) // 2] if mood in ("short", "cut") else content
        self.send_response(200)
        self.send_header("Content-Length", str(len(sent if mood == "short" else content)))
        self.end_headers()
        self.wfile.write(sent)
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def home(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(pooch.core.time, "sleep", lambda _: None)
    server = Home()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def get(dest, home, **options):
    return get_public_pairs(dest, base_url=home.url, **({"files": FILES, "retries": 0} | options))


def found(dest):
    root = dest / "public_pairs"
    return {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()}


def test_good_files_are_converted_exactly_and_not_fetched_twice(tmp_path, home):
    seen = []
    fetched = get(tmp_path, home, progress=lambda *args: seen.append(args))
    assert set(fetched.added) == PATHS
    assert seen == [(i + 1, 3, f.path) for i, f in enumerate(FILES)]
    assert found(tmp_path) == PATHS
    for name in RATES:
        decoded, rate = soundfile.read(tmp_path / f"public_pairs/src/v/{name}.flac", dtype="int16")
        assert rate == 16000
        np.testing.assert_array_equal(decoded, expected_samples(name))
    assert home.asked == ["a", "b", "c"]
    assert set(get(tmp_path, home).present) == PATHS
    assert home.asked == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("mood", "kind", "match"),
    [
        (
            "404",
            DataError,
            r"audio/b\.wav must be served by its home, got HTTP 404; try later, or take the file from elsewhere with --from",
        ),
        ("500", DataError, r"audio/b\.wav must be served by its home, got HTTP 500"),
        ("other", DataMismatchError, r"audio/b\.wav must have SHA-1 \w{40}, got other bytes; .*run the command again"),
        ("short", DataMismatchError, r"audio/b\.wav must have SHA-1 \w{40}, got other bytes; it was cut short"),
        ("cut", DataError, r"audio/b\.wav must .*IncompleteRead.*; .*run the command again to resume"),
    ],
)
def test_a_bad_home_is_one_sentence_and_leaves_nothing_half_written(tmp_path, home, mood, kind, match):
    home.mood["b"] = mood
    with pytest.raises(kind, match=match) as caught:
        get(tmp_path, home)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == (ExitCode.DATA_MISMATCH if kind is DataMismatchError else ExitCode.USAGE)
    assert found(tmp_path) == PATHS - {"src/v/b.flac"}
    assert {p.name for p in (tmp_path / "public_pairs").iterdir()} == {"src"}
    home.mood.clear()
    home.asked.clear()
    again = get(tmp_path, home)
    assert home.asked == ["b"]
    assert again.added == ["src/v/b.flac"]
    assert len(again.present) == 2


def test_an_interrupted_transfer_is_tried_again_within_the_run(tmp_path, home):
    home.mood["b"] = "cut_once"
    assert set(get(tmp_path, home, retries=1).added) == PATHS
    assert home.asked == ["a", "b", "b", "c"]


def test_several_failures_are_counted_and_the_first_is_told(tmp_path, home):
    home.mood |= {"a": "404", "c": "other"}
    with pytest.raises(DataMismatchError, match=r"got 2 of 3 files that failed \(1 are fine\), first: .*a\.wav .*HTTP 404"):
        get(tmp_path, home)


def test_a_network_that_is_down_is_given_up_after_five_files(tmp_path, home):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        seen = []
        files = tuple(listed("a", path=f"src/v/{i}.flac") for i in range(9))
        with pytest.raises(DataError, match=r"must be reachable, got .*refused; check the network and run the command again"):
            get_public_pairs(tmp_path, base_url=url, files=files, retries=0, progress=lambda *args: seen.append(args))
    assert len(seen) == 5
    assert not found(tmp_path)


def test_an_interrupt_keeps_what_was_finished_and_nothing_else(tmp_path, home):
    def stop(done, total, path):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(tmp_path, home, progress=stop)
    assert found(tmp_path) == {"src/v/a.flac", "src/v/b.flac"}
    assert {p.name for p in (tmp_path / "public_pairs").iterdir()} == {"src"}


def test_what_exceeds_full_scale_is_held_to_the_listed_peak(tmp_path, home):
    fetched = get(tmp_path, home, files=(listed(LOUD),))
    assert fetched.added + fetched.tolerated == [f"src/v/{LOUD}.flac"]
    decoded, _ = soundfile.read(tmp_path / f"public_pairs/src/v/{LOUD}.flac", dtype="int16")
    np.testing.assert_allclose(decoded, expected_samples(LOUD), atol=1)
    assert np.abs(decoded.astype(int)).max() == round(0.9999 * 32768)


def rounded_otherwise(name):
    """The listed file as a machine lists it whose resampler rounds some samples up."""
    samples = expected_samples(name).clone()
    samples[::7] += 1
    return listed(name, sha256=decoded_sha256(samples), sketch=sketch(samples))


def test_another_rounding_is_accepted_noted_and_still_guarded(tmp_path, home):
    files = (FILES[0], rounded_otherwise("b"))
    fetched = get(tmp_path, home, files=files)
    assert (fetched.added, fetched.tolerated) == ([files[0].path], [files[1].path])
    (noted,) = read_list(tmp_path / "public_pairs/manifest.csv")
    assert noted == replace(files[1], sha256=decoded_sha256(expected_samples("b")))
    assert len(get(tmp_path, home, files=files).present) == 2
    assert home.asked == ["a", "b"]
    path = tmp_path / "public_pairs" / files[1].path
    samples, rate = soundfile.read(path, dtype="int16")
    samples[100] += 1
    soundfile.write(path, samples, rate)
    assert get(tmp_path, home, files=files).tolerated == [files[1].path]
    assert home.asked == ["a", "b", "b"]
    assert get(tmp_path, home, files=FILES).added == [FILES[2].path], "what is on disk is exact by the proper list"
    assert found(tmp_path) == PATHS, "no manifest where every file is exact"


def test_a_file_that_decodes_to_other_speech_is_refused_although_its_bytes_are_right(tmp_path, home):
    wrong = listed("b", sha256=FILES[0].sha256, sketch=FILES[0].sketch)
    with pytest.raises(DataMismatchError, match=r"b\.flac must decode to the listed samples .*rounding alone cannot explain it"):
        get(tmp_path, home, files=(wrong,))
    assert not found(tmp_path)


def test_tolerance_covers_rounding_and_no_more():
    samples = expected_samples("a").float() / 32768
    exact = sketch(samples)
    assert within_tolerance(sketch(samples + torch.randn(len(samples)) / 32768), exact)
    assert within_tolerance(sketch(samples * 1.005), exact)
    assert not within_tolerance(sketch(samples * 1.02), exact)
    assert not within_tolerance(sketch(samples[:-1]), exact)
    assert not within_tolerance(sketch(samples.roll(8000)), exact)


def test_files_already_present_are_copied_and_verified(tmp_path, home):
    get(tmp_path / "first", home)
    home.asked.clear()
    for source in (tmp_path / "first", tmp_path / "first/public_pairs"):
        dest = tmp_path / f"second-{source.name}"
        assert set(get_public_pairs(dest, source_dir=source, files=FILES).added) == PATHS
        assert found(dest) == PATHS
    assert not home.asked
    damaged = tmp_path / "first/public_pairs" / FILES[1].path
    samples, rate = soundfile.read(damaged, dtype="int16")
    samples[100] += 1
    soundfile.write(damaged, samples, rate)
    with pytest.raises(DataMismatchError, match=r"b\.flac must decode to the listed samples .*differs in single samples"):
        get_public_pairs(tmp_path / "third", source_dir=tmp_path / "first", files=FILES)
    assert found(tmp_path / "third") == PATHS - {FILES[1].path}
    damaged.write_bytes(b"no audio")
    with pytest.raises(DataMismatchError, match=r"b\.flac"):
        get_public_pairs(tmp_path / "third", source_dir=tmp_path / "first", files=FILES)
    damaged.unlink()
    with pytest.raises(DataError, match=r"b\.flac must exist, got no such file; leave out --from"):
        get_public_pairs(tmp_path / "third", source_dir=tmp_path / "first", files=FILES)
    with pytest.raises(DataError, match=r"--from must name a folder .*nowhere"):
        get_public_pairs(tmp_path / "third", source_dir=tmp_path / "nowhere", files=FILES)


def test_real_files_already_present_are_accepted(shared_data, tmp_path):
    files = read_list()[::60]
    fetched = get_public_pairs(tmp_path, source_dir=shared_data, files=files)
    assert fetched.added == [f.path for f in files]
    assert [decoded_sha256(read_audio(fetched.root / f.path)) for f in files] == [f.sha256 for f in files]


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match=r"public_pairs must be writable, got Not a directory; choose another folder"):
        get_public_pairs(tmp_path / "file", files=FILES)
