#!/usr/bin/env python3
"""Writes tests/data/quantized/*.safetensors: what MLX computes for quantized matrices.

    python tools/make_quantized_references.py        (needs mlx; the files in the repository: mlx 0.32.4, CPU)

affine.safetensors: w and, for every number of bits, group size and dtype, BITS.GROUP.DTYPE.{w,scales,biases},
for groups of 32 of 3 and 8 bits also .values. codes.safetensors: the same for mxfp4, mxfp8 and nvfp4 (with a global scale:
nvfp4g). products.safetensors: products by rows and by columns, and of gathered matrices.
"""

from pathlib import Path

import mlx.core as mx
import numpy as np

OUT = Path(__file__).resolve().parent.parent / "tests/data/quantized"
DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}
random = np.random.default_rng(7)


def numbers(*shape):
    return mx.array(random.normal(size=shape).astype(np.float32))


def hard_rows():
    """Rows with zeros, equal elements, one sign, large and small elements, ties."""
    w = random.normal(size=(8, 128)).astype(np.float32)
    w[1] = np.round(w[1] * 8) / 8
    w[2] = np.abs(w[2])
    w[3] = -np.abs(w[3]) * 1e-3
    w[4, :64] = 0
    w[4, 64:] = 0.75
    w[5] *= np.exp(random.normal(size=128) * 3)
    w[6] = np.arange(128) - 64
    return mx.array(w)


def save(name, arrays):
    OUT.mkdir(parents=True, exist_ok=True)
    mx.save_safetensors(str(OUT / f"{name}.safetensors"), arrays, metadata={"mlx": mx.__version__})


w = hard_rows()
affine = {"w": w}
for bits in (1, 2, 3, 4, 5, 6, 8):
    for group in (32, 64, 128):
        for name, dtype in DTYPES.items():
            if name != "float32" and group == 128:
                continue
            q, scales, biases = mx.quantize(w.astype(dtype), group_size=group, bits=bits)
            key = f"{bits}.{group}.{name}"
            affine |= {f"{key}.w": q, f"{key}.scales": scales, f"{key}.biases": biases}
            if group == 32 and bits in (3, 8):
                affine[f"{key}.values"] = mx.dequantize(q, scales, biases, group_size=group, bits=bits)
save("affine", affine)

codes = {"w": w}
for mode in ("mxfp4", "mxfp8", "nvfp4"):
    q, scales = mx.quantize(w, mode=mode)
    codes |= {f"{mode}.w": q, f"{mode}.scales": scales}
    for name, dtype in DTYPES.items():
        codes[f"{mode}.{name}"] = mx.dequantize(q, scales, mode=mode, dtype=dtype)
largest = mx.max(mx.abs(w))
q, scales = mx.quantize(w, mode="nvfp4", global_scale=largest)
codes |= {"largest": largest, "nvfp4g.w": q, "nvfp4g.scales": scales,
          "nvfp4g.float32": mx.dequantize(q, scales, mode="nvfp4", global_scale=largest, dtype=mx.float32)}
save("codes", codes)

products = {}
for key, mode, group, bits in (("affine4", "affine", 64, 4), ("affine3", "affine", 32, 3),
                               ("affine8", "affine", 128, 8), ("mxfp4", "mxfp4", 32, 4),
                               ("mxfp8", "mxfp8", 32, 8), ("nvfp4", "nvfp4", 16, 4)):
    w, x, z = numbers(3, 10, 128), numbers(2, 128), numbers(2, 10)
    parts = mx.quantize(w, group_size=group, bits=bits, mode=mode)
    options = dict(group_size=group, bits=bits, mode=mode)
    first = [p[0] for p in parts]
    rhs = mx.array([[2, 0], [2, 1], [0, 0]])
    many = numbers(3, 1, 1, 128)
    products |= {f"{key}.{n}": p for n, p in zip(("w", "scales", "biases"), parts)}
    products |= {f"{key}.x": x, f"{key}.z": z, f"{key}.many": many, "rhs": rhs,
                 f"{key}.by_rows": mx.quantized_matmul(x, *first, transpose=True, **options),
                 f"{key}.by_columns": mx.quantized_matmul(z, *first, transpose=False, **options),
                 f"{key}.gathered": mx.gather_qmm(many, *parts, rhs_indices=rhs, **options)}
a, b = numbers(3, 1, 2, 16), numbers(3, 16, 5)
products |= {"a": a, "b": b, "gather_mm": mx.gather_mm(a, b, rhs_indices=rhs)}
save("products", products)
