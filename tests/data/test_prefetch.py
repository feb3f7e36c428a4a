"""What is made ahead is what was asked for, and no thread outlives its block."""

import functools
import signal
import threading

import pytest

from seqrec.data.prefetch import prefetched
from seqrec.types import InputError


def prefetch_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    yield
    assert not prefetch_threads()


class Maker:
    """Squares steps, and knows which it was asked for."""

    def __init__(self):
        self.steps = []
        self.threads = set()

    def __call__(self, step):
        self.steps.append(step)
        self.threads.add(threading.current_thread().name)
        return step**2


@pytest.mark.parametrize("n_ahead", [1, 2, 7])
def test_steps_give_what_they_give_without(n_ahead):
    maker = Maker()
    with prefetched(maker, n_ahead=n_ahead) as made:
        assert [made(step) for step in range(3, 50)] == [step**2 for step in range(3, 50)]
        assert len(prefetch_threads()) == 1
    assert maker.steps[:47] == list(range(3, 50))  # each once, in order
    assert set(maker.steps[47:]) <= set(range(50, 50 + n_ahead))
    assert maker.threads == {"prefetch_0"}


def test_the_next_are_made_while_the_caller_works_and_no_more():
    both_made = threading.Event()
    steps = []

    def make(step):
        steps.append(step)
        if step == 2:
            both_made.set()
        return step

    with prefetched(make, n_ahead=2) as made:
        assert made(0) == 0
        assert both_made.wait(timeout=60)
        assert made(1) == 1
    assert max(steps) <= 3


def test_a_caller_may_begin_anywhere_and_go_back():
    with prefetched(Maker()) as made:
        steps = [100, 101, 40, 41, 41, 3, 102]
        assert [made(step) for step in steps] == [step**2 for step in steps]


def test_an_error_comes_where_its_step_is_asked_for():
    def make(step):
        if step == 3:
            raise OSError("the disk is gone")
        return step

    with prefetched(make, n_ahead=4) as made:
        assert [made(step) for step in range(3)] == [0, 1, 2]
        with pytest.raises(OSError, match="disk is gone"):
            made(3)


def test_an_error_of_a_step_that_nobody_asks_for_is_none():
    with prefetched(lambda step: 1 // (3 - step)) as made:
        assert [made(step) for step in range(3)] == [0, 0, 1]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError])
def test_an_error_of_the_caller_ends_the_thread(stop):
    def work():
        with prefetched(Maker()) as made:
            made(0)
            raise stop

    with pytest.raises(stop):
        work()


def test_ctrl_c_while_a_batch_is_waited_for_ends_the_thread(request):
    # Where the tests were begun in a shell's background, Python was told to ignore the signal.
    request.addfinalizer(functools.partial(signal.signal, signal.SIGINT, signal.getsignal(signal.SIGINT)))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    requested, interrupted = threading.Event(), threading.Event()

    def make(step):
        if step == 1:
            assert requested.wait(timeout=60)
            # A signal that comes just before the main thread waits for the batch is seen only when it has it.
            for _ in range(60):
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
                if interrupted.wait(timeout=1):
                    break
            assert interrupted.is_set()
        return step

    with prefetched(make, n_ahead=1) as made:
        try:
            made(0)
            requested.set()
            made(1)
        except KeyboardInterrupt:
            interrupted.set()
    assert interrupted.is_set()


def test_nothing_ahead_is_refused():
    with pytest.raises(InputError, match="n_ahead=0"), prefetched(Maker(), n_ahead=0):
        pass
