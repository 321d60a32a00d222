"""Makes the files of tests/data/io with NumPy and Python MLX; checks files that Lazuli wrote.

    make_io.py make            writes tests/data/io, which is committed
    make_io.py check FOLDER    reads what io_test left in FOLDER (LAZULI_KEEP_IO=FOLDER)

Element i of every array is i - 2 for signed types and i for unsigned ones; i % 2 for bool.
"""

import gzip
import pathlib
import struct
import sys
import zipfile

import mlx.core as mx
import numpy as np

FOLDER = pathlib.Path(__file__).parent / "io"
NUMPY = {"bool": "?", "uint8": "u1", "uint16": "u2", "uint32": "u4", "uint64": "u8", "int8": "i1",
         "int16": "i2", "int32": "i4", "int64": "i8", "float16": "f2", "float32": "f4", "float64": "f8",
         "complex64": "c8"}


def values(name, shape, order="<"):
    count = np.arange(int(np.prod(shape)))
    if name == "bool":
        count = count % 2
    elif not name.startswith("uint"):
        count = count - 2
    return count.astype(np.dtype(NUMPY[name]).newbyteorder(order)).reshape(shape)


def make():
    FOLDER.mkdir(exist_ok=True)
    for name in NUMPY:
        np.save(FOLDER / f"{name}.npy", values(name, (2, 3)))
    for name in ["int16", "float64", "complex64"]:
        np.save(FOLDER / f"big_{name}.npy", values(name, (2, 3), ">"))
    np.save(FOLDER / "fortran.npy", np.asfortranarray(values("int32", (2, 3, 4))))
    np.save(FOLDER / "big_fortran.npy", np.asfortranarray(values("int32", (2, 3), ">")))
    np.save(FOLDER / "scalar.npy", np.float32(7))
    np.save(FOLDER / "empty.npy", np.zeros((0, 3), np.float32))
    np.save(FOLDER / "vector.npy", values("float32", (5,)))
    for version in [(2, 0), (3, 0)]:
        with open(FOLDER / f"version{version[0]}.npy", "wb") as f:
            np.lib.format.write_array(f, values("int32", (2, 3)), version=version)
    np.save(FOLDER / "refused_complex128.npy", np.zeros(2, np.complex128))
    np.save(FOLDER / "refused_object.npy", np.array([None]), allow_pickle=True)
    np.save(FOLDER / "refused_text.npy", np.array(["ab"]))
    np.save(FOLDER / "refused_struct.npy", np.zeros(2, [("a", "i4"), ("b", "f4")]))
    mx.save(str(FOLDER / "bfloat16.npy"), mx.array(np.arange(6).reshape(2, 3) - 2).astype(mx.bfloat16))

    tensors = {name: mx.array(values(name, (2, 3))) for name in NUMPY if name != "float64"}
    tensors["bfloat16"] = mx.array(values("float32", (2, 3))).astype(mx.bfloat16)
    tensors["scalar"] = mx.array(7.0)
    tensors["empty"] = mx.zeros((0, 3))
    mx.save_safetensors(str(FOLDER / "mlx.safetensors"), tensors, {"format": "mlx", "note": "caf\u00e9"})

    named = {"a": values("float32", (2, 3)), "b.weight": values("int16", (4,))}
    np.savez(FOLDER / "stored.npz", **named)
    np.savez_compressed(FOLDER / "deflated.npz", **named)
    zipfile.ZIP64_LIMIT, zipfile.ZIP_FILECOUNT_LIMIT = 8, 0
    np.savez(FOLDER / "zip64.npz", **named)

    def idx(code, array):
        head = struct.pack(">BBBB", 0, 0, code, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
        return head + array.tobytes()

    (FOLDER / "uint8.idx").write_bytes(idx(0x08, values("uint8", (3, 2, 2))))
    (FOLDER / "float32.idx").write_bytes(idx(0x0D, values("float32", (2, 3), ">")))
    (FOLDER / "uint8.idx.gz").write_bytes(gzip.compress(idx(0x08, values("uint8", (3, 2, 2))), mtime=0))
    for file in FOLDER.glob("*"):
        file.chmod(0o644)


def check(folder):
    folder = pathlib.Path(folder)
    for name in NUMPY:
        got = np.load(folder / f"{name}.npy")
        assert got.dtype == values(name, (2, 3)).dtype and np.array_equal(got, values(name, (2, 3))), name
    assert np.load(folder / "scalar.npy").shape == ()
    assert np.load(folder / "empty.npy").shape == (0, 3)
    assert mx.load(str(folder / "bfloat16.npy")).dtype == mx.bfloat16
    tensors, metadata = mx.load(str(folder / "all.safetensors"), return_metadata=True)
    assert metadata == {"format": "lazuli", "note": "caf\u00e9"}, metadata
    for name in NUMPY:
        if name != "float64":
            assert np.array_equal(np.array(tensors[name]), values(name, (2, 3))), name
    assert tensors["bfloat16"].dtype == mx.bfloat16
    assert np.array_equal(np.array(tensors["bfloat16"].astype(mx.float32)), values("float32", (2, 3)))
    for file in ["stored.npz", "deflated.npz", "zip64.npz"]:
        with np.load(folder / file) as archive:
            assert sorted(archive) == ["a", "b.weight"]
            assert np.array_equal(archive["a"], values("float32", (2, 3)))
            assert np.array_equal(archive["b.weight"], values("int16", (4,)))
        assert zipfile.ZipFile(folder / file).testzip() is None
    print("all files read back")


if __name__ == "__main__":
    make() if sys.argv[1] == "make" else check(sys.argv[2])
