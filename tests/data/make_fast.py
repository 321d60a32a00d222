"""Writes fast.json: what MLX computes for rope, the norms, attention and the positional layers.

Run with a Python that has mlx installed: python tests/data/make_fast.py. Made with mlx 0.32.4, CPU.
"""

import json
import os

import mlx.core as mx
import mlx.nn as nn

from make_nn import dump, values

x = values((2, 3, 4, 8), 1)
rows = mx.array([3, 40])
freqs = values((3,), 2, 0.5, 4.0)

rope = []
for traditional in (False, True):
    for dims, base, scale, offset, f in (
        (8, 10000.0, 1.0, 0, None),
        (8, 10000.0, 1.0, 17, None),
        (6, 500.0, 0.25, 5, None),
        (4, 10000.0, 2.0, rows, None),
        (6, None, 1.0, 9, freqs),
        (6, None, 0.5, rows, freqs),
    ):
        y = mx.fast.rope(x, dims, traditional=traditional, base=base, scale=scale, offset=offset, freqs=f)
        rope.append(
            {"dims": dims, "traditional": traditional, "base": base, "scale": scale,
             "offset": dump(offset if isinstance(offset, mx.array) else mx.array(offset)),
             "freqs": None if f is None else dump(f), "out": dump(y)}
        )

w, b = values((8,), 3), values((8,), 4)
norms = {
    "rms_norm": dump(mx.fast.rms_norm(x, w, 1e-3)),
    "rms_norm_plain": dump(mx.fast.rms_norm(x, None, 1e-3)),
    "layer_norm": dump(mx.fast.layer_norm(x, w, b, 1e-3)),
    "layer_norm_plain": dump(mx.fast.layer_norm(x, None, None, 1e-3)),
}

q, k, v = values((2, 4, 3, 8), 5), values((2, 2, 6, 8), 6), values((2, 2, 6, 8), 7)
seen = values((2, 1, 3, 6), 8) > -0.3
added, sinks = values((4, 3, 6), 9), values((4,), 10)
attend = lambda **more: dump(mx.fast.scaled_dot_product_attention(q, k, v, scale=0.4, **more))
attention = {
    "plain": attend(),
    "causal": attend(mask="causal"),
    "boolean": attend(mask=seen),
    "additive": attend(mask=added),
    "sinks": attend(mask="causal", sinks=sinks),
}

positions = mx.array([0.0, 1.0, 7.5, 100.0])
layers = {
    "sinusoidal": dump(nn.SinusoidalPositionalEncoding(8)(positions)),
    "sinusoidal_options": dump(
        nn.SinusoidalPositionalEncoding(8, min_freq=0.01, max_freq=2, scale=1.5, cos_first=True, full_turns=True)(
            mx.array([0.0, 0.25, 3.5]))),
    "alibi": dump(nn.ALiBi()(values((2, 3, 4, 6), 11), offset=2)),
    "rope": dump(nn.RoPE(6, traditional=True, base=300, scale=0.5)(x, offset=4)),
}

out = {
    "x": dump(x), "w": dump(w), "b": dump(b), "rope": rope, "norms": norms, "q": dump(q), "k": dump(k), "v": dump(v),
    "seen": dump(seen), "added": dump(added), "sinks": dump(sinks), "attention": attention, "layers": layers,
    "alibi_scores": dump(values((2, 3, 4, 6), 11)),
}
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "fast.json"), "w") as file:
    json.dump(out, file, separators=(",", ":"))
    file.write("\n")
