"""Hearing Ctrl-C; what runs in processes of its own is tested by what does (`test_plugins.py`, `test_doctor.py`)."""

import signal
import subprocess
import sys
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


LOADS_ONNX = """
import os, signal, sys
from zoo.system.processes import termination_heard

created = False

def watch(frame, event, _):
    global created
    if event != "call":
        return
    by = frame.f_back
    if by and by.f_code.co_name == "create_module" and by.f_locals["spec"].name == "onnx.onnx_cpp2py_export":
        created = frame.f_code.co_name == "_verbose_message"  # called after the module was created
    if created and frame.f_code.co_name == sys.argv[2]:
        sys.setprofile(None)
        os.kill(os.getpid(), int(sys.argv[1]))

sys.setprofile(watch)
with termination_heard():
    import onnx
    import time
    time.sleep(60)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM that a process hears")
@pytest.mark.parametrize("where", ["_verbose_message", "_create_"], ids=["created", "initialised"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_an_extension_module_is_loaded_waits_until_it_is(number, where):
    """Raised in between, it crashed the process: SIGSEGV when onnx's module was created, SIGABRT in its `_create_`."""
    done = subprocess.run(
        [sys.executable, "-c", LOADS_ONNX, str(int(number)), where], capture_output=True, text=True, timeout=60
    )
    if number == signal.SIGTERM:
        assert (done.returncode, done.stderr) == (128 + number, "")
    else:
        assert done.returncode == -signal.SIGINT and done.stderr.endswith("\nKeyboardInterrupt\n"), done
