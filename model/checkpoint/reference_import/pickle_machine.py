"""Reads the pickle of a torch file without running anything.

A pickle is a program for a stack machine, and Python's own machine calls whatever the program names. This one knows the
few opcodes that torch.save writes and a closed list of names, none of which it looks up: each stands for a piece of
code below. Everything else ends the reading with a message that says what was found.
"""

import pickletools
import re
import struct
from dataclasses import dataclass

from .errors import ImportRefused, shown

PICKLE_BYTES_MAX = 16 << 20
OPCODES_MAX = 4 << 20
NESTING_MAX = 32  # open marks; torch's files have at most 8
DIMENSIONS_MAX = 8
INTEGER_MAX = 2**48  # of anything that counts elements

ITEM_SIZES = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}
STORAGE_DTYPES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
# The best validation loss of the reference is a numpy number. Nobody needs it, so these make a value without content.
OPAQUE_NAMES = {
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}
ALLOWED_NAMES = (
    OPAQUE_NAMES
    | {("torch", name) for name in STORAGE_DTYPES}
    | {
        ("collections", "OrderedDict"),
        ("torch", "Size"),
        ("torch._utils", "_rebuild_tensor_v2"),
        ("torch._utils", "_rebuild_parameter"),
    }
)


@dataclass(frozen=True)
class Name:
    """A name of the closed list. Never resolved."""

    module: str
    name: str


class Opaque:
    """A value that the importer does not look into."""


@dataclass(frozen=True)
class Storage:
    key: str  # the record data/KEY
    dtype: str
    numel: int


@dataclass(frozen=True)
class Tensor:
    """A view of a storage; all of it lies inside."""

    storage: Storage
    offset: int
    shape: tuple
    stride: tuple

    @property
    def dtype(self):
        return self.storage.dtype


_MARK = object()
_MARKER_TYPES = (Name, Storage)  # parts of tensors, never values of their own


