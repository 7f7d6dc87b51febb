"""A CuPy without a GPU: arrays in host memory that behave as `cupy.ndarray` does, kernels that run under the checker.

Only what cupynn uses, after CuPy 14's source (`_core/core.pyx`). Every launch is held against what a GPU takes
(`fake_launch.py`) and recorded, and so is everything that makes the host wait for the device or copies to it. Device
memory is filled with 0xFF, NaN in every floating-point type, when it is allocated. What the fake does not know raises
AttributeError, and so does a name that the installed CuPy does not have.
"""

import pathlib
import sys
import types

import fake_launch
import numpy as np

NUMBER = 7  # the fake GPU: no table that the library keeps per device is a real GPU's
HOST_TO_DEVICE = ("array", "asarray", "ascontiguousarray", "asanyarray")
DATA_ON_HOST = ("nonzero", "flatnonzero", "argwhere", "unique")  # the result's shape depends on values
SCALARS = (bool, int, float, complex, np.generic)


class Log:
    """What happened on the device since `clear`."""

    def __init__(self):
        self.clear()

    def clear(self):
        self.launches, self.waits, self.uploads = [], [], []

    def note(self, events, kind):
        """Add `kind` and the line of cupynn that asked for it."""
        frame = sys._getframe(1)
        while frame and "/cupynn/" not in frame.f_code.co_filename.replace("\\", "/").rpartition("/tests/")[2]:
            frame = frame.f_back
        place = f"{pathlib.Path(frame.f_code.co_filename).stem}.{frame.f_code.co_name}" if frame else "the test"
        events.append((kind, place))


class ndarray:
    """`cupy.ndarray`."""

    __array_priority__ = 100
    __hash__ = None

    def __init__(self, host, device):
        self._host, self.device = host, types.SimpleNamespace(id=device)

    shape = property(lambda self: self._host.shape)
    dtype = property(lambda self: self._host.dtype)
    strides = property(lambda self: self._host.strides)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    itemsize = property(lambda self: self._host.itemsize)
    nbytes = property(lambda self: self._host.nbytes)
    base = property(lambda self: wrap(self._host.base))
    T = property(lambda self: wrap(self._host.T))
    data = property(lambda self: types.SimpleNamespace(ptr=self._host.ctypes.data, device=self.device))

    @property
    def flags(self):
        flags = self._host.flags
        return types.SimpleNamespace(
            c_contiguous=flags.c_contiguous, f_contiguous=flags.f_contiguous, owndata=flags.owndata
        )

    @property
    def __cuda_array_interface__(self):
        pointer = self._host.ctypes.data if self.size else 0
        return {"shape": self.shape, "typestr": self.dtype.str, "data": (pointer, False), "version": 3}

    def get(self):
        log.note(log.waits, "get")
        return self._host.copy()

    def item(self):
        log.note(log.waits, "item")
        return self._host.item()

    def tolist(self):
        log.note(log.waits, "tolist")
        return self._host.tolist()

    def __dlpack__(self, **options):
        return self._host.__dlpack__(max_version=options.get("max_version"))

    def __dlpack_device__(self):
        return 2, NUMBER  # kDLCUDA

    def __array__(self, dtype=None, copy=None):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def __bool__(self):
        return bool(self.item())

    def __float__(self):
        return float(self.item())

    def __int__(self):
        return int(self.item())

    __index__ = __int__

    def __len__(self):
        return len(self._host)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __repr__(self):
        return f"fake {self._host!r}"

    def __getitem__(self, index):
        if any(isinstance(part, ndarray) and part.dtype == bool for part in _parts(index)):
            log.note(log.waits, "boolean index")
        return wrap(self._host[unwrap(index, "index")])

    def __setitem__(self, index, value):
        self._host[unwrap(index, "index")] = unwrap(value, "setitem")

    def __array_ufunc__(self, ufunc, method, *inputs, out=(), **options):
        for value in (*inputs, *out):
            if not isinstance(value, (ndarray, np.ndarray, *SCALARS)):
                return NotImplemented
        function = getattr(module, ufunc.__name__)
        function = function if method == "__call__" else getattr(function, method)
        return function(*inputs, **options, **({"out": out[0]} if out else {}))

    def __array_function__(self, function, kinds, args, options):
        if not all(issubclass(kind, (ndarray, np.ndarray)) for kind in kinds):
            return NotImplemented
        return getattr(module, function.__name__)(*args, **options)


