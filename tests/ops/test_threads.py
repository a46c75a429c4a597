"""The threads of the fused paths leave every setting of the process as it was."""

import multiprocessing
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from sharedmlp import SharedMLPMaxPool
from sharedmlp.ops.cpu import threads
from sharedmlp.ops.cpu.threads import run_chunks
from tests.ops.compare import make, points

fork = pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="needs fork"
)


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    threads._pool.forget()
    yield
    torch.set_num_threads(before)


def in_a_new_thread(function):
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(function).result()


def fail(numbers):
    for number in numbers:
        time.sleep(0.005)
        if number == 3:
            raise ZeroDivisionError("chunk 3")


def idle(numbers):
    for _ in numbers:
        time.sleep(0.005)  # so that every thread gets one


def test_each_worker_is_alone_and_nobody_else_notices(three_threads):
    """Also if a worker's first chunk needs no torch."""
    seen = []

    def work(numbers):
        for _ in numbers:
            time.sleep(0.005)
            seen.append((threading.get_ident(), torch.get_num_threads()))

    for worker in (idle, work):
        run_chunks(worker, 12)
    assert {count for _, count in seen} == {1}
    assert len({thread for thread, _ in seen}) == 3
    assert torch.get_num_threads() == 3
    assert in_a_new_thread(torch.get_num_threads) == 3


def test_after_an_error_in_a_chunk(three_threads):
    for _ in range(3):
        with pytest.raises(ZeroDivisionError, match="chunk 3"):
            run_chunks(fail, 12)
        assert torch.get_num_threads() == 3
        assert in_a_new_thread(torch.get_num_threads) == 3
    run_chunks(idle, 12)


def test_threads_that_start_while_the_workers_start(three_threads):
    """A number that is changed for a moment is what such a thread would keep for good."""
    for _ in range(10):
        threads._pool.forget()
        counts: list[int] = []
        stop = threading.Event()

        def start_threads(counts=counts, stop=stop):
            while not stop.is_set():
                counts.append(in_a_new_thread(torch.get_num_threads))

        watcher = threading.Thread(target=start_threads)
        watcher.start()
        run_chunks(idle, 6)
        stop.set()
        watcher.join()
        assert set(counts) == {3}


def test_eight_threads_at_once(three_threads):
    """A web server: same answers, and the settings of each thread are what they were."""
    pool = make("pool", "linear").eval()
    x = [points(4, 1500, 3, seed=seed) for seed in range(8)]
    with torch.no_grad():
        expected = [pool(points) for points in x]
    threads._pool.forget()
    barrier = threading.Barrier(8)
    results: list[Any] = [None] * 8

    def serve(number):
        barrier.wait()
        for _ in range(5):
            with torch.no_grad():
                y = pool(x[number])
        results[number] = (y, torch.get_num_threads())

    servers = [threading.Thread(target=serve, args=(number,)) for number in range(8)]
    for server in servers:
        server.start()
    for server in servers:
        server.join()
    for (y, count), want in zip(results, expected, strict=True):
        assert count == 3
        assert torch.equal(y, want)


def test_without_the_calls_that_limit_a_thread_the_caller_works(three_threads, monkeypatch):
    monkeypatch.setattr(threads, "_thread_limits", lambda: ())
    seen: set[int] = set()

    def work(numbers):
        seen.update(threading.get_ident() for _ in numbers)

    run_chunks(work, 12)
    assert seen == {threading.get_ident()}


def test_the_calls_that_limit_a_thread_are_found_here():
    """On Linux; else every fused path would quietly run in one thread."""
    if sys.platform != "linux":
        pytest.skip("the library's name is that of Linux")
    assert threads._thread_limits()


