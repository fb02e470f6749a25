"""Sweeps on Ray: a cluster of two nodes on this machine, a worker killed; and addresses that do not answer."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from chaos.small_runs import small_config
from small_sweeps import all_differences, one_writer_killed, resumed, small_sweep, write_file

from interp_arith import workers
from interp_arith.cli import main
from interp_arith.grid import Sweep
from interp_arith.runs import train_configs
from interp_arith.sweep import groups
from interp_arith.sweep_results import load_sweep
from interp_arith.training.signals import StopRequest

RUNS, NODES = 24, 2
GRID = {"task.operation": ["add", "subtract"], "optimizer.learning_rate": [0.01, 0.02, 0.03, 0.04]}
FIELDS = {"grid": GRID, "seeds": [0, 1, 2], "config": small_config(budget={"steps": 30}).plain()}


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def free_port():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return unused.getsockname()[1]


@pytest.fixture
def cluster():
    """The address of two nodes with a CPU each; both are stopped in the end."""
    address = f"127.0.0.1:{free_port()}"
    common = [
        *(
            sys.executable,
            "-m",
            "ray.scripts.scripts",
            "start",
            "--node-ip-address=127.0.0.1",
            "--num-cpus=1",
        ),
        *("--num-gpus=0", "--disable-usage-stats", "--object-store-memory=80000000", "--block"),
    ]
    here = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "OMP_NUM_THREADS": "1",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    head = ["--head", f"--port={address.split(':')[1]}", "--include-dashboard=false"]
    nodes = []
    try:
        for options in (head, [f"--address={address}"]):
            nodes.append(start([*common, *options], here))
        yield address
    finally:
        for node in reversed(nodes):
            node.terminate()
        for node in reversed(nodes):
            node.communicate(timeout=60)


def start(arguments, environment):
    """A node, as soon as it says that it runs."""
    node = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    assert node.stdout is not None
    told = []
    for line in node.stdout:
        told.append(line)
        if "Ray runtime started" in line:
            return node
    raise AssertionError("".join(told))


def test_a_worker_is_killed_and_every_run_is_there_the_same_to_the_bit(cluster, tmp_path, capsys):
    runs = Path("runs/small/runs")
    with one_writer_killed(runs) as killed:
        assert main(["sweep", write_file(Path(), **FIELDS), "--ray", cluster]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    lines = [line for line in printed.out.splitlines() if line.strip()]
    assert "s0 and 11 more: its worker died (WorkerCrashedError); tried again" in lines[0]
    assert ["s0 and 11 more: finished" in line for line in lines[1 : 1 + NODES]] == [True, True]
    assert killed[0] in resumed(runs)
    assert set(load_sweep("runs/small")["status"].values.flat) == {"finished"}
    plan = Sweep.model_validate(small_sweep(**FIELDS))
    for members in groups([run.config for run in plan.runs()], [], (), RUNS // NODES, "cpu"):
        train_configs(members, out=tmp_path / "alone", device="cpu", progress=False)
    assert len(list(runs.iterdir())) == RUNS
    assert all_differences(tmp_path / "alone", runs) == {}


def test_an_address_where_nothing_listens_is_refused_at_once(capsys):
    address = f"127.0.0.1:{free_port()}"
    assert main(["sweep", write_file(Path()), "--ray", address]) == 2
    told = capsys.readouterr().err
    assert told == (
        f"interp-arith: no Ray cluster answers at {address}; start one with `ray start --head`, "
        "or give its HOST:PORT\n"
    )
    assert not Path("runs").exists()


def test_an_address_that_says_nothing_is_refused_within_ten_seconds(capfd):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(5)
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        assert main(["sweep", write_file(Path()), "--ray", address]) == 2
        assert time.monotonic() - began < 10
    told = capfd.readouterr().err
    assert told.startswith(f"interp-arith: no Ray cluster answers at {address}; start one")
    assert told.count("\n") == 1


@pytest.mark.parametrize("address", ["nowhere", "localhost:", "localhost:http"])
def test_an_address_that_is_none(address, capsys):
    assert main(["sweep", write_file(Path()), "--ray", address]) == 2
    told = capsys.readouterr().err
    assert told == f"interp-arith: --ray {address!r}; allowed: HOST:PORT, ray://HOST:PORT or auto\n"


def test_without_ray_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["sweep", write_file(Path()), "--ray", "localhost:6379"]) == 2
    told = capsys.readouterr().err
    assert told == 'interp-arith: ray is not installed; run `pip install "interp-arith[ray]"`\n'


class Cluster:
    """What cluster_size and run_on_ray ask of the ray module, for resources and for one that stops answering."""

    def __init__(self, **resources):
        self.resources = resources
        self.gcs_address = f"127.0.0.1:{free_port()}"

    def cluster_resources(self):
        return self.resources

    def remote(self, **_):
        return lambda function: self

    def get_runtime_context(self):
        return self

    def wait(self, references, timeout):
        return [], references


@pytest.mark.parametrize(
    ("resources", "device", "expected"),
    [
        ({"CPU": 6.0}, "auto", ("cpu", 6)),
        ({"CPU": 6.0, "GPU": 2.0}, "auto", ("cuda", 4)),
        ({"CPU": 3.0, "GPU": 2.0}, "cuda", ("cuda", 3)),
        ({"CPU": 6.0, "GPU": 2.0}, "cpu", ("cpu", 6)),
    ],
)
def test_how_many_jobs_a_cluster_does_at_once(resources, device, expected):
    assert workers.cluster_size(Cluster(**resources), device, 0.5) == expected


def test_a_cluster_without_a_gpu_is_refused_for_cuda():
    with pytest.raises(
        workers.RequestError, match="the Ray cluster has 2 CPUs and 0 GPUs, too few for a job"
    ):
        workers.cluster_size(Cluster(CPU=2.0), "cuda", 0.5)


def test_a_cluster_that_goes_away_is_a_work_error(tmp_path):
    class Task(Cluster):
        def remote(self, *arguments, **_):
            return self.never if arguments else (lambda function: self)

        never = "a reference"

    job = workers.Job((small_config(),), tmp_path, tmp_path)
    with pytest.raises(
        workers.WorkError, match="no longer answers; what was saved stands, and the same sweep"
    ):
        workers.run_on_ray(Task(), [job], 1, 0.5, 2, StopRequest(), lambda what, outcome: None)
