"""Reads a pickle of dicts, lists, plain values and numpy arrays without running anything.

The closed-list machine of the checkpoint importer, with the opcodes for bytes, which torch.save does not need, and
with the few names by which numpy pickles an array in place of torch's. None of the names is looked up.
"""

import math

import numpy as np
from reference_import import pickle_machine
from reference_import.errors import ImportRefused, shown
from reference_import.pickle_machine import Machine, Name

FILE_BYTES_MAX = 4 << 30
DIMENSIONS_MAX = 4
DTYPES = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8", "b1")

_CORE = ("numpy.core", "numpy._core")  # before and since numpy 2
RECONSTRUCT = {(f"{core}.multiarray", "_reconstruct") for core in _CORE}
FROM_BUFFER = {(f"{core}.numeric", "_frombuffer") for core in _CORE}  # protocol 5
SCALAR = {(f"{core}.multiarray", "scalar") for core in _CORE}
NDARRAY, DTYPE, ENCODE = ("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")
ALLOWED_NAMES = RECONSTRUCT | FROM_BUFFER | SCALAR | {NDARRAY, DTYPE, ENCODE}


class _Dtype:
    """A dtype under construction: pickled as numpy.dtype('u1', ..), then its byte order as attributes."""

    def __init__(self, code):
        self.code, self.order = code, None

    def resolved(self):
        # Items of one byte have the order '|'.
        return np.dtype(("<" if self.order in ("<", "|", "=") else ">") + self.code)


class _Array:
    """An array, or what becomes one: numpy makes one without elements first and then sets its state."""

    def __init__(self, array=None):
        self.array = array


def _text(value):
    """A text; Python 2 pickles it as bytes."""
    return value.decode("latin-1") if isinstance(value, bytes) else value


class ArrayMachine(Machine):
    def __init__(self, data):
        super().__init__(b"", None, "BATCH")  # the limit of its own is one for checkpoints
        self._data = data

    def run(self):
        for _ in range(pickle_machine.OPCODES_MAX):
            self._start = self._position
            code = self._take(1)
            if code == b".":
                return self._finish()
            handler = _HANDLERS.get(code)
            if handler is None:
                self._refuse_opcode(code)
            handler(self)
        self._fail(f"more than {pickle_machine.OPCODES_MAX} opcodes")

    def _fail(self, what):
        what = what.replace("torch.save does not write it", "no batch of images needs it")
        what = what.replace("torch.save writes 2", "expected 2 to 5")
        raise ImportRefused(f"BATCH: byte {self._start}: {what}")

    def _set(self, target, key, value):
        super()._set(target, _text(key), value)

    def _finish(self):
        value = super()._finish()
        if isinstance(value, dict):
            return {key: _finished(each) for key, each in value.items()}
        return _finished(value)

    def bytes_of(self, layout):
        self._push(self._take(self._unpack(layout)))

    def _push_name(self, module, name):
        if not (isinstance(module, str) and isinstance(name, str)) or (module, name) not in ALLOWED_NAMES:
            self._fail(f"names {shown(module)}.{shown(name)}, which no batch of images needs; nothing was run")
        self._push(Name(module, name))

    def reduce(self):
        arguments, function = self._pop(), self._pop()
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            self._fail(f"calls a {type(function).__name__}; nothing was run")
        name = (function.module, function.name)
        if name in RECONSTRUCT and len(arguments) == 3 and arguments[0] == Name(*NDARRAY):
            self._push(_Array())
        elif name == DTYPE and len(arguments) == 3 and _text(arguments[0]) in DTYPES:
            self._push(_Dtype(_text(arguments[0])))
        elif name == ENCODE and len(arguments) == 2 and isinstance(arguments[0], str) and arguments[1] == "latin1":
            self._push(self._encoded(arguments[0]))
        elif name in FROM_BUFFER and len(arguments) == 4 and arguments[3] == "C":
            data, dtype, shape, _ = arguments
            self._push(_Array(self._array(shape, dtype, data)))
        elif name in SCALAR and len(arguments) == 2:
            self._push(self._array((), arguments[0], arguments[1])[()].item())
        else:
            self._fail(f"calls {function.module}.{function.name} with unusual arguments; nothing was run")

    def _encoded(self, text):
        try:
            return text.encode("latin-1")
        except UnicodeEncodeError:
            self._fail("bytes written as a text that is not Latin-1")

    def build(self):
        state, target = self._pop(), self._pop()
        if isinstance(target, _Dtype) and target.order is None and isinstance(state, tuple) and len(state) >= 8:
            if _text(state[1]) not in ("<", ">", "|", "=") or state[2:5] != (None, None, None):
                self._fail("a dtype with fields or of an unusual byte order")
            target.order = _text(state[1])
        elif isinstance(target, _Array) and target.array is None and isinstance(state, tuple) and len(state) == 5:
            _, shape, dtype, fortran, data = state
            if fortran not in (False, 0):
                self._fail("an array in Fortran order, expected C order")
            target.array = self._array(shape, dtype, data)
        else:
            self._fail(f"sets attributes of a {type(target).__name__}; nothing was run")
        self._push(target)

    def _array(self, shape, dtype, data):
        counts = isinstance(shape, tuple) and len(shape) <= DIMENSIONS_MAX and all(
            isinstance(n, int) and not isinstance(n, bool) and 0 <= n <= pickle_machine.INTEGER_MAX for n in shape
        )
        if not (counts and isinstance(dtype, _Dtype) and dtype.order and isinstance(data, bytes)):
            self._fail("an array with an unusual shape, dtype or content")
        resolved = dtype.resolved()
        expected = math.prod(shape) * resolved.itemsize
        if len(data) != expected or expected == 0:
            self._fail(f"an array of shape {shape} and {resolved} of {len(data)} bytes, expected {expected}")
        return np.frombuffer(data, resolved).reshape(shape)


def _finished(value):
    return value.array if isinstance(value, _Array) and value.array is not None else value


def read(path):
    """The value of the pickle in a file."""
    try:
        with open(path, "rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ImportRefused(f"BATCH: cannot be read: {error.strerror}") from None
    if len(data) > FILE_BYTES_MAX:
        raise ImportRefused(f"BATCH: more than {FILE_BYTES_MAX} bytes")
    if not data.startswith(b"\x80"):
        raise ImportRefused(f"BATCH: byte 0: begins with 0x{data[:8].hex()}, expected a pickle of protocol 2 to 5")
    return ArrayMachine(data).run()


_with = pickle_machine._with
_HANDLERS = {
    code: handler
    for code, handler in pickle_machine._HANDLERS.items()
    if handler not in (Machine.build, Machine.reduce, Machine.persistent_id)
} | {
    b"C": _with(ArrayMachine.bytes_of, "<B"),  # SHORT_BINBYTES, BINBYTES, BINBYTES8
    b"B": _with(ArrayMachine.bytes_of, "<I"),
    b"\x8e": _with(ArrayMachine.bytes_of, "<Q"),
    b"\x96": _with(ArrayMachine.bytes_of, "<Q"),  # BYTEARRAY8
    b"U": _with(ArrayMachine.bytes_of, "<B"),  # SHORT_BINSTRING, BINSTRING: of Python 2
    b"T": _with(ArrayMachine.bytes_of, "<I"),
    b"b": ArrayMachine.build,
    b"R": ArrayMachine.reduce,
}
