import threading

import pytest

from cupynn.autograd import enable_grad, is_grad_enabled, no_grad, tensor


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


def test_a_generator_records_nothing_and_its_consumer_does():
    closed = []

    @no_grad()
    def running_sum():
        """Adds up."""
        total = 0
        try:
            while True:
                assert not is_grad_enabled()
                try:
                    value = yield total
                except KeyError:
                    return total
                total = 10 if value is None else total + value
        finally:
            closed.append(is_grad_enabled())

    sums = running_sum()
    assert running_sum.__doc__ == "Adds up." and next(sums) == 0 and is_grad_enabled()
    assert (sums.send(3), next(sums)) == (3, 10) and is_grad_enabled()
    with pytest.raises(StopIteration) as stop:
        sums.throw(KeyError())
    assert stop.value.value == 10
    with pytest.raises(ValueError, match="mine"):
        next(other := running_sum()), other.throw(ValueError("mine"))
    other = running_sum()
    next(other)
    other.close()
    assert closed == [False] * 3 and is_grad_enabled()


def test_async_functions_are_refused():
    async def coroutine():
        pass

    async def items():
        yield 1

    for function in (coroutine, items):
        with pytest.raises(TypeError, match=rf"no_grad: {function.__name__} is async; write `with no_grad"):
            no_grad()(function)


def test_enable_grad_records_inside_no_grad():
    x = tensor([1.0, 1.0], requires_grad=True)
    with no_grad():
        with enable_grad():
            assert is_grad_enabled() and (x * 2).requires_grad
        assert not (x * 2).requires_grad
    with pytest.raises(KeyError), enable_grad():
        raise KeyError
    assert is_grad_enabled()
