"""The rows of the benchmark in MLX, JAX or PyTorch, on the CPU, timed as timing.h does.

    peers.py mlx exp softmax       rows by name (none: all of them)
    peers.py jax --serve           rows named on standard input, as they come

Each row is computed as a user of the library would write it; where the library offers an eager and a
compiled way, both are timed and the best counts. Data is random and of the sizes in limits.cpp.
"""

import functools
import json
import os
import resource
import sys
import time

import numpy as np

MANY = 1 << 24
SIDE = 4096
CHAIN = 10_000


def uniform(*shape, seed=1, scale=1.0):
    values = np.random.default_rng(seed).random(shape, dtype=np.float32)
    values *= 2 * scale
    values -= scale
    return values


def integers(n, below, seed=7):
    return np.random.default_rng(seed).integers(0, below, n, dtype=np.int32)


def own_cpu_seconds():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def machine_cpu_seconds():
    with open("/proc/stat") as file:
        user, nice, system, _, _, irq, softirq = map(int, file.readline().split()[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def measure(run):
    """(median, minimum, count, cores that others kept busy), as bench::measure in timing.h."""
    run()
    best = None
    for attempt in range(3):
        run()
        run()
        times = []
        own, machine, start = own_cpu_seconds(), machine_cpu_seconds(), time.perf_counter()
        while len(times) < 5 or (time.perf_counter() - start < 0.4 and len(times) < 100000):
            t = time.perf_counter()
            run()
            times.append(time.perf_counter() - t)
        wall = time.perf_counter() - start
        others = max(0.0, machine_cpu_seconds() - machine - (own_cpu_seconds() - own)) / wall
        times.sort()
        result = (times[len(times) // 2], times[0], len(times), others)
        if best is None or result[3] < best[3]:
            best = result
        if best[3] < 0.1:
            break
        time.sleep(0.3)
    return best


# One class a library: data(numpy) moves data in, and each row returns {way: function}. A function must
# have computed its result when it returns.


class Mlx:
    def __init__(self):
        import mlx.core as mx
        import mlx.nn as nn

        self.mx, self.nn = mx, nn
        mx.set_default_device(mx.cpu)
        self.version = mx.__version__

    def data(self, values, dtype=None):
        a = self.mx.array(values)
        if dtype:
            a = a.astype(getattr(self.mx, dtype))
        self.mx.eval(a)
        return a

    def ways(self, f, *args, compiled=False):
        mx = self.mx
        ways = {"eager": lambda: mx.eval(f(*args))}
        if compiled:  # needs a C++ compiler at run time
            g = mx.compile(f)
            ways["compiled"] = lambda: mx.eval(g(*args))
        return ways

    def matmul(self, n, dtype):
        a, b = self.data(uniform(n, n), dtype), self.data(uniform(n, n, seed=2), dtype)
        return self.ways(lambda a, b: a @ b, a, b)

    def vecmat(self, transposed):
        x, w = self.data(uniform(1, SIDE)), self.data(uniform(SIDE, SIDE, seed=2))
        return self.ways((lambda x, w: x @ w.T) if transposed else (lambda x, w: x @ w), x, w)

    def fma(self):
        a, b = self.data(uniform(MANY)), self.data(uniform(MANY, seed=2))
        return self.ways(lambda a, b: a * b + a, a, b, compiled=True)

    def unary(self, name):
        x = self.data(uniform(MANY, scale=3))
        f = {"exp": self.mx.exp, "tanh": self.mx.tanh, "gelu": self.nn.gelu}[name]
        return self.ways(f, x)

    def sum(self, axis):
        return self.ways(lambda x: self.mx.sum(x, axis=axis), self.data(uniform(SIDE, SIDE)))

    def softmax(self):
        return self.ways(lambda x: self.mx.softmax(x, axis=-1), self.data(uniform(SIDE, SIDE, scale=3)))

    def layer_norm(self):
        args = self.data(uniform(SIDE, SIDE)), self.data(uniform(SIDE, seed=2)), self.data(uniform(SIDE, seed=3))
        return self.ways(lambda x, w, b: self.mx.fast.layer_norm(x, w, b, 1e-5), *args)

    def attention(self):
        q, k, v = (self.data(uniform(1, 16, 1024, 64, seed=s)) for s in (1, 2, 3))
        attend = self.mx.fast.scaled_dot_product_attention
        return self.ways(lambda q, k, v: attend(q, k, v, scale=0.125, mask="causal"), q, k, v)

    def quantized(self, rows):
        mx = self.mx
        x, w = self.data(uniform(rows, SIDE)), mx.quantize(self.data(uniform(SIDE, SIDE, seed=2)))
        return self.ways(lambda x, *w: mx.quantized_matmul(x, *w), x, *w)

    def argmax(self):
        return self.ways(lambda x: self.mx.argmax(x, axis=-1), self.data(uniform(SIDE, SIDE)))

    def cumsum(self):
        return self.ways(lambda x: self.mx.cumsum(x, axis=-1), self.data(uniform(SIDE, SIDE)))

    def transpose(self):
        return self.ways(lambda x: self.mx.contiguous(x.T), self.data(uniform(SIDE, SIDE)))

    def conv2d(self, part):
        mx = self.mx
        x = self.data(uniform(16, 56, 56, 64))
        w = self.data(uniform(64, 3, 3, 64, seed=2))
        y = self.data(uniform(16, 56, 56, 64, seed=3))
        conv = lambda x, w: mx.conv2d(x, w, padding=1)
        if part == "forward":
            return self.ways(conv, x, w)
        if part == "input_gradient":
            return self.ways(lambda x, y: mx.vjp(lambda x: conv(x, w), [x], [y])[1], x, y)
        return self.ways(lambda w, y: mx.vjp(lambda w: conv(x, w), [w], [y])[1], w, y)

    def sort(self):
        return self.ways(lambda x: self.mx.sort(x, axis=-1), self.data(uniform(1024, 4096)))

    def take(self):
        table, index = self.data(uniform(32000, 512)), self.data(integers(65536, 32000))
        return self.ways(lambda t, i: t[i], table, index)

    def scatter_add(self):
        table, index = self.data(uniform(32000, 512)), self.data(integers(65536, 32000))
        updates = self.data(uniform(65536, 512, seed=2))
        return self.ways(lambda t, i, u: t.at[i].add(u), table, index, updates)

    def random_normal(self):
        key = self.mx.random.key(1)
        return self.ways(lambda: self.mx.random.normal((MANY,), key=key))

    def mlp_step(self):
        mx, nn = self.mx, self.nn
        x, t = self.data(uniform(256, 784)), self.data(integers(256, 10))

        def loss(p):
            h = nn.relu(x @ p[0] + p[1])
            h = nn.relu(h @ p[2] + p[3])
            return nn.losses.cross_entropy(h @ p[4] + p[5], t, reduction="mean")

        gradient = mx.grad(loss)

        def step(p):
            return [a - 0.1 * g for a, g in zip(p, gradient(p))]

        def train(f):
            state = [[self.data(a) for a in mlp_parameters()]]

            def run():
                state[0] = f(state[0])
                mx.eval(state[0])

            return run

        return {"eager": train(step), "compiled": train(mx.compile(step))}

    def chain(self):
        x, y = self.data(uniform(8)), self.data(uniform(8, seed=2))

        def run():
            z = x
            for _ in range(CHAIN):
                z = z + y
            self.mx.eval(z)

        return {"eager": run}

    def add_eval(self):
        return self.ways(lambda x, y: x + y, self.data(uniform(8)), self.data(uniform(8, seed=2)))


class Jax:
    def __init__(self):
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        import jax
        import jax.numpy as jnp

        self.jax, self.jnp = jax, jnp
        self.version = jax.__version__

    def data(self, values, dtype=None):
        return self.jax.block_until_ready(self.jnp.asarray(values, dtype=dtype and getattr(self.jnp, dtype)))

    def ways(self, f, *args):
        g = self.jax.jit(f)
        return {"jit": lambda: self.jax.block_until_ready(g(*args))}

    def matmul(self, n, dtype):
        a, b = self.data(uniform(n, n), dtype), self.data(uniform(n, n, seed=2), dtype)
        return self.ways(lambda a, b: a @ b, a, b)

    def vecmat(self, transposed):
        x, w = self.data(uniform(1, SIDE)), self.data(uniform(SIDE, SIDE, seed=2))
        return self.ways((lambda x, w: x @ w.T) if transposed else (lambda x, w: x @ w), x, w)

    def fma(self):
        return self.ways(lambda a, b: a * b + a, self.data(uniform(MANY)), self.data(uniform(MANY, seed=2)))

    def unary(self, name):
        gelu = functools.partial(self.jax.nn.gelu, approximate=False)
        f = {"exp": self.jnp.exp, "tanh": self.jnp.tanh, "gelu": gelu}[name]
        return self.ways(f, self.data(uniform(MANY, scale=3)))

    def sum(self, axis):
        return self.ways(lambda x: self.jnp.sum(x, axis=axis), self.data(uniform(SIDE, SIDE)))

    def softmax(self):
        return self.ways(lambda x: self.jax.nn.softmax(x, axis=-1), self.data(uniform(SIDE, SIDE, scale=3)))

    def layer_norm(self):
        def normalize(x, w, b):
            centered = x - x.mean(-1, keepdims=True)
            variance = (centered * centered).mean(-1, keepdims=True)
            return centered * self.jax.lax.rsqrt(variance + 1e-5) * w + b

        args = self.data(uniform(SIDE, SIDE)), self.data(uniform(SIDE, seed=2)), self.data(uniform(SIDE, seed=3))
        return self.ways(normalize, *args)

    def attention(self):
        q, k, v = (self.data(uniform(1, 1024, 16, 64, seed=s)) for s in (1, 2, 3))  # (B, T, H, D)
        attend = self.jax.nn.dot_product_attention
        return self.ways(lambda q, k, v: attend(q, k, v, scale=0.125, is_causal=True), q, k, v)

    def argmax(self):
        return self.ways(lambda x: self.jnp.argmax(x, axis=-1), self.data(uniform(SIDE, SIDE)))

    def cumsum(self):
        return self.ways(lambda x: self.jnp.cumsum(x, axis=-1), self.data(uniform(SIDE, SIDE)))

    def transpose(self):
        # The result of jit is laid out by rows: the transposition is a copy.
        return self.ways(lambda x: x.T, self.data(uniform(SIDE, SIDE)))

    def conv2d(self, part):
        jax = self.jax
        x = self.data(uniform(16, 56, 56, 64))
        w = self.data(uniform(64, 3, 3, 64, seed=2))
        y = self.data(uniform(16, 56, 56, 64, seed=3))
        conv = lambda x, w: jax.lax.conv_general_dilated(
            x, w, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "OHWI", "NHWC"))
        if part == "forward":
            return self.ways(conv, x, w)
        if part == "input_gradient":
            return self.ways(lambda x, w, y: jax.vjp(lambda x: conv(x, w), x)[1](y), x, w, y)
        return self.ways(lambda x, w, y: jax.vjp(lambda w: conv(x, w), w)[1](y), x, w, y)

    def sort(self):
        return self.ways(lambda x: self.jnp.sort(x, axis=-1), self.data(uniform(1024, 4096)))

    def take(self):
        table, index = self.data(uniform(32000, 512)), self.data(integers(65536, 32000))
        return self.ways(lambda t, i: t[i], table, index)

    def scatter_add(self):
        table, index = self.data(uniform(32000, 512)), self.data(integers(65536, 32000))
        updates = self.data(uniform(65536, 512, seed=2))
        return self.ways(lambda t, i, u: t.at[i].add(u), table, index, updates)

    def random_normal(self):
        return self.ways(lambda k: self.jax.random.normal(k, (MANY,)), self.jax.random.PRNGKey(1))

    def mlp_step(self):
        jax, jnp = self.jax, self.jnp
        x, t = self.data(uniform(256, 784)), self.data(integers(256, 10))

        def loss(p, x, t):
            h = jax.nn.relu(x @ p[0] + p[1])
            h = jax.nn.relu(h @ p[2] + p[3])
            logits = h @ p[4] + p[5]
            chosen = jnp.take_along_axis(logits, t[:, None], axis=-1)[:, 0]
            return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - chosen)

        @jax.jit
        def step(p, x, t):
            return [a - 0.1 * g for a, g in zip(p, jax.grad(loss)(p, x, t))]

        state = [[self.data(a) for a in mlp_parameters()]]

        def run():
            state[0] = jax.block_until_ready(step(state[0], x, t))

        return {"jit": run}

    def chain(self):
        x, y = self.data(uniform(8)), self.data(uniform(8, seed=2))

        def run():
            z = x
            for _ in range(CHAIN):
                z = z + y
            self.jax.block_until_ready(z)

        return {"eager": run}

    def add_eval(self):
        x, y = self.data(uniform(8)), self.data(uniform(8, seed=2))
        return {"eager": lambda: self.jax.block_until_ready(x + y), **self.ways(lambda x, y: x + y, x, y)}


class Torch:
    def __init__(self):
        import torch

        self.torch = torch
        self.version = torch.__version__
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count())))

    def data(self, values, dtype=None):
        a = self.torch.from_numpy(np.asarray(values))
        return a.to(getattr(self.torch, dtype)) if dtype else a

    def ways(self, f, *args):
        def run():
            with self.torch.no_grad():
                f(*args)

        return {"eager": run}

    def matmul(self, n, dtype):
        a, b = self.data(uniform(n, n), dtype), self.data(uniform(n, n, seed=2), dtype)
        return self.ways(lambda a, b: a @ b, a, b)

    def vecmat(self, transposed):
        x, w = self.data(uniform(1, SIDE)), self.data(uniform(SIDE, SIDE, seed=2))
        return self.ways((lambda x, w: x @ w.T) if transposed else (lambda x, w: x @ w), x, w)

    def fma(self):
        return self.ways(lambda a, b: a * b + a, self.data(uniform(MANY)), self.data(uniform(MANY, seed=2)))

    def unary(self, name):
        torch = self.torch
        f = {"exp": torch.exp, "tanh": torch.tanh, "gelu": torch.nn.functional.gelu}[name]
        return self.ways(f, self.data(uniform(MANY, scale=3)))

    def sum(self, axis):
        return self.ways(lambda x: x.sum() if axis is None else x.sum(axis), self.data(uniform(SIDE, SIDE)))

    def softmax(self):
        return self.ways(lambda x: x.softmax(-1), self.data(uniform(SIDE, SIDE, scale=3)))

    def layer_norm(self):
        args = self.data(uniform(SIDE, SIDE)), self.data(uniform(SIDE, seed=2)), self.data(uniform(SIDE, seed=3))
        return self.ways(lambda x, w, b: self.torch.nn.functional.layer_norm(x, (SIDE,), w, b, 1e-5), *args)

    def attention(self):
        q, k, v = (self.data(uniform(1, 16, 1024, 64, seed=s)) for s in (1, 2, 3))
        attend = self.torch.nn.functional.scaled_dot_product_attention
        return self.ways(lambda q, k, v: attend(q, k, v, scale=0.125, is_causal=True), q, k, v)

    def argmax(self):
        return self.ways(lambda x: x.argmax(-1), self.data(uniform(SIDE, SIDE)))

    def cumsum(self):
        return self.ways(lambda x: x.cumsum(-1), self.data(uniform(SIDE, SIDE)))

    def transpose(self):
        return self.ways(lambda x: x.T.contiguous(), self.data(uniform(SIDE, SIDE)))

    def conv2d(self, part):
        torch = self.torch
        last = dict(memory_format=torch.channels_last)
        x = self.data(uniform(16, 64, 56, 56)).contiguous(**last)
        w = self.data(uniform(64, 64, 3, 3, seed=2)).contiguous(**last)
        y = self.data(uniform(16, 64, 56, 56, seed=3)).contiguous(**last)
        if part == "forward":
            return self.ways(lambda x, w: torch.nn.functional.conv2d(x, w, padding=1), x, w)
        mask = [part == "input_gradient", part == "weight_gradient", False]
        return self.ways(lambda: torch.ops.aten.convolution_backward(
            y, x, w, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, mask))

    def sort(self):
        return self.ways(lambda x: x.sort(-1), self.data(uniform(1024, 4096)))

    def take(self):
        table, index = self.data(uniform(32000, 512)), self.data(integers(65536, 32000)).long()
        return self.ways(lambda t, i: t.index_select(0, i), table, index)

    def scatter_add(self):
        table, index = self.data(uniform(32000, 512)), self.data(integers(65536, 32000)).long()
        updates = self.data(uniform(65536, 512, seed=2))
        return self.ways(lambda t, i, u: t.index_add(0, i, u), table, index, updates)

    def random_normal(self):
        return self.ways(lambda: self.torch.randn(MANY))

    def mlp_step(self):
        torch = self.torch
        x, t = self.data(uniform(256, 784)), self.data(integers(256, 10)).long()
        parameters = [self.data(a).requires_grad_() for a in mlp_parameters()]

        def run():
            p = parameters
            h = torch.relu(x @ p[0] + p[1])
            h = torch.relu(h @ p[2] + p[3])
            loss = torch.nn.functional.cross_entropy(h @ p[4] + p[5], t)
            gradients = torch.autograd.grad(loss, p)
            with torch.no_grad():
                for a, g in zip(p, gradients):
                    a.sub_(g, alpha=0.1)

        return {"eager": run}

    def chain(self):
        x, y = self.data(uniform(8)), self.data(uniform(8, seed=2))

        def run():
            z = x
            for _ in range(CHAIN):
                z = z + y

        return {"eager": run}

    def add_eval(self):
        return self.ways(lambda x, y: x + y, self.data(uniform(8)), self.data(uniform(8, seed=2)))


