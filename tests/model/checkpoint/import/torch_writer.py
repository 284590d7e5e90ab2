"""Files as torch.save writes them, without torch: the pickler sees stand-ins under torch's names."""

import collections
import io
import pickle
import sys
import types
import zipfile

import numpy as np

_STORAGES = {"float32": "FloatStorage", "float64": "DoubleStorage", "float16": "HalfStorage", "int64": "LongStorage"}


def _stand_in(module, name, value):
    value.__module__, value.__qualname__, value.__name__ = module, name, name
    setattr(sys.modules.setdefault(module, types.ModuleType(module)), name, value)
    return value


def _rebuild(*_):
    raise AssertionError("called while writing or by the importer")


REBUILD = _stand_in("torch._utils", "_rebuild_tensor_v2", _rebuild)
_KINDS = {dtype: _stand_in("torch", name, type(name, (), {})) for dtype, name in _STORAGES.items()}


class _Storage:
    def __init__(self, array):
        self.array = array


class T:
    """A tensor to be written. `arguments` replaces any of offset, size, stride."""

    def __init__(self, array, **arguments):
        self.storage = _Storage(np.ascontiguousarray(array))
        self.size = array.shape
        self.stride = tuple(s // array.itemsize for s in self.storage.array.strides)
        self.offset = 0
        self.__dict__.update(arguments)

    def __reduce__(self):
        return REBUILD, (self.storage, self.offset, self.size, self.stride, False, collections.OrderedDict())


class _Pickler(pickle.Pickler):
    def __init__(self, file, first_key):
        super().__init__(file, protocol=2)
        self.storages = []
        self.first_key = first_key

    def persistent_id(self, value):
        if not isinstance(value, _Storage):
            return None
        if value not in self.storages:
            self.storages.append(value)
        return (
            "storage",
            _KINDS[value.array.dtype.name],
            str(self.first_key + self.storages.index(value)),
            "cpu",
            value.array.size,
        )


def records_of(value, first_key=0):
    """{name: bytes} of the archive that holds `value`."""
    file = io.BytesIO()
    pickler = _Pickler(file, first_key)
    pickler.dump(value)
    records = {"data.pkl": file.getvalue(), "byteorder": b"little", "version": b"3\n"}
    records.update({f"data/{first_key + i}": s.array.tobytes() for i, s in enumerate(pickler.storages)})
    return records


def archive(records, compression=zipfile.ZIP_STORED, folder="archive"):
    """The bytes of a zip file of {name: bytes} or of (name, bytes) pairs."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as zipped:
        for name, data in records.items() if isinstance(records, dict) else records:
            zipped.writestr(f"{folder}/{name}", data)
    return file.getvalue()


def torch_bytes(value):
    return archive(records_of(value))
