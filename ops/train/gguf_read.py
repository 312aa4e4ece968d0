"""A GGUF file's keys and tensors as NumPy arrays: F32, F16 and Q8_0, which is what the bundled models are made of. It refuses every
other type by name. Needs NumPy."""
import mmap
import struct

import numpy

SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
STRING, ARRAY = 8, 9
F32, F16, Q8_0 = 0, 1, 8
Q8_BLOCK = numpy.dtype([("scale", "<f2"), ("values", "i1", (32,))])
ALIGNMENT = 32


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def scalar(self, form):
        value, = struct.unpack_from(form, self.data, self.at)
        self.at += struct.calcsize(form)
        return value

    def string(self):
        size = self.scalar("<Q")
        self.at += size
        return bytes(self.data[self.at - size:self.at])

    def value(self, kind):
        if kind == STRING:
            return self.string().decode("utf8", "surrogateescape")
        if kind != ARRAY:
            return self.scalar(SCALARS[kind])
        kind, count = self.scalar("<I"), self.scalar("<Q")
        return [self.value(kind) for _ in range(count)]


class Gguf:
    """keys: name -> value; tensor(name): float32, outermost dimension first."""

    def __init__(self, path):
        with open(path, "rb") as file:
            self.data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        reader = Reader(self.data)
        if self.data[:4] != b"GGUF":
            raise SystemExit(f"{path}: no GGUF file")
        reader.at = 8
        tensors, keys = reader.scalar("<Q"), reader.scalar("<Q")
        self.keys = {}
        for _ in range(keys):
            name = reader.string().decode()
            self.keys[name] = reader.value(reader.scalar("<I"))
        self.info = {}
        for _ in range(tensors):
            name = reader.string().decode()
            shape = [reader.scalar("<Q") for _ in range(reader.scalar("<I"))][::-1]
            self.info[name] = (shape, reader.scalar("<I"), reader.scalar("<Q"))
        alignment = self.keys.get("general.alignment", ALIGNMENT)
        self.start = -(-reader.at // alignment) * alignment

    def tensor(self, name):
        shape, kind, offset = self.info[name]
        count = int(numpy.prod(shape))
        if kind in (F32, F16):
            form = "<f4" if kind == F32 else "<f2"
            return numpy.frombuffer(self.data, form, count, self.start + offset).astype(numpy.float32).reshape(shape)
        if kind != Q8_0:
            raise SystemExit(f"tensor {name} has type {kind}: F32 (0), F16 (1) and Q8_0 (8) can be read")
        blocks = numpy.frombuffer(self.data, Q8_BLOCK, count // 32, self.start + offset)
        return (blocks["scale"].astype(numpy.float32)[:, None] * blocks["values"]).reshape(shape)