def mlp_parameters():
    sizes = [(784, 256, 0.05), (256, 256, 0.1), (256, 10, 0.1)]
    return [a for k, (n, m, s) in enumerate(sizes)
            for a in (uniform(n, m, seed=k + 2, scale=s), np.zeros(m, np.float32))]


ROWS = {
    "matmul_f32_1024": lambda lib: lib.matmul(1024, "float32"),
    "matmul_f32_2048": lambda lib: lib.matmul(2048, "float32"),
    "matmul_bf16_1024": lambda lib: lib.matmul(1024, "bfloat16"),
    "matmul_f16_1024": lambda lib: lib.matmul(1024, "float16"),
    "vecmat": lambda lib: lib.vecmat(False),
    "vecmat_t": lambda lib: lib.vecmat(True),
    "fma": lambda lib: lib.fma(),
    "gelu": lambda lib: lib.unary("gelu"),
    "exp": lambda lib: lib.unary("exp"),
    "tanh": lambda lib: lib.unary("tanh"),
    "sum_all": lambda lib: lib.sum(None),
    "sum_axis0": lambda lib: lib.sum(0),
    "sum_axis1": lambda lib: lib.sum(1),
    "softmax": lambda lib: lib.softmax(),
    "layer_norm": lambda lib: lib.layer_norm(),
    "attention": lambda lib: lib.attention(),
    "q4_vecmat": lambda lib: lib.quantized(1),
    "q4_matmul": lambda lib: lib.quantized(512),
    "argmax": lambda lib: lib.argmax(),
    "cumsum": lambda lib: lib.cumsum(),
    "transpose": lambda lib: lib.transpose(),
    "conv2d_forward": lambda lib: lib.conv2d("forward"),
    "conv2d_input_gradient": lambda lib: lib.conv2d("input_gradient"),
    "conv2d_weight_gradient": lambda lib: lib.conv2d("weight_gradient"),
    "sort": lambda lib: lib.sort(),
    "take": lambda lib: lib.take(),
    "scatter_add": lambda lib: lib.scatter_add(),
    "random_normal": lambda lib: lib.random_normal(),
    "mlp_step": lambda lib: lib.mlp_step(),
    "chain": lambda lib: lib.chain(),
    "add_eval": lambda lib: lib.add_eval(),
}
PER_RUN = {"chain": CHAIN}


