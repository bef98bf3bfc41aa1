"""Signals are collected, handlers given back, and several processes leave after the same step."""

import os
import signal
import threading

import jax
import pytest

from library import stopping


@pytest.mark.parametrize("number", stopping.SIGNALS)
def test_signals_are_collected_and_the_handlers_given_back(number):
    before = [signal.getsignal(each) for each in stopping.SIGNALS]
    with stopping.listening() as received:
        assert list(received) == []
        os.kill(os.getpid(), number)
        assert list(received) == [number]
    assert [signal.getsignal(each) for each in stopping.SIGNALS] == before


@pytest.mark.parametrize("first", stopping.SIGNALS)
def test_a_second_interrupt_is_heeded_at_once(first):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        with stopping.listening():
            os.kill(os.getpid(), first)
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_outside_the_main_thread_nothing_is_installed():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def work():
        with stopping.listening() as received:
            seen.append((list(received), signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [([], before)]


def test_one_process_heeds_its_first_signal_at_once():
    assert stopping.agreed([], 3, 1, 100) == 0
    assert stopping.agreed([15, 2], 3, 1, 100) == 15


@pytest.mark.parametrize(
    "done, size, asked",
    [(15, 1, False), (16, 1, True), (17, 1, False), (20, 8, True), (28, 8, False), (99, 1, True)],
)
def test_several_processes_agree_at_multiples_of_16_and_at_the_end(monkeypatch, done, size, asked):
    """This process has no signal, another has SIGTERM."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(stopping.multihost, "agreed_maximum", lambda number: max(number, 15))
    assert stopping.agreed([], done, size, 99) == (15 if asked else 0)
    assert stopping.agreed([2], done, size, 99) == (15 if asked else 0)


def test_the_message_says_whether_the_step_was_saved():
    assert str(stopping.Interrupted(15, 3, True)) == "stopped by SIGTERM after step 3, saved"
    assert str(stopping.Interrupted(2, 3, False)) == "stopped by SIGINT after step 3, not saved"
