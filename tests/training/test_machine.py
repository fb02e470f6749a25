"""Device, threads and memory."""

import os
import subprocess
import sys

import pytest
import torch

from interp_arith.errors import RequestError
from interp_arith.presets import preset
from interp_arith.training import machine


@pytest.fixture
def four_cores(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)


def test_a_step_gets_the_threads_that_it_is_worth(four_cores):
    assert [machine.threads_for(n) for n in (0, 1e9, 2e9, 4.1e9, 6e9, 1e12)] == [1, 1, 1, 2, 3, 4]


def test_seeds_share_the_cores(four_cores, monkeypatch):
    assert [machine.threads_for(1e12, seeds) for seeds in (1, 2, 3, 4, 100)] == [4, 2, 1, 1, 1]
    assert machine.threads_for(4.1e9, 1) == machine.threads_for(1e12, 2) == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert [machine.threads_for(1.0, seeds) for seeds in (1, 2, 3, 100)] == [4, 2, 1, 1]


def test_a_thread_count_that_somebody_chose_stays(four_cores, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert machine.threads_for(1.0) == 3
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert machine.threads_for(1.0) == 4


def test_small_models_get_one_thread_and_a_full_batch_of_modular_addition_more(four_cores):
    assert machine.operations_of(preset("mod-add-113"), 226_816, 3830) == 6 * 226_816 * 3830
    assert machine.threads_for(machine.operations_of(preset("mod-add-113"), 226_816, 3830)) == 2
    assert machine.threads_for(machine.operations_of(preset("add-10d-4k"), 4_000, 256)) == 1


@pytest.mark.parametrize(
    ("precision", "device", "has_units", "words"),
    [
        ("fp32", "cpu", False, "float32"),
        ("bf16", "cpu", True, "bfloat16"),
        ("bf16", "cpu", False, "bfloat16, multiplied in float32"),
        ("bf16", "cuda", False, "bfloat16"),
        ("tf32", "cuda", False, "TF32"),
        ("fp16", "cuda", False, "float16"),
    ],
)
def test_how_matrices_are_multiplied_is_said_in_words(precision, device, has_units, words, monkeypatch):
    monkeypatch.setattr(machine, "multiplies_bfloat16", lambda: has_units)
    assert machine.products_of(precision, torch.device(device)) == words


def test_threads_are_set_for_training_and_set_back():
    before = torch.get_num_threads()
    with machine.prepared(torch.device("cpu"), before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_memory_that_was_freed_is_not_handed_back_and_taken_anew():
    code = """
import resource, torch
from interp_arith.training import machine
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        a = torch.ones(12_000_000); b = torch.ones(12_000_000); del a, b
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults(); before = faults(); kept = machine.keep_memory(); faults()
print(kept, before, faults())
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    kept, before, after = out.split()
    is_told = sys.platform.startswith("linux")
    assert kept == str(is_told)
    assert int(after) < int(before) / 100 or not is_told


def test_a_thread_keeps_its_freed_memory_too():
    """Blocks of 4 to 12 MB, in all 5 million pages; 75,000 of them are taken anew where its heaps come and go."""
    code = """
import resource, threading, torch
from interp_arith.training import machine
def faults(count, size, rounds):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        held = [torch.empty(size).fill_(1.0) for _ in range(count)]
        while held: held.pop()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
def work():
    total = 0
    for shape in [(count, size) for count in range(5, 14) for size in (1 << 20, 2_000_000, 3 << 20)]:
        faults(*shape, 4)
        total += faults(*shape, 10)
    print(total)
machine.keep_memory()
thread = threading.Thread(target=work)
thread.start(); thread.join()
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(out) < 5_000 or not sys.platform.startswith("linux")


def test_memory_that_was_kept_between_small_results_is_given_back_on_request():
    code = """
import torch
from interp_arith.training import machine
def resident():
    return int(open('/proc/self/statm').read().split()[1])
machine.keep_memory()
blocks, results = [], []
for _ in range(200):
    blocks.append(torch.ones(250_000)); results.append(torch.ones(250))
full = resident()
blocks.clear(); kept = resident(); machine.give_memory_back()
print(full, kept, resident())
"""
    if not sys.platform.startswith("linux"):
        assert machine.give_memory_back() is None  # nothing to ask, and no error
        return
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    full, kept, given_back = map(int, out.split())
    pages = 200 * 1_000_000 // os.sysconf("SC_PAGE_SIZE")
    assert kept > full - pages / 10
    assert given_back < full - 9 / 10 * pages


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert machine.pick_device("auto") == machine.pick_device("cpu") == torch.device("cpu")
    with pytest.raises(RequestError, match="none that torch can use; take --device cpu"):
        machine.pick_device("cuda")
    for precision in ("fp16", "tf32"):
        with pytest.raises(RequestError, match=f"{precision} needs a GPU; on a CPU take bf16 or fp32"):
            machine.pick_device("cpu", precision)
    with pytest.raises(RequestError, match="did you mean"):
        machine.pick_device("cud")


def test_float32_products_are_exact_while_training_and_set_back_afterwards():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with machine.prepared(torch.device("cpu"), 1):
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
