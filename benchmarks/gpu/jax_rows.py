"""The rows of the GPU benchmark in JAX, all under jit but `small_add`."""

import functools
import math

import jax
import jax.numpy as jnp

from peers import Case

BF16 = jnp.bfloat16


class Library:
    def __init__(self, sizes, device):
        found = jax.devices()[0]
        if device == "gpu" and found.platform != "gpu":
            raise SystemExit("peers.py: JAX finds no GPU")
        self.sizes, self.gpu = sizes, device == "gpu"
        self.version, self.device_name = jax.__version__, found.device_kind
        self.key = jax.random.key(0)

    def wait(self, result):
        jax.block_until_ready(result)

    def clean(self):
        jax.clear_caches()

    def names(self):
        return list(self.makers())

    def case(self, name, _mode):
        maker = self.makers().get(name)
        return maker() if maker else None

    # ---- data ----

    def normal(self, *shape, dtype=jnp.float32, scale=1.0):
        self.key, key = jax.random.split(self.key)
        return (jax.random.normal(key, shape) * scale).astype(dtype)

    def integers(self, shape, below):
        self.key, key = jax.random.split(self.key)
        return jax.random.randint(key, shape, 0, below)

    def normals(self, *shape, dtype=jnp.float32, scale=1.0):
        copies = self.sizes.copies(math.prod(shape) * jnp.dtype(dtype).itemsize)
        return jax.block_until_ready([self.normal(*shape, dtype=dtype, scale=scale) for _ in range(copies)])

    def each(self, f, *inputs, most=60):
        # Results wait in memory until the GPU has come that far: not too many at once.
        f = jax.jit(f)
        return Case(lambda i: f(*(x[i % len(x)] for x in inputs)), most=most)

    # ---- rows ----

    def makers(self):
        s = self.sizes
        many = lambda f: lambda: self.each(f, self.normals(s.many))
        rows = {
            "negative_f32": many(jnp.negative),
            "fma_f32": lambda: self.each(lambda a, b: a * b + a, self.normals(s.many), self.normals(s.many)),
            "gelu_f32": many(lambda x: x * 0.5 * (1 + jax.lax.erf(x * 0.70710678))),
            "exp_f32": many(jnp.exp),
            "sum_all_f32": many(jnp.sum),
        }
        for t, dtype in (("f32", jnp.float32), ("bf16", BF16)):
            square = lambda f, dtype=dtype: lambda: self.each(f, self.normals(s.side, s.side, dtype=dtype))
            rows |= {
                f"sum_axis0_{t}": square(lambda x: x.sum(0)),
                f"sum_axis1_{t}": square(lambda x: x.sum(1)),
                f"softmax_{t}": square(lambda x: jax.nn.softmax(x, -1)),
                f"layer_norm_{t}": lambda dtype=dtype: self.norm(layer_norm, dtype),
                f"rms_norm_{t}": lambda dtype=dtype: self.norm(rms_norm, dtype),
                f"transpose_{t}": square(lambda x: x.T),
                f"argmax_{t}": square(lambda x: x.argmax(1)),
                f"cumsum_{t}": square(lambda x: jnp.cumsum(x, 1)),
            }
        exact = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
        product = lambda n, dtype, f=jnp.matmul: lambda: self.each(f, self.normals(n, n, dtype=dtype),
                                                                   self.normals(n, n, dtype=dtype))
        rows |= {
            "random_normal": self.random_normal,
            "sort": lambda: self.each(lambda x: jnp.sort(x, -1), self.normals(*s.sort)),
            "take": self.take,
            "scatter_add": self.scatter_add,
            "small_add": self.small_add,
            "chain": self.chain,
            "matmul_bf16": product(s.side, BF16),
            "matmul_f16": product(s.side, jnp.float16),
            "matmul_tf32": product(s.side, jnp.float32),
            "matmul_f32": product(s.exact, jnp.float32, exact),
            "matvec_bf16": self.vector_product,
            "conv_f32": lambda: self.convolution(jnp.float32, jax.lax.Precision.HIGHEST),
            "conv_grad_f32": lambda: self.convolution_gradient(jnp.float32, jax.lax.Precision.HIGHEST),
            "conv_tf32": lambda: self.convolution(jnp.float32),
            "conv_grad_tf32": lambda: self.convolution_gradient(jnp.float32),
            "conv_bf16": lambda: self.convolution(BF16),
            "conv_grad_bf16": lambda: self.convolution_gradient(BF16),
            "mlp_step": self.mlp_step,
            "gpt_step": self.gpt_step,
            "decode_bf16": self.decode,
        }
        for size in (64, 128):
            rows[f"attention_{size}"] = lambda size=size: self.each(self.attend, *self.attention_data(size)[:3])
            rows[f"attention_grad_{size}"] = lambda size=size: self.attention_gradient(size)
        return rows

    def norm(self, f, dtype):
        w, b = (self.normal(self.sizes.side, dtype=dtype) for _ in range(2))
        return self.each(lambda x: f(x, w, b), self.normals(self.sizes.side, self.sizes.side, dtype=dtype))

    def random_normal(self):
        f = jax.jit(lambda key: jax.random.normal(key, (self.sizes.many,)))
        keys = list(jax.random.split(self.key, 16))
        return Case(lambda i: f(keys[i % 16]), most=60)

    def take(self):
        index = self.integers((self.sizes.rows,), self.sizes.table)
        return self.each(lambda table: table[index], self.normals(self.sizes.table, self.sizes.columns), most=8)

    def scatter_add(self):
        index, updates = self.integers((self.sizes.rows,), self.sizes.table), self.normal(self.sizes.rows, self.sizes.columns)
        return self.each(lambda table, updates: table.at[index].add(updates),
                         self.normals(self.sizes.table, self.sizes.columns), [updates], most=8)

    def small_add(self):
        x, one = self.normal(8), jnp.ones(8)

        def run(_):
            nonlocal x
            x = x + one
            return x
        return Case(run)

    def chain(self):
        x, one, n = self.normal(8), jnp.ones(8), 1000

        @jax.jit
        def f(x, one):
            for _ in range(n):
                x = x + one
            return x
        return Case(lambda i: f(x, one), divisor=n)

    def vector_product(self):
        x = self.normal(1, self.sizes.side, dtype=BF16)
        return self.each(lambda w: x @ w, self.normals(self.sizes.side, self.sizes.side, dtype=BF16), most=1000)

    def convolve(self, precision):
        def f(x, w):
            return jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"),
                                                precision=precision)
        return f

    def convolution(self, dtype, precision=None):
        x = self.normals(*self.sizes.image, dtype=dtype)
        c = x[0].shape[3]
        return self.each(self.convolve(precision), x, [self.normal(3, 3, c, c, dtype=dtype, scale=0.05)])

    def convolution_gradient(self, dtype, precision=None):
        x, g = self.normals(*self.sizes.image, dtype=dtype), self.normals(*self.sizes.image, dtype=dtype)
        c = x[0].shape[3]
        f = self.convolve(precision)
        return self.each(lambda x, g, w: jax.vjp(f, x, w)[1](g), x, g, [self.normal(3, 3, c, c, dtype=dtype, scale=0.05)])

    def attend(self, q, k, v):
        return jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation="cudnn" if self.gpu else None)

    def attention_data(self, size):
        batch, heads, n = self.sizes.attention  # JAX has the heads behind the positions
        return [self.normals(batch, n, heads, size, dtype=BF16) for _ in range(4)]

    def attention_gradient(self, size):
        q, k, v, g = self.attention_data(size)
        backward = [jax.jit(functools.partial(jax.vjp, self.attend))(*a)[1] for a in zip(q, k, v)]
        return self.each(lambda f, g: f(g), backward, g)

    # ---- training ----

    def mlp_step(self):
        sizes = (784, 256, 256, 10)
        p = [(self.normal(a, b, scale=a**-0.5), jnp.zeros(b)) for a, b in zip(sizes, sizes[1:])]
        x, y = self.normal(256, 784), self.integers((256,), 10)

        def loss(p, x, y):
            for w, b in p[:-1]:
                x = jax.nn.relu(x @ w + b)
            return cross_entropy(x @ p[-1][0] + p[-1][1], y)

        @functools.partial(jax.jit, donate_argnums=0)
        def step(p, x, y):
            value, g = jax.value_and_grad(loss)(p, x, y)
            return jax.tree.map(lambda p, g: p - 0.1 * g, p, g), value

        def run(_):
            nonlocal p
            p, value = step(p, x, y)
            return value
        return Case(run)

    def gpt_step(self):
        o, lr, b1, b2 = self.sizes.gpt, 3e-4, 0.9, 0.999
        heads = o["heads"]
        p = self.gpt_parameters(**{k: v for k, v in o.items() if k != "heads"})
        zeros = jax.tree.map(jnp.zeros_like, p)
        state = (p, zeros, jax.tree.map(jnp.copy, zeros), jnp.zeros(()))
        ids, targets = (self.integers((self.sizes.gpt_batch, o["context"]), o["vocabulary"]) for _ in range(2))
        low = lambda a: a.astype(BF16)
        product = lambda x, w, b: low(x) @ low(w) + low(b)

        def loss(p, ids, targets):
            x = p["tokens"][ids] + p["positions"]
            for block in p["blocks"]:
                batch, n, dims = x.shape
                qkv = product(layer_norm(x, *block["norm1"]), *block["qkv"]).reshape(batch, n, 3, heads, dims // heads)
                y = self.attend(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2])
                x = x + product(y.reshape(batch, n, dims), *block["out"])
                h = jax.nn.gelu(product(layer_norm(x, *block["norm2"]), *block["up"]), approximate=True)
                x = x + product(h, *block["down"])
            logits = low(layer_norm(x, *p["norm"])) @ low(p["tokens"]).T
            return cross_entropy(logits.astype(jnp.float32), targets)

        @functools.partial(jax.jit, donate_argnums=0)
        def step(state, ids, targets):
            p, m, v, t = state
            value, g = jax.value_and_grad(loss)(p, ids, targets)
            t = t + 1
            m = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, m, g)
            v = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, v, g)
            update = lambda p, m, v: p * (1 - lr * 0.01) - lr * (m / (1 - b1**t)) / (jnp.sqrt(v / (1 - b2**t)) + 1e-8)
            return (jax.tree.map(update, p, m, v), m, v, t), value

        def run(_):
            nonlocal state
            state, value = step(state, ids, targets)
            return value
        return Case(run, most=4)

    def gpt_parameters(self, vocabulary, context, layers, dims):
        linear = lambda a, b: (self.normal(a, b, scale=0.02), jnp.zeros(b))
        norm = lambda: (jnp.ones(dims), jnp.zeros(dims))
        block = lambda: dict(norm1=norm(), norm2=norm(), qkv=linear(dims, 3 * dims), out=linear(dims, dims),
                             up=linear(dims, 4 * dims), down=linear(4 * dims, dims))
        return dict(tokens=self.normal(vocabulary, dims, scale=0.02), positions=self.normal(context, dims, scale=0.02),
                    blocks=[block() for _ in range(layers)], norm=norm())

    def decode(self):
        """As torch_rows.Decoder: no positions, nothing written to the cache."""
        o = self.sizes.lm
        hidden, heads, kv = o["hidden"], o["heads"], o["kv_heads"]
        size = hidden // heads
        matrix = lambda a, b: self.normal(a, b, dtype=BF16, scale=0.02)
        past = lambda: self.normal(1, o["context"], kv, size, dtype=BF16)
        layers = [(matrix(hidden, hidden + 2 * kv * size), matrix(hidden, hidden), matrix(hidden, 2 * o["inner"]),
                   matrix(o["inner"], hidden), past(), past()) for _ in range(o["layers"])]
        head, w, x = matrix(hidden, o["vocabulary"]), self.normal(hidden, dtype=BF16), self.normal(1, hidden, dtype=BF16)

        @jax.jit
        def token(layers, head, x):
            for qkv, out, gate_up, down, keys, values in layers:
                q = (rms_norm(x, w) @ qkv)[:, :hidden].reshape(1, 1, heads, size)
                x = x + jax.nn.dot_product_attention(q, keys, values).reshape(1, hidden) @ out
                gate, up = jnp.split(rms_norm(x, w) @ gate_up, 2, -1)
                x = x + (jax.nn.silu(gate) * up) @ down
            return (rms_norm(x, w) @ head).argmax(-1)
        return Case(lambda i: token(layers, head, x), most=32)


def layer_norm(x, w, b):
    h = x.astype(jnp.float32)
    h = h - h.mean(-1, keepdims=True)
    return (h * jax.lax.rsqrt(jnp.square(h).mean(-1, keepdims=True) + 1e-5)).astype(x.dtype) * w + b


def rms_norm(x, w, _=None):
    h = x.astype(jnp.float32)
    return (h * jax.lax.rsqrt(jnp.square(h).mean(-1, keepdims=True) + 1e-5)).astype(x.dtype) * w


def cross_entropy(logits, targets):
    picked = jnp.take_along_axis(logits, targets[..., None], -1)[..., 0]
    return (jax.nn.logsumexp(logits, -1) - picked).mean()