def _parts(index):
    return index if isinstance(index, tuple) else (index,)


def _method(name):
    def method(self, *args, **options):
        return wrap(getattr(self._host, name)(*unwrap(args, name), **unwrap(options, name)))

    return method


for _name in "astype reshape transpose swapaxes copy ravel squeeze view sum mean var max min argmax any all".split():
    setattr(ndarray, _name, _method(_name))
for _name in "neg pos abs invert".split():
    setattr(ndarray, f"__{_name}__", _method(f"__{_name}__"))


def _binary(name, ufunc):
    def forward(self, other):
        """CuPy's own operation on two of its arrays; else NumPy's, which asks both sides."""
        if not isinstance(other, ndarray) and getattr(other, "__array_ufunc__", self) is None:
            return NotImplemented
        return getattr(module, ufunc.__name__)(self, other) if isinstance(other, ndarray) else ufunc(self, other)

    def in_place(self, other):
        ufunc(self._host, unwrap(other, name), out=self._host)
        return self

    setattr(ndarray, f"__{name}__", forward)
    setattr(ndarray, f"__r{name}__", lambda self, other: ufunc(other, self))
    setattr(ndarray, f"__i{name}__", in_place)


for _name, _ufunc in {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "truediv": np.divide,
    "floordiv": np.floor_divide,
    "mod": np.remainder,
    "pow": np.power,
    "matmul": np.matmul,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
}.items():
    _binary(_name, _ufunc)


def _comparison(name, ufunc):
    setattr(ndarray, f"__{name}__", lambda self, other: ufunc(self, other))


for _name in "less less_equal equal not_equal greater greater_equal".split():
    _short = {"less": "lt", "less_equal": "le", "equal": "eq", "not_equal": "ne", "greater": "gt"}.get(_name, "ge")
    _comparison(_short, getattr(np, _name))


def wrap(value):
    """A result of NumPy's as CuPy gives it: arrays, also where NumPy has scalars, on the current device."""
    if isinstance(value, (np.ndarray, np.generic)):
        return ndarray(np.asarray(value), _current[-1])
    if isinstance(value, (tuple, list)):
        return type(value)(map(wrap, value))
    return value


def unwrap(value, name, host=False):
    """An argument for NumPy. As in CuPy an array must lie on the current device, and NumPy's only go where `host`."""
    if isinstance(value, ndarray):
        if value.device.id != _current[-1]:
            raise ValueError(f"{name}: array on device {value.device.id}, the current device is {_current[-1]}")
        return value._host
    if isinstance(value, np.ndarray):
        if not host:
            raise TypeError(f"{name}: Unsupported type {type(value)}")
        return value
    if isinstance(value, (tuple, list)):
        return type(value)(unwrap(part, name, host) for part in value)
    if isinstance(value, dict):
        return {key: unwrap(part, name, host) for key, part in value.items()}
    return value


class Function:
    """A function of NumPy's as one of CuPy's."""

    def __init__(self, name, numpys):
        self.__name__, self.numpys = name, numpys
        self.host = name in HOST_TO_DEVICE

    def __call__(self, *args, **options):
        if self.__name__ in DATA_ON_HOST or (self.__name__ == "where" and len(args) == 1):
            log.note(log.waits, self.__name__)
        if self.host and args and not isinstance(args[0], ndarray):
            log.note(log.uploads, self.__name__)
            if _holds_arrays(args[0]):
                raise TypeError(f"{self.__name__}: a list of device arrays; cupy.stack joins them")
        out = options.get("out")
        with np.errstate(all="ignore"):
            result = self.numpys(*unwrap(args, self.__name__, self.host), **unwrap(options, self.__name__))
        if out is not None:
            return out
        if self.__name__ in ("empty", "empty_like") and module.executes:
            result.view(np.uint8 if result.ndim else result.dtype)[...] = 0xFF if result.ndim else np.nan
        if self.host and args and isinstance(args[0], np.ndarray):
            result = np.array(result)  # a copy, never host memory that the caller still holds
        return args[0] if args and isinstance(args[0], ndarray) and result is args[0]._host else wrap(result)

    def __getattr__(self, method):
        return Function(method, getattr(self.numpys, method))