def run_row(library, name):
    if name not in ROWS or (name.startswith("q4_") and not hasattr(library, "quantized")):
        return {"row": name, "missing": True}
    try:
        best = None
        for way, run in ROWS[name](library).items():
            median, least, n, others = measure(run)
            per = 1e3 / PER_RUN.get(name, 1)
            if best is None or median * per < best["ms"]:
                best = {"row": name, "ms": median * per, "min_ms": least * per, "n": n, "way": way,
                        "others": round(others, 3)}
        return best
    except Exception as error:
        return {"row": name, "error": f"{type(error).__name__}: {error}".splitlines()[0][:200]}


def main():
    if len(sys.argv) < 2 or sys.argv[1] not in ("mlx", "jax", "torch"):
        sys.exit("usage: peers.py mlx|jax|torch [--serve | --version | row...]")
    library = {"mlx": Mlx, "jax": Jax, "torch": Torch}[sys.argv[1]]()
    rest = sys.argv[2:]
    if rest == ["--version"]:
        print(library.version)
    elif rest == ["--serve"]:
        for line in sys.stdin:
            print(json.dumps(run_row(library, line.strip())), flush=True)
    else:
        for name in rest or ROWS:
            print(json.dumps(run_row(library, name)), flush=True)


if __name__ == "__main__":
    main()
