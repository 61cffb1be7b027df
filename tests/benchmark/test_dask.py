"""Workers under a scheduler give the bytes of one process, wherever they live and whatever becomes of them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from toys import Toy, ToyTask, toy_run

from xaibench.benchmark.heatmaps import store_packed
from xaibench.benchmark.journal import Journal
from xaibench.errors import RunError

pytest.importorskip("distributed", reason="distributed is not installed: pip install 'xaibench[dask]'")
# the library itself leaves sockets and event loops to the collector when a scheduler is killed under it
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:distributed"),
]
BYTES = ("units.parquet", "curves.parquet", "summary.json")
TASK = ToyTask(utterances=2)
HERE = Path(__file__).parent


def contents(path):
    return {name: (path / name).read_bytes() for name in BYTES}


class Cluster:
    """A scheduler and two workers with folders of their own, as processes."""

    def __init__(self, folder: Path, port: int = 0, workers: int = 2):
        self.folder, self.processes = folder, []
        self.environment = {**os.environ, "PYTHONPATH": str(HERE), "DASK_DISTRIBUTED__WORKER__DAEMON": "False"}
        written = folder / f"scheduler-{time.monotonic_ns()}.json"
        self.start("scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard", "--scheduler-file", str(written))
        deadline = time.monotonic() + 60
        while not written.exists() or not written.read_text().strip():
            assert time.monotonic() < deadline, "the scheduler does not start"
            time.sleep(0.05)
        import json

        self.address = json.loads(written.read_text())["address"]
        self.port = int(self.address.rsplit(":", 1)[1])
        for name in ("one", "two")[:workers]:
            place = folder / name
            place.mkdir(exist_ok=True)
            options = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--local-directory", str(place), "--name", name)
            self.start("worker", self.address, *options, cwd=place)

    def start(self, kind, *arguments, cwd=None):
        command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", *arguments]
        log = (self.folder / f"{kind}-{len(self.processes)}.log").open("w")
        self.processes.append(
            subprocess.Popen(
                command, cwd=cwd, env=self.environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        )
        log.close()

    def kill(self, *which):
        for process in which or self.processes:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            process.wait()


@pytest.fixture
def cluster(tmp_path):
    made = []

    def make(**options):
        made.append(Cluster(tmp_path, **options))
        return made[-1]

    yield make
    for one in made:
        one.kill()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return contents(toy_run(tmp_path_factory.mktemp("whole") / "run", Toy(), task=TASK).path)


def finished(folder):
    try:
        with Journal(folder / "journal.sqlite", read_only=True) as journal:
            return sum(1 for _ in journal.records("explanation"))
    except RunError:
        return 0


def in_background(folder, address, explainer):
    body = (
        f"import sys; sys.path.insert(0, {str(HERE)!r})\nfrom toys import *\nfrom pathlib import Path\n"
        f"toy_run(Path({str(folder)!r}), {explainer}, task=ToyTask(utterances=2), executor='dask:scheduler={address}')"
    )
    return subprocess.Popen([sys.executable, "-c", body], stderr=subprocess.PIPE, text=True)


def wait_for(folder, count, process):
    deadline = time.monotonic() + 90
    while finished(folder) < count:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "the run does not get on"
        time.sleep(0.05)


@pytest.mark.slow
def test_a_scheduler_with_two_separate_workers_gives_the_bytes_of_one_process(tmp_path, whole, cluster):
    engine = f"dask:scheduler={cluster().address}"
    run = toy_run(tmp_path / "run", Toy(), task=TASK, executor=engine)
    assert contents(run.path) == whole
    assert len(list((run.path / "heatmaps").iterdir())) == run.frame.heatmap_sha256.nunique()
    assert not list(tmp_path.rglob("two/**/*.npy.zst"))  # workers keep nothing
    (run.path / "heatmaps" / f"{run.frame.heatmap_sha256.iloc[0]}.npy.zst").unlink()
    assert contents(toy_run(tmp_path / "run", Toy(), task=TASK, executor=engine).path) == whole
    dying = toy_run(tmp_path / "dying", Toy(fault="dies"), task=TASK, executor=engine, faithfulness=False)
    found = dying.frame[(dying.frame.explainer == "toy_explainer:fault=dies") & (dying.frame.metric == "forwards")]
    assert set(found.status) == {"ok", "error"}
    assert all("ended by SIGKILL" in why for why in found.why if why)  # the plugin's process, not the worker
    assert set(dying.frame[dying.frame.explainer == "energy"].status) == {"ok"}


@pytest.mark.slow
def test_a_local_cluster_gives_the_bytes_of_one_process(tmp_path, whole, monkeypatch):
    monkeypatch.syspath_prepend(HERE)
    assert contents(toy_run(tmp_path / "run", Toy(), task=TASK, executor="dask:workers=2").path) == whole


@pytest.mark.slow
def test_a_worker_killed_in_the_middle_costs_nothing(tmp_path, whole, cluster):
    dask = cluster()
    process = in_background(tmp_path / "run", dask.address, "Toy(pause_s=0.2)")
    wait_for(tmp_path / "run", 5, process)
    dask.kill(dask.processes[2])
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert contents(tmp_path / "run") == whole


@pytest.mark.slow
def test_the_only_worker_killed_takes_the_work_with_it_and_another_is_given_it_anew(tmp_path, whole, cluster):
    dask = cluster(workers=1)
    process = in_background(tmp_path / "run", dask.address, "Toy(pause_s=0.2)")
    wait_for(tmp_path / "run", 5, process)
    dask.kill(dask.processes[1])
    (tmp_path / "three").mkdir()
    dask.start("worker", dask.address, "--nthreads", "1", "--no-nanny", "--no-dashboard", cwd=tmp_path / "three")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert contents(tmp_path / "run") == whole


@pytest.mark.slow
def test_a_scheduler_that_is_killed_ends_in_a_sentence_and_the_run_goes_on_with_another(tmp_path, whole, cluster):
    dask = cluster()
    process = in_background(tmp_path / "run", dask.address, "Toy(pause_s=0.2)")
    wait_for(tmp_path / "run", 5, process)
    dask.kill()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "RunError: scheduler must stay reachable" in errors
    kept = finished(tmp_path / "run")
    assert kept >= 5
    again = cluster(port=dask.port)
    assert again.address == dask.address
    run = toy_run(tmp_path / "run", Toy(), task=TASK, executor=f"dask:scheduler={again.address}")
    assert contents(run.path) == whole


def test_a_scheduler_that_is_not_there_is_told(tmp_path, monkeypatch):
    from xaibench.benchmark.executors import dask

    monkeypatch.setattr(dask, "CONNECT_S", 1)
    with pytest.raises(RunError, match=r"scheduler must answer and have a worker, got tcp://127\.0\.0\.1:9"):
        toy_run(tmp_path / "run", Toy(), task=TASK, executor="dask:scheduler=tcp://127.0.0.1:9")


def test_a_heatmap_from_a_worker_is_checked(tmp_path):
    (tmp_path / "heatmaps").mkdir()
    with pytest.raises(RunError, match="heatmap must be intact"):
        store_packed(tmp_path, "0" * 64, b"not a heatmap")
    with pytest.raises(RunError, match="heatmap must be named by its SHA-256"):
        store_packed(tmp_path, "../../somewhere", b"")
