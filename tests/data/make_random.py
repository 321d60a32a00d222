#!/usr/bin/env python3
"""Writes random.txt: what MLX draws for given keys. Run with a Python that has mlx and numpy:

    python make_random.py > random.txt

One case a line: its name, which tests/ops/random_test.cpp knows how to draw, and the values.
"""
import mlx.core as mx
import numpy as np

K = mx.random.key(7)
BIG = mx.random.key(0x123456789ABCDEF0)


def case(name, x):
    x = x.astype(mx.float32) if x.dtype in (mx.float16, mx.bfloat16) else x
    x = np.array(x).ravel()
    if x.dtype == np.complex64:
        x = x.view(np.float32)
    text = [float(v).hex() for v in x] if x.dtype == np.float32 else [str(int(v)) for v in x]
    print(name, *text)


mx.set_default_device(mx.cpu)
r = mx.random
case("key_big", BIG)
case("split_2", mx.stack(r.split(K)))
case("split_5", r.split(BIG, 5))
for n in (1, 2, 3, 8, 17, 64, 101):
    case(f"uniform_{n}", r.uniform(shape=(n,), key=K))
case("uniform_3x5x7", r.uniform(shape=(3, 5, 7), key=BIG))
case("uniform_affine", r.uniform(-2.3, 3.1, shape=(33,), key=K))
case("uniform_bounds", r.uniform(mx.array([0.0, 10.0, -5.0]), mx.array([1.0, 20.0, -4.0]), shape=(4, 3), key=K))
case("uniform_f16", r.uniform(-2, 3, shape=(33,), dtype=mx.float16, key=K))
case("uniform_bf16", r.uniform(shape=(33,), dtype=mx.bfloat16, key=K))
case("normal_101", r.normal((101,), key=K))
case("normal_5x8", r.normal((5, 8), loc=2.0, scale=3.0, key=BIG))
case("normal_f16", r.normal((40,), dtype=mx.float16, key=K))
case("normal_f16_affine", r.normal((40,), dtype=mx.float16, loc=2.0, scale=3.0, key=K))
case("normal_bf16", r.normal((40,), dtype=mx.bfloat16, key=K))
case("normal_c64", r.normal((9,), dtype=mx.complex64, loc=1.0, scale=2.0, key=K))
case("randint_small", r.randint(-7, 10, (50,), key=K))
case("randint_u8", r.randint(0, 256, (21,), dtype=mx.uint8, key=K))
case("randint_large", r.randint(2**24, 2**24 + 10, (50,), dtype=mx.int64, key=K))
case("randint_empty_range", r.randint(5, 3, (4,), key=K))
case("randint_bounds", r.randint(mx.array([0, 10, 20]), mx.array([10, 20, 30]), (5, 3), key=K))
case("randint_bool", r.randint(0, 2, (20,), dtype=mx.bool_, key=K))
case("bernoulli_03", r.bernoulli(0.3, (41,), key=K))
case("bernoulli_array", r.bernoulli(mx.array([0.1, 0.9, 0.5]), (7, 3), key=K))
case("truncated_normal", r.truncated_normal(-1.0, mx.array([0.5, 2.0, 0.0]), (9, 3), key=K))
case("gumbel", r.gumbel((31,), key=K))
case("gumbel_bf16", r.gumbel((31,), dtype=mx.bfloat16, key=K))
case("laplace", r.laplace((31,), key=K))
case("laplace_affine", r.laplace((31,), loc=1.5, scale=2.5, key=K))
case("laplace_bf16", r.laplace((31,), dtype=mx.bfloat16, loc=1.5, scale=2.5, key=K))
L = mx.sin(mx.arange(28).reshape(4, 7).astype(mx.float32) * 3)
case("categorical", r.categorical(L, key=K))
case("categorical_axis", r.categorical(L, axis=0, key=K))
case("categorical_samples", r.categorical(L, axis=0, num_samples=5, key=K))
case("categorical_shape", r.categorical(L, axis=1, shape=(3, 4), key=K))
case("permutation_11", r.permutation(11, key=K))
case("permutation_rows", r.permutation(mx.arange(22).reshape(11, 2), key=K))
case("permutation_columns", r.permutation(mx.arange(22).reshape(2, 11), axis=1, key=K))
keys = r.split(K, 6)
case("vmap_keys", mx.vmap(lambda k: r.uniform(shape=(5,), key=k))(keys))
case("vmap_columns", mx.vmap(lambda k: r.uniform(shape=(5,), key=k), in_axes=1, out_axes=1)(keys.T))
case("vmap_twice", mx.vmap(mx.vmap(lambda k: r.normal((3,), key=k)))(keys.reshape(2, 3, 2)))
mx.random.seed(42)
case("sequence", mx.concatenate([r.uniform(shape=(3,)) for _ in range(4)]))