class Machine:
    """`check_storage(storage)` is called for each storage and refuses what the file does not hold.

    `name` is that of the pickle in messages.
    """

    def __init__(self, data, check_storage, name):
        if len(data) > PICKLE_BYTES_MAX:
            raise ImportRefused(f"{name}: {len(data)} bytes, at most {PICKLE_BYTES_MAX}")
        self._data = data
        self._name = name
        self._check_storage = check_storage
        self._position = 0
        self._start = 0  # of the opcode at hand
        self._stack = []
        self._marks = []
        self._memo = {}
        self._storages = {}

    def run(self):
        """The value of the pickle: dicts, lists, tuples, plain values, Tensor, Opaque."""
        for _ in range(OPCODES_MAX):
            self._start = self._position
            code = self._take(1)
            if code == b".":
                return self._finish()
            handler = _HANDLERS.get(code)
            if handler is None:
                self._refuse_opcode(code)
            handler(self)
        raise ImportRefused(f"{self._name}: more than {OPCODES_MAX} opcodes")

    def _finish(self):
        value = self._pop()
        if self._stack or self._marks:
            self._fail("values are left over at its end")
        if self._position != len(self._data):
            self._fail(f"{len(self._data) - self._position} bytes follow its end")
        return value

    # What handlers are made of.

    def _fail(self, what):
        raise ImportRefused(f"{self._name}: at byte {self._start}: {what}")

    def _refuse_opcode(self, code):
        known = pickletools.code2op.get(code.decode("latin-1"))
        what = f"opcode {known.name}" if known else f"byte 0x{code.hex()}, which is no opcode"
        if code == b"i":  # INST
            what += f" for {shown(self._line())}.{shown(self._line())}"
        self._fail(f"{what}: torch.save does not write it; nothing was run")

    def _take(self, count):
        end = self._position + count
        if end > len(self._data):
            self._start = self._position
            self._fail(f"the pickle ends here, {count} more bytes were expected")
        part = self._data[self._position : end]
        self._position = end
        return part

    def _unpack(self, layout):
        return struct.unpack(layout, self._take(struct.calcsize(layout)))[0]

    def _line(self):
        end = self._data.find(b"\n", self._position, self._position + 512)
        if end < 0:
            self._fail("a name without end")
        text = self._take(end - self._position).decode("latin-1")
        self._take(1)
        return text

    def _push(self, value):
        self._stack.append(value)

    def _pop(self):
        if not self._stack or (self._marks and len(self._stack) <= self._marks[-1]):
            self._fail("takes a value from an empty stack")
        return self._stack.pop()

    def _top(self, kind, what):
        value = self._pop()
        self._push(value)
        if not isinstance(value, kind):
            self._fail(f"{what} of a {type(value).__name__}")
        return value

    def _pop_to_mark(self):
        if not self._marks:
            self._fail("no mark is open")
        begin = self._marks.pop()
        values = self._stack[begin:]
        del self._stack[begin:]
        return values

    # Opcodes.

    def protocol(self):
        version = self._unpack("<B")
        if not 2 <= version <= 5:
            self._fail(f"pickle protocol {version}; torch.save writes 2")

    def frame(self):
        self._unpack("<Q")  # a hint for reading ahead

    def mark(self):
        if len(self._marks) >= NESTING_MAX:
            self._fail(f"nested deeper than {NESTING_MAX}")
        self._marks.append(len(self._stack))

    def constant(self, value):
        self._push(value)

    def number(self, layout):
        self._push(self._unpack(layout))

    def long1(self):
        self._push(int.from_bytes(self._take(self._unpack("<B")), "little", signed=True))

    def text(self, layout):
        data = self._take(self._unpack(layout))
        try:
            self._push(data.decode("utf-8"))
        except UnicodeDecodeError:
            self._fail("a text that is not UTF-8")

    def tuple_of(self, count):
        self._push(tuple(reversed([self._pop() for _ in range(count)])))

    def tuple_to_mark(self):
        self._push(tuple(self._pop_to_mark()))

    def put(self, layout):
        index = self._unpack(layout)
        if not self._stack:
            self._fail("remembers a value of an empty stack")
        self._memo[index] = self._stack[-1]

    def memoize(self):
        if not self._stack:
            self._fail("remembers a value of an empty stack")
        self._memo[len(self._memo)] = self._stack[-1]

    def get(self, layout):
        index = self._unpack(layout)
        if index not in self._memo:
            self._fail(f"recalls value {index}, which was never stored")
        self._push(self._memo[index])

    def append(self):
        value = self._pop()
        self._top(list, "appends to something").append(value)

    def appends(self):
        values = self._pop_to_mark()
        self._top(list, "appends to something").extend(values)

    def set_item(self):
        value, key = self._pop(), self._pop()
        self._set(self._top(dict, "sets an item"), key, value)

    def set_items(self):
        values = self._pop_to_mark()
        if len(values) % 2:
            self._fail("a key without a value")
        target = self._top(dict, "sets an item")
        for key, value in zip(values[::2], values[1::2]):
            self._set(target, key, value)

    def _set(self, target, key, value):
        if not isinstance(key, (str, int)):
            self._fail(f"a dict key that is a {type(key).__name__}")
        if key in target:
            self._fail(f"the key {shown(key)!r} occurs twice")
        if isinstance(value, _MARKER_TYPES):
            self._fail(f"the value of {shown(key)!r} is no value")
        target[key] = value

    def build(self):
        self._pop()  # attributes, as the _metadata of a state dict
        target = self._pop()
        if not isinstance(target, (dict, Opaque)):
            self._fail(f"sets attributes of a {type(target).__name__}; nothing was run")
        self._push(target)

    def global_name(self):
        self._push_name(self._line(), self._line())

    def stack_global(self):
        name, module = self._pop(), self._pop()
        self._push_name(module, name)

    def _push_name(self, module, name):
        if not (isinstance(module, str) and isinstance(name, str)) or (module, name) not in ALLOWED_NAMES:
            self._fail(
                f"names {shown(module)}.{shown(name)}, which no checkpoint of the reference needs; nothing was run"
            )
        self._push(Name(module, name))

    def persistent_id(self):
        parts = self._pop()
        if not (isinstance(parts, tuple) and len(parts) == 5 and parts[0] == "storage" and isinstance(parts[1], Name)):
            self._fail("a persistent id that is no storage")
        _, kind, key, location, numel = parts
        dtype = STORAGE_DTYPES.get(kind.name) if kind.module == "torch" else None
        if dtype is None:
            self._fail(f"a storage of type {kind.module}.{kind.name}")
        if not (isinstance(key, str) and re.fullmatch("[0-9]{1,20}", key) and isinstance(location, str)):
            self._fail("a storage whose key is no number")
        if not _is_count(numel):
            self._fail(f"storage {key} of {shown(numel)} elements")
        storage = Storage(key, dtype, numel)
        if self._storages.setdefault(key, storage) != storage:
            self._fail(f"storage {key} is described in two ways")
        self._check_storage(storage)
        self._push(storage)

    def reduce(self):
        arguments, function = self._pop(), self._pop()
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            self._fail(f"calls a {type(function).__name__}; nothing was run")
        if (function.module, function.name) in OPAQUE_NAMES:
            self._push(Opaque())
        elif function.name == "OrderedDict" and arguments == ():
            self._push({})
        elif function.name == "Size" and len(arguments) == 1 and isinstance(arguments[0], (tuple, list)):
            self._push(tuple(arguments[0]))
        elif function.name == "_rebuild_tensor_v2":
            self._push(self._tensor(arguments))
        elif function.name == "_rebuild_parameter" and len(arguments) == 3 and isinstance(arguments[0], Tensor):
            self._push(arguments[0])
        else:
            self._fail(f"calls {function.module}.{function.name} with unusual arguments; nothing was run")

    def _tensor(self, arguments):
        if len(arguments) not in (6, 7) or not isinstance(arguments[0], Storage) or arguments[6:] not in ((), (None,)):
            self._fail("a tensor with unusual arguments")
        storage, offset, shape, stride, requires_grad, hooks = arguments[:6]
        if not isinstance(requires_grad, bool) or hooks != {}:
            self._fail("a tensor with hooks")
        if not (isinstance(shape, tuple) and isinstance(stride, tuple) and len(shape) == len(stride) <= DIMENSIONS_MAX):
            self._fail("a tensor whose shape and stride do not fit each other")
        for what, values in (("offset", (offset,)), ("shape", shape), ("stride", stride)):
            if not all(_is_count(v) for v in values):
                self._fail(f"a tensor with {what} ({', '.join(map(shown, values))})")
        numel, last = 1, offset
        for size, step in zip(shape, stride):
            numel *= size
            last += (size - 1) * step
        if numel > storage.numel or offset > storage.numel or (numel > 0 and last >= storage.numel):
            place = f"shape {shape}, stride {stride} and offset {offset}"
            self._fail(f"a tensor of {place} in a storage of {storage.numel} elements")
        return Tensor(storage, offset, shape, stride)


