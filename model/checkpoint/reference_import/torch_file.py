"""A file of torch.save: a zip archive with a pickle and one record per storage, none of them compressed."""

import os
import re
import stat
import struct
import zipfile

import numpy as np

from .errors import ImportRefused, shown
from .pickle_machine import ITEM_SIZES, PICKLE_BYTES_MAX, Machine

FILE_BYTES_MAX = 4 << 30
ENTRIES_MAX = 200_000
LOCAL_HEADER_BYTES = 30  # besides name and extra field

_ENTRY = re.compile(r"data\.pkl|version|byteorder|data/[0-9]{1,20}|\.(?:data/)?[a-z_]{1,32}")
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    NotImplementedError,
    RuntimeError,
    EOFError,
    ValueError,
    struct.error,
    OverflowError,
    UnicodeError,
)


def _starts_as(head):
    if head.startswith(b"\x80"):
        return "a bare pickle (of torch before 1.6; a newer one can save it anew, but loading it runs whatever it holds)"
    if head.startswith(b"\x1f\x8b"):
        return "a gzip file"
    return "0x" + head.hex() if head else "nothing: it is empty"


class TorchFile:
    """`value`: what the pickle holds, with Tensor in place of tensors. `array(tensor)` reads one."""

    def __init__(self, path, what="FILE"):
        self._what = what  # for messages
        try:
            # A zip archive is read from its end: no pipe will do, and opening one waits for its writer.
            if not stat.S_ISREG(os.stat(path).st_mode):
                raise ImportRefused(f"{self._what}: cannot be read: not a regular file")
            self._file = open(path, "rb")
        except OSError as error:
            raise ImportRefused(f"{self._what}: cannot be read: {error.strerror}") from None
        try:
            self._entries = self._read_directory()
            if self._read_record("byteorder", 16, b"little") != b"little":
                raise ImportRefused(f"{self._what}: byteorder: only little-endian files can be read")
            pickle = self._read_record("data.pkl", PICKLE_BYTES_MAX)
            self.value = Machine(pickle, self._check_storage, f"{what}: data.pkl").run()
        except OSError as error:
            self.close()
            raise ImportRefused(f"{self._what}: cannot be read: {error.strerror}") from None
        except ImportRefused:
            self.close()
            raise

    def close(self):
        self._file.close()

    def array(self, tensor, name):
        """A contiguous copy. Offset, shape and stride were checked when the pickle was read."""
        if tensor.dtype == "bfloat16":
            raise ImportRefused(f"{name}: dtype bfloat16, which this importer cannot read")
        raw = self._read_record(f"data/{tensor.storage.key}", tensor.storage.numel * ITEM_SIZES[tensor.dtype])
        values = np.frombuffer(raw, np.dtype(tensor.dtype).newbyteorder("<"))
        if 0 in tensor.shape:
            return np.zeros(tensor.shape, values.dtype)
        strides = [step * values.itemsize for step in tensor.stride]
        view = np.lib.stride_tricks.as_strided(values[tensor.offset :], tensor.shape, strides, writeable=False)
        return np.array(view, order="C")

    def _read_directory(self):
        """Entries by name below the archive's one folder; sizes and places checked."""
        size = os.fstat(self._file.fileno()).st_size
        if size > FILE_BYTES_MAX:
            raise ImportRefused(f"{self._what}: {size} bytes, at most {FILE_BYTES_MAX}")
        head = self._file.read(4)
        if head != b"PK\x03\x04":
            raise ImportRefused(f"{self._what}: not a zip file of torch.save; it starts as {_starts_as(head)}")
        try:
            self._zip = zipfile.ZipFile(self._file)
        except _ZIP_ERRORS as error:
            raise ImportRefused(f"{self._what}: a damaged or truncated zip file: {shown(str(error))}") from None
        infos = self._zip.infolist()
        if len(infos) > ENTRIES_MAX:
            raise ImportRefused(f"{self._what}: {len(infos)} zip entries, at most {ENTRIES_MAX}")
        _check_places(infos, size, self._what)
        entries, folder = {}, None
        for info in infos:
            top, _, rest = info.filename.partition("/")
            folder = folder or top
            if top != folder or not _ENTRY.fullmatch(rest):
                raise ImportRefused(f"{self._what}: zip entry {shown(info.filename)!r}: torch.save does not write it")
            if rest in entries:
                raise ImportRefused(f"{self._what}: zip entry {shown(info.filename)!r} occurs twice")
            entries[rest] = info
        if "data.pkl" not in entries:
            raise ImportRefused(f"{self._what}: a zip file without data.pkl: torch.save did not write it")
        return entries

    def _read_record(self, name, bytes_max, default=None):
        info = self._entries.get(name)
        if info is None and default is not None:
            return default
        if info is None:
            raise ImportRefused(f"{self._what}: record {name} is missing")
        if info.file_size > bytes_max:
            raise ImportRefused(
                f"{self._what}: record {name} has {info.file_size} bytes, at most {bytes_max} are expected"
            )
        try:
            with self._zip.open(info) as record:
                data = record.read(info.file_size + 1)
        except _ZIP_ERRORS as error:
            raise ImportRefused(f"{self._what}: record {name} is damaged: {shown(str(error))}") from None
        if len(data) != info.file_size:
            raise ImportRefused(f"{self._what}: record {name} is truncated")
        return data

    def _check_storage(self, storage):
        expected = storage.numel * ITEM_SIZES[storage.dtype]
        info = self._entries.get(f"data/{storage.key}")
        found = "is missing" if info is None else f"has {info.file_size} bytes"
        if info is None or info.file_size != expected:
            raise ImportRefused(
                f"{self._what}: record data/{storage.key} {found}, {storage.numel} elements of {storage.dtype} "
                f"take {expected}"
            )


def _check_places(infos, file_size, what):
    """Stored as they are and one after the other, so that no file is larger inside than outside."""
    end = 0
    for info in sorted(infos, key=lambda i: i.header_offset):
        name = shown(info.filename)
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise ImportRefused(
                f"{what}: zip entry {name!r} is compressed ({info.compress_size} bytes for {info.file_size}); "
                "torch.save stores its records as they are"
            )
        if info.flag_bits & 1:
            raise ImportRefused(f"{what}: zip entry {name!r} is encrypted")
        if info.header_offset < end:
            raise ImportRefused(f"{what}: zip entry {name!r} overlaps another one")
        end = info.header_offset + LOCAL_HEADER_BYTES + info.compress_size
        if end > file_size:
            raise ImportRefused(f"{what}: zip entry {name!r} lies outside the file")
