"""Hearing Ctrl-C; what runs in processes of its own is tested by what does (`test_plugins.py`, `test_doctor.py`)."""

import signal
import threading

import pytest

from zoo.system.processes import hear_interrupts


@pytest.fixture
def set_handler():
    before = signal.getsignal(signal.SIGINT)
    yield lambda handler: signal.signal(signal.SIGINT, handler)
    signal.signal(signal.SIGINT, before)


def test_an_inherited_ignored_sigint_is_heard_again(set_handler):
    set_handler(signal.SIG_IGN)
    hear_interrupts()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_a_handler_of_somebody_else_stays(set_handler):
    heard = []
    set_handler(lambda number, frame: heard.append(number))
    hear_interrupts()
    signal.raise_signal(signal.SIGINT)
    assert heard == [signal.SIGINT]


def test_another_thread_than_the_main_one_changes_nothing(set_handler):
    set_handler(signal.SIG_IGN)
    thread = threading.Thread(target=hear_interrupts)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
