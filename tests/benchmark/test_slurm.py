"""A real Slurm with two nodes on one machine runs the workers, and the tables are the bytes of one process."""

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest
from toys import Toy, ToyTask, toy_run

pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed: pip install 'xaibench[dask]'")
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "sinfo")
missing = [name for name in PROGRAMS if not (shutil.which(name) or shutil.which(name, path="/usr/sbin"))]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} missing: apt-get install slurm-wlm munge"),
    pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="the daemons of Slurm need root"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:dask_jobqueue"),
]
BYTES = ("units.parquet", "curves.parquet", "summary.json")
CONF = """
ClusterName=toys
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={place}/munge.socket
CredType=cred/munge
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool-%n
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd-%n.pid
SlurmctldLogFile={place}/slurmctld.log
SlurmdLogFile={place}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
SlurmctldTimeout=30
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=4000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory=4000
PartitionName=all Nodes=n1,n2 Default=YES State=UP
"""


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Start munge, a controller and two nodes; the environment names their configuration."""
    place = Path("/tmp") / f"xaibench-slurm-{os.getpid()}"  # paths of sockets are short
    place.mkdir(mode=0o755)
    (place / "state").mkdir()
    (place / "slurm.conf").write_text(CONF.format(host=socket.gethostname(), ports=free_ports(3), place=place))
    (place / "key").write_bytes(os.urandom(1024))
    (place / "key").chmod(0o400)
    monkeypatch.setenv("SLURM_CONF", str(place / "slurm.conf"))
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:/usr/sbin")
    munge = ["--foreground", "--force", f"--key-file={place}/key", f"--socket={place}/munge.socket", f"--pid-file={place}/munge.pid"]
    commands = [["munged", *munge, f"--log-file={place}/munge.log", f"--seed-file={place}/seed"], ["slurmctld", "-D", "-c"]]
    commands += [["slurmd", "-D", "-N", name] for name in ("n1", "n2")]
    daemons = []
    try:
        for command in commands:
            log = (place / f"{command[0]}-{len(daemons)}.out").open("w")
            daemons.append(subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL))
            log.close()
            time.sleep(1)
        deadline = time.monotonic() + 60
        while "idle" not in (
            states := subprocess.run(["sinfo", "-h", "-N", "-o", "%N %t"], capture_output=True, text=True, check=False).stdout
        ) or (states.count("idle") < 2):
            logs = "\n".join(f"{p.name}: {p.read_text()[-400:]}" for p in place.glob("*.out"))
            assert time.monotonic() < deadline, f"the nodes do not come up: {states}\n{logs}"
            time.sleep(0.5)
        yield place
    finally:
        subprocess.run(["scancel", "--state=RUNNING"], check=False, capture_output=True)
        for daemon in reversed(daemons):
            daemon.terminate()
            try:
                daemon.wait(timeout=10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        shutil.rmtree(place, ignore_errors=True)


def test_two_nodes_give_the_bytes_of_one_process(tmp_path, slurm, monkeypatch):
    import dask.config

    here = str(Path(__file__).parent)
    prologue = [f"export PYTHONPATH={here}", "export OMP_NUM_THREADS=1", f"echo $SLURMD_NODENAME >> {tmp_path}/nodes"]
    options = {
        "cores": 1,
        "processes": 1,
        "memory": "3GB",
        "walltime": "00:10:00",
        "interface": "lo",
        "job-cpu": 2,
        "job-script-prologue": prologue,
        "local-directory": str(tmp_path),
        "log-directory": str(tmp_path / "logs"),
        "death-timeout": 120,
    }
    task = ToyTask(utterances=2)
    whole = toy_run(tmp_path / "whole", Toy(), task=task)
    with dask.config.set({f"jobqueue.slurm.{name}": value for name, value in options.items()}):
        run = toy_run(tmp_path / "run", Toy(pause_s=0.3), task=task, executor="dask:slurm=true,workers=2,patience_s=120")
    assert {name: (run.path / name).read_bytes() for name in BYTES} == {name: (whole.path / name).read_bytes() for name in BYTES}
    assert set((tmp_path / "nodes").read_text().split()) == {"n1", "n2"}
