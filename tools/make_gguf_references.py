#!/usr/bin/env python3
"""Makes tests/data/gguf/: files and values that tests compare the GGUF reader and writer with.

    python3 -m venv /opt/peers/lm && /opt/peers/lm/bin/pip install gguf numpy
    /opt/peers/lm/bin/python tools/make_gguf_references.py            writes the references
    /opt/peers/lm/bin/python tools/make_gguf_references.py FILE.gguf  prints a file as the tests expect it
"""

import sys
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T
from gguf import quants

OUT = Path(__file__).resolve().parent.parent / "tests" / "data" / "gguf"

DECODED = [T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0, T.Q2_K, T.Q3_K, T.Q4_K, T.Q5_K, T.Q6_K, T.IQ4_NL,
           T.IQ4_XS, T.MXFP4]
ENCODED = [T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0]
HALVES = {  # byte positions of the float16 members, which must be finite
    T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0], T.Q2_K: [80, 82],
    T.Q3_K: [108], T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208], T.IQ4_NL: [0], T.IQ4_XS: [0],
    T.MXFP4: [],
}


def blocks(t: T, n: int) -> np.ndarray:
    """n blocks of random bytes with finite scales: every code of the format is legal."""
    rng = np.random.default_rng(int(t))
    out = rng.integers(0, 256, (n, gguf.GGML_QUANT_SIZES[t][1]), dtype=np.uint8)
    for at in HALVES[t]:
        out[:, at:at + 2] = rng.normal(0, 1, (n, 1)).astype(np.float16).view(np.uint8)
    return out


def decoded() -> None:
    """Per type: random blocks, and the float32 values that gguf.quants gives, as one GGUF file."""
    w = gguf.GGUFWriter(OUT / "decoded.gguf", "test")
    for t in DECODED:
        packed = blocks(t, 2 if gguf.GGML_QUANT_SIZES[t][0] == 256 else 5)
        w.add_tensor(t.name, packed.reshape(1, -1), raw_dtype=t)
        w.add_tensor(t.name + ".values", quants.dequantize(packed, t).reshape(1, -1))
    write(w)


def encoded() -> None:
    """Weights, and what gguf.quants rounds them to."""
    rng = np.random.default_rng(7)
    x = rng.normal(0, 0.3, (4, 64)).astype(np.float32)
    x[1, :32] = 0  # a block of zeros
    x[2, :32] = 1.5  # of one value
    x[3, 5] = 40  # an outlier
    w = gguf.GGUFWriter(OUT / "encoded.gguf", "test")
    w.add_tensor("weights", x)
    for t in ENCODED:
        w.add_tensor(t.name, quants.quantize(x, t), raw_dtype=t)
    write(w)


def everything() -> None:
    """Every metadata type and every plain tensor type, alignment 64."""
    w = gguf.GGUFWriter(OUT / "everything.gguf", "test")
    w.add_custom_alignment(64)
    V = gguf.GGUFValueType
    w.add_uint8("u8", 200)
    w.add_int8("i8", -100)
    w.add_uint16("u16", 60000)
    w.add_int16("i16", -30000)
    w.add_uint32("u32", 4000000000)
    w.add_int32("i32", -2000000000)
    w.add_float32("f32", 0.1)
    w.add_bool("yes", True)
    w.add_bool("no", False)
    w.add_string("string", "caf\u00e9 \u2603")
    w.add_uint64("u64", 2**63 + 1)
    w.add_int64("i64", -(2**62))
    w.add_float64("f64", 0.1)
    w.add_array("strings", ["a", "", "\u00e9"])
    w.add_array("ints", [1, -2, 3])
    w.add_array("floats", [0.5, -1.5])
    w.add_array("bools", [True, False, True])
    w.add_array("bytes", b"\x00\x01\xff")
    w.add_array("nested", [[1, 2], [3, 4, 5]])
    for dtype in [np.float32, np.float16, np.float64, np.int8, np.int16, np.int32, np.int64]:
        w.add_tensor(np.dtype(dtype).name, (np.arange(6) - 2).reshape(2, 3).astype(dtype))
    w.add_tensor("bfloat16", quants.quantize((np.arange(6) - 2).reshape(2, 3).astype(np.float32), T.BF16),
                 raw_dtype=T.BF16)
    w.add_tensor("rank4", np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4))
    write(w)


def write(w: gguf.GGUFWriter) -> None:
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def show(path: str) -> None:
    r = gguf.GGUFReader(path)
    for key, field in r.fields.items():
        if not key.startswith("GGUF."):
            print(key, "/".join(t.name for t in field.types), repr(field.contents()))
    for t in r.tensors:
        values = quants.dequantize(t.data, t.tensor_type) if t.tensor_type.name in quants_known() else t.data
        print(t.name, t.tensor_type.name, [int(n) for n in reversed(t.shape)], float(np.sum(values, dtype=np.float64)))


def quants_known() -> set[str]:
    return {t.name for t in quants._type_traits}


if __name__ == "__main__":
    if len(sys.argv) > 1:
        show(sys.argv[1])
    else:
        OUT.mkdir(parents=True, exist_ok=True)
        decoded()
        encoded()
        everything()