def _holds_arrays(value):
    return isinstance(value, (list, tuple)) and any(isinstance(part, ndarray) or _holds_arrays(part) for part in value)


class Module(types.ModuleType):
    """`cupy`, or one of its modules: NumPy's functions, where the installed CuPy has them too."""

    def __init__(self, name, numpys, real):
        super().__init__(name)
        self._numpys, self._real = numpys, real

    def __getattr__(self, name):
        if name.startswith("__") or not hasattr(self._real, name):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        theirs = getattr(self._numpys, name)
        if isinstance(theirs, types.ModuleType):
            theirs = Module(f"{self.__name__}.{name}", theirs, getattr(self._real, name))
        elif callable(theirs) and not isinstance(theirs, type):
            theirs = Function(name, theirs)
        setattr(self, name, theirs)
        return theirs


class Device:
    """`cupy.cuda.Device`."""

    def __init__(self, number=None):
        self.id = _current[-1] if number is None else number

    def use(self):
        _current[-1] = self.id

    def __enter__(self):
        _current.append(self.id)
        return self

    def __exit__(self, *error):
        _current.pop()

    def synchronize(self):
        log.note(log.waits, "synchronize")


class RawModule:
    """`cupy.RawModule`."""

    def __init__(self, code, options, name_expressions):
        self.source = fake_launch.source_of(code, options)
        self.expressions = name_expressions

    def get_function(self, expression):
        assert expression in self.expressions
        return Kernel(self.source, expression)


class Kernel:
    """A function of a `RawModule`."""

    max_dynamic_shared_size_bytes = 48 << 10

    def __init__(self, source, expression):
        self.source, self.expression = source, expression

    def __call__(self, grid, block, args, *, shared_mem=0):
        args = [value._host if isinstance(value, ndarray) else value for value in args]
        launch = fake_launch.Launch(self.source, self.expression, grid, block, args, shared_mem)
        launch.check(self.max_dynamic_shared_size_bytes)
        log.launches.append(launch)
        if module.executes:
            launch.run()


def from_dlpack(array):
    """The array of what lies on the fake GPU: to NumPy, whose memory it is, the same in the host's."""
    if array.__dlpack_device__() != (2, NUMBER):
        raise BufferError("CPU arrays cannot be directly imported to CuPy. Use `cupy.array(numpy.from_dlpack(input))`.")
    on_host = types.SimpleNamespace(__dlpack__=array.__dlpack__, __dlpack_device__=lambda: (1, 0))
    return wrap(np.from_dlpack(on_host))


def make(real):
    """The fake module; `real` is the installed CuPy."""
    fake = Module("cupy", np, real)
    fake.ndarray, fake.RawModule, fake.executes, fake.__version__ = ndarray, RawModule, True, real.__version__
    fake.asnumpy = lambda array: array.get()
    cuda = fake.cuda = types.ModuleType("cupy.cuda")
    cuda.Device, cuda.is_available = Device, lambda: True
    cuda.compiler = types.SimpleNamespace(CompileException=real.cuda.compiler.CompileException)
    cuda.runtime = types.SimpleNamespace(
        getDevice=lambda: _current[-1],
        getDeviceCount=lambda: NUMBER + 1,
        getDeviceProperties=lambda number: {"name": b"fake GPU", "major": 7, "minor": 0},
        runtimeGetVersion=lambda: 12000,
    )
    fake.get_default_memory_pool = lambda: types.SimpleNamespace(total_bytes=lambda: 0)
    fake.from_dlpack = from_dlpack
    cuda.get_current_stream = lambda: Device()  # a stream is waited for as a device is
    return fake


log = Log()
module = None  # made by the fixture
_current = [NUMBER]
