"""A CuPy without a GPU: arrays in host memory that behave as `cupy.ndarray` does, kernels that run under the checker.

Only what cupynn uses, after CuPy 14's source (`_core/core.pyx`). Every launch is held against what a GPU takes
(`fake_launch.py`) and recorded, and so is everything that makes the host wait for the device or copies to it; streams
and captured graphs are modelled (`fake_streams.py`). Device memory is filled with 0xFF, NaN in every floating-point
type, when it is allocated. What the fake does not know raises AttributeError, and so does a name that the installed
CuPy does not have.
"""

import contextlib
import pathlib
import sys
import types

import fake_cublas
import fake_launch
import fake_streams
import numpy as np

NUMBER = 7  # the fake GPU: no table that the library keeps per device is a real GPU's
HOST_TO_DEVICE = ("array", "asarray", "ascontiguousarray", "asanyarray")
DATA_ON_HOST = ("nonzero", "flatnonzero", "argwhere", "unique")  # the result's shape depends on values
JOINS = ("concatenate", "stack", "hstack", "vstack")
IN_PLACE = ("copyto", "at")  # functions that write to their first argument
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
        self._host, self.device = host, Device(device)

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
        return self._read("get").copy()

    def item(self):
        return self._read("item").item()

    def tolist(self):
        return self._read("tolist").tolist()

    def _read(self, name):
        """The values on the host, which waits for them."""
        fake_streams.waits(name)
        fake_streams.perform(lambda: None, (self._host,), ())
        fake_streams.host_waits_for_current()
        return self._host

    def set(self, values, stream=None):
        """From pinned memory, asynchronously."""
        assert isinstance(values, np.ndarray) and values.flags.c_contiguous and self._host.flags.c_contiguous
        assert (values.shape, values.dtype) == (self.shape, self.dtype)
        with stream or contextlib.nullcontext():
            fake_streams.copy_from_host(self._host, values)

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
            fake_streams.waits("boolean index")
        index = unwrap(index, "index")
        if all(isinstance(part, (int, np.integer)) for part in _parts(index)):
            index = (*_parts(index), ...)  # a view, also where NumPy gives a scalar
        return made(lambda: self._host[index], (self._host, *arrays_in(index)))

    def __setitem__(self, index, value):
        index, value = unwrap(index, "index"), unwrap(value, "setitem")

        def put():
            self._host[index] = value

        fake_streams.perform(put, arrays_in((index, value)), (self._host,))

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
        args, options = unwrap(args, name), unwrap(options, name)
        return made(lambda: getattr(self._host, name)(*args, **options), (self._host, *arrays_in((args, options))))

    return method


for _name in "astype reshape transpose swapaxes copy ravel squeeze view sum mean var max min argmax any all".split():
    setattr(ndarray, _name, _method(_name))
for _name in "neg pos abs invert".split():
    setattr(ndarray, f"__{_name}__", _method(f"__{_name}__"))


def arrays_in(value):
    """NumPy's arrays in nested arguments."""
    if isinstance(value, np.ndarray):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (tuple, list)) else ()
    return [array for part in parts for array in arrays_in(part)]


def made(compute, inputs):
    """What an operation returns, wrapped: new arrays are device memory that it writes; views take no operation."""
    with np.errstate(all="ignore"):
        result = compute()
    if isinstance(result, np.generic):
        result = np.asarray(result)
    many = isinstance(result, (tuple, list))
    arrays = list(result) if many else [result]
    new = [isinstance(a, np.ndarray) and not any(np.may_share_memory(a, i) for i in inputs) for a in arrays]
    if any(new):
        fresh = [array for array, one in zip(arrays, new, strict=True) if one]
        for array in fresh:
            fake_streams.allocated(array)

        def run():
            """Anew where it was recorded, for then the inputs are others by now."""
            again = compute()
            for array, value, one in zip(arrays, again if many else [again], new, strict=True):
                if one:
                    array[...] = value

        captured = fake_streams.capturing()
        fake_streams.perform(run if captured else lambda: None, inputs, fresh)
        for array in fresh if captured else ():
            fake_streams.poison(array)
    return wrap(result)