def test_an_idle_worker_of_openmp_sleeps():
    """Each worker once opens a team of two, so that libgomp knows of more threads than cores.

    Else its own threads spin after each parallel region, on the cores that the workers need. What
    it counts it tells nobody: here the team is seen to be opened.
    """
    opened = []

    def limit(count):
        opened.append(count)

    real = threads._thread_limits
    threads._pool.forget()
    try:
        threads._thread_limits = lambda: (limit, *real())  # type: ignore[assignment]
        before = torch.get_num_threads()
        torch.set_num_threads(2)
        run_chunks(idle, 4)
    finally:
        torch.set_num_threads(before)
        threads._thread_limits = real
        threads._pool.forget()
    assert sorted(opened) == [1, 1, 2, 2]


SCRIPT = """
import atexit, threading, time
import torch
from sharedmlp import SharedMLPMaxPool

torch.set_num_threads(2)
pool = SharedMLPMaxPool([3, 6, 9], fused=True).eval()
x = torch.randn(8, 1500, 3)
with torch.no_grad():
    expected = pool(x)

def check(where):
    with torch.no_grad():
        assert torch.allclose(pool(x), expected, atol=1e-5)
    print(where, flush=True)

def late():
    threading.main_thread().join()
    time.sleep(0.2)
    check("thread")

atexit.register(check, "atexit")
threading.Thread(target=late).start()
"""


@pytest.mark.parametrize("first", [True, False], ids=["warm", "cold"])
def test_a_thread_that_outlives_main_and_atexit(first):
    """With workers from before, or none yet when the interpreter shuts down."""
    script = SCRIPT if first else SCRIPT.replace("    expected = pool(x)", "    expected = None")
    if not first:
        script = script.replace("assert torch.allclose(pool(x), expected, atol=1e-5)", "pool(x)")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["thread", "atexit"]
    assert "Traceback" not in done.stderr


class Features(Dataset):
    """A data set that runs a fused layer in its workers."""

    def __init__(self):
        self.pool = SharedMLPMaxPool([3, 6, 9], fused=True).eval()

    def __len__(self):
        return 6

    def __getitem__(self, index):
        with torch.no_grad():
            return self.pool(points(2, 1500, 3, seed=index, dtype=torch.float32))


@pytest.mark.parametrize(
    "method",
    [  # a spawned process imports torch anew, and inherits nothing
        pytest.param(method, marks=[pytest.mark.slow] if method == "spawn" else [])
        for method in multiprocessing.get_all_start_methods()
    ],
)
def test_loaders_after_a_fused_forward(method):
    """Forked, spawned, and from a server: as long as one of them hangs, this test does."""
    data = Features()
    expected = [data[index] for index in range(len(data))]
    loader = DataLoader(
        data, batch_size=1, num_workers=2, multiprocessing_context=method, timeout=100
    )
    for got, want in zip(loader, expected, strict=True):
        torch.testing.assert_close(got[0], want)


def _child(connection, pool, x):
    torch.set_num_threads(1)
    with torch.no_grad():
        connection.send(pool(x).sum().item())
        run_chunks(idle, 4)
    connection.send("done")


@fork
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_a_fork_after_a_fused_forward():
    """The child inherits the workers' object, not the workers."""
    pool = make("pool", "linear").eval()
    x = points(4, 1500, 3)
    with torch.no_grad():
        want = pool(x).sum().item()
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=_child, args=(theirs, pool, x))
    child.start()
    assert ours.poll(60)
    assert ours.recv() == pytest.approx(want)
    assert ours.poll(60)
    assert ours.recv() == "done"
    child.join(60)
    assert child.exitcode == 0


COUNT = """
import os, threading, time
import torch
from sharedmlp.ops.cpu.threads import run_chunks

torch.set_num_threads(3)
before = len(os.listdir("/proc/self/task"))

def idle(numbers):
    for _ in numbers:
        time.sleep(0.02)

run_chunks(idle, 12)
print(len(os.listdir("/proc/self/task")) - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_each_worker_has_opened_a_team_of_its_own():
    """Three workers, and the second thread of the team of two that each of them opened once.

    Without it, or in teams of another size, libgomp does not know of more threads than cores.
    """
    done = subprocess.run(
        [sys.executable, "-c", COUNT], capture_output=True, text=True, timeout=120, check=True
    )
    assert int(done.stdout) == 6
