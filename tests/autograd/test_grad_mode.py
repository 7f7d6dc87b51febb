import threading

import pytest

from cupynn.autograd import is_grad_enabled, no_grad, tensor


def test_nothing_is_recorded_inside():
    x = tensor([1.0], requires_grad=True)
    with no_grad():
        assert not is_grad_enabled()
        y = x * 2
        assert not y.requires_grad and y.record is None
        assert x.requires_grad
    assert is_grad_enabled() and (x * 2).requires_grad


def test_nesting_errors_and_one_object_twice():
    outer = no_grad()
    with outer:
        with outer:
            pass
        assert not is_grad_enabled()
        with pytest.raises(ZeroDivisionError), no_grad():
            1 / 0  # noqa: B018
        assert not is_grad_enabled()
    assert is_grad_enabled()


def test_decorator_keeps_the_name_and_works_recursively():
    @no_grad()
    def countdown(n):
        """Down to zero."""
        assert not is_grad_enabled()
        return [n, *countdown(n - 1)] if n else []

    assert countdown(3) == [3, 2, 1]
    assert (countdown.__name__, countdown.__doc__) == ("countdown", "Down to zero.")
    assert is_grad_enabled()


def test_other_threads_go_on_recording():
    seen = []
    with no_grad():
        thread = threading.Thread(target=lambda: seen.append(is_grad_enabled()))
        thread.start()
        thread.join()
    assert seen == [True]