def _is_count(value):
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= INTEGER_MAX


def _with(method, *arguments):
    return lambda machine: method(machine, *arguments)


_HANDLERS = {
    b"\x80": Machine.protocol,
    b"\x95": Machine.frame,
    b"(": Machine.mark,
    b"N": _with(Machine.constant, None),
    b"\x88": _with(Machine.constant, True),
    b"\x89": _with(Machine.constant, False),
    b")": _with(Machine.constant, ()),
    b"}": lambda m: m.constant({}),
    b"]": lambda m: m.constant([]),
    b"K": _with(Machine.number, "<B"),
    b"M": _with(Machine.number, "<H"),
    b"J": _with(Machine.number, "<i"),
    b"G": _with(Machine.number, ">d"),
    b"\x8a": Machine.long1,
    b"X": _with(Machine.text, "<I"),
    b"\x8c": _with(Machine.text, "<B"),
    b"\x85": _with(Machine.tuple_of, 1),
    b"\x86": _with(Machine.tuple_of, 2),
    b"\x87": _with(Machine.tuple_of, 3),
    b"t": Machine.tuple_to_mark,
    b"q": _with(Machine.put, "<B"),
    b"r": _with(Machine.put, "<I"),
    b"\x94": Machine.memoize,
    b"h": _with(Machine.get, "<B"),
    b"j": _with(Machine.get, "<I"),
    b"a": Machine.append,
    b"e": Machine.appends,
    b"s": Machine.set_item,
    b"u": Machine.set_items,
    b"b": Machine.build,
    b"c": Machine.global_name,
    b"\x93": Machine.stack_global,
    b"Q": Machine.persistent_id,
    b"R": Machine.reduce,
}