def _binary(name, ufunc):
    def forward(self, other):
        """CuPy's own operation on two of its arrays; else NumPy's, which asks both sides."""
        if not isinstance(other, ndarray) and getattr(other, "__array_ufunc__", self) is None:
            return NotImplemented
        return getattr(module, ufunc.__name__)(self, other) if isinstance(other, ndarray) else ufunc(self, other)

    def in_place(self, other):
        other = unwrap(other, name)
        fake_streams.perform(
            lambda: ufunc(self._host, other, out=self._host), (self._host, *arrays_in((other,))), (self._host,)
        )
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
        fake_cublas.refuse(self.__name__)
        if self.__name__ in JOINS and len(args[0]) > 8 and fake_streams.capturing():
            fake_streams.upload(8 * len(args[0]))  # their addresses
        if self.__name__ in DATA_ON_HOST or (self.__name__ == "where" and len(args) == 1):
            fake_streams.waits(self.__name__)
        from_host = self.host and args and not isinstance(args[0], ndarray)
        if from_host:
            log.note(log.uploads, self.__name__)
            if _holds_arrays(args[0]):
                raise TypeError(f"{self.__name__}: a list of device arrays; cupy.stack joins them")
            if np.ndim(args[0]):  # a single number goes as an argument of a kernel that fills
                fake_streams.upload(np.asarray(args[0]).nbytes)
        given, out = args, options.get("out")
        args, options = unwrap(args, self.__name__, self.host), unwrap(options, self.__name__)
        inputs = arrays_in((args, options))
        changed = out._host if out is not None else args[0] if self.__name__ in IN_PLACE else None
        if changed is not None:
            fake_streams.perform(lambda: self.numpys(*args, **options), inputs, (changed,))
            return out
        if self.__name__ in ("empty", "empty_like"):
            result = self.numpys(*args, **options)
            if module.executes:
                result.view(np.uint8 if result.ndim else result.dtype)[...] = 0xFF if result.ndim else np.nan
            fake_streams.allocated(result)
            return wrap(result)
        if from_host:
            host = np.array(self.numpys(*args, **options))  # a copy, never host memory that the caller still holds
            return made(host.copy, ())
        if self.__name__ in ("asarray", "ascontiguousarray") and self.numpys(*args, **options) is inputs[0]:
            return given[0]
        return made(lambda: self.numpys(*args, **options), inputs)

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

    compute_capability = "70"  # the oldest that the library runs on; tests put others

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
        fake_streams.waits("synchronize")


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
        kinds, _ = fake_launch.signature(self.source, self.expression)
        pairs = [(value, kind) for value, kind in zip(args, kinds, strict=True) if isinstance(value, np.ndarray)]
        written = [value for value, kind in pairs if not kind.startswith("const ")]
        fake_streams.perform(launch.run if module.executes else lambda: None, [value for value, _ in pairs], written)


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
    cuda.get_cublas_handle = lambda: 1
    cuda.compiler = types.SimpleNamespace(CompileException=real.cuda.compiler.CompileException)
    cuda.runtime = types.SimpleNamespace(
        CUDARuntimeError=real.cuda.runtime.CUDARuntimeError,
        getDevice=lambda: _current[-1],
        getDeviceCount=lambda: NUMBER + 1,
        getDeviceProperties=lambda number: {"name": b"fake GPU", "major": 7, "minor": 0},
        runtimeGetVersion=lambda: 12000,
    )
    fake.get_default_memory_pool = lambda: types.SimpleNamespace(total_bytes=lambda: 0, free_all_blocks=lambda: None)
    fake.get_default_pinned_memory_pool = lambda: types.SimpleNamespace(malloc=bytearray)
    fake.from_dlpack = from_dlpack
    fake_streams.install(cuda, real, lambda name: log.note(log.waits, name))
    return fake


log = Log()
module = None  # made by the fixture
_current = [NUMBER]
