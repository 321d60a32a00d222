"""The rows of the GPU benchmark in PyTorch."""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F

from peers import Case

# Rows where torch.compile can gain something; the others are one kernel of a library.
COMPILED = ("fma", "gelu", "sum_", "softmax", "layer_norm", "rms_norm", "transpose", "argmax", "cumsum",
            "mlp_step", "gpt_step", "decode_bf16")
BF16 = torch.bfloat16


class Library:
    def __init__(self, sizes, device):
        if device == "gpu" and not torch.cuda.is_available():
            raise SystemExit("peers.py: PyTorch finds no GPU")
        self.sizes, self.device = sizes, "cuda" if device == "gpu" else "cpu"
        self.version = torch.__version__
        self.device_name = torch.cuda.get_device_name() if device == "gpu" else "cpu"
        torch.manual_seed(0)
        torch.backends.cudnn.benchmark = True  # PyTorch at its best

    def wait(self, _):
        if self.device == "cuda":
            torch.cuda.synchronize()

    def clean(self):
        torch._dynamo.reset()
        if self.device == "cuda":
            torch.cuda.empty_cache()

    def names(self):
        return list(self.makers())

    def case(self, name, mode):
        maker = self.makers().get(name)
        if maker is None or (mode == "compile" and not name.startswith(COMPILED)):
            return None
        self.compile = torch.compile if mode == "compile" else lambda f, **_: f
        self.compiled = mode == "compile"
        return maker()

    # ---- data ----

    def normal(self, *shape, dtype=torch.float32, scale=1.0):
        return (torch.randn(*shape, device=self.device) * scale).to(dtype)

    def normals(self, *shape, dtype=torch.float32, scale=1.0):
        copies = self.sizes.copies(math.prod(shape) * dtype.itemsize)
        return [self.normal(*shape, dtype=dtype, scale=scale) for _ in range(copies)]

    def each(self, f, inputs):
        f = self.compile(f)
        return Case(lambda i: f(inputs[i % len(inputs)]))

    # ---- rows ----

    def makers(self):
        s = self.sizes
        many = lambda f: lambda: self.each(f, self.normals(s.many))
        rows = {
            "negative_f32": many(torch.neg),
            "fma_f32": self.multiply_add,
            "gelu_f32": many(lambda x: x * 0.5 * (1 + torch.erf(x * 0.70710678))),
            "exp_f32": many(torch.exp),
            "sum_all_f32": many(torch.sum),
        }
        for t, dtype in (("f32", torch.float32), ("bf16", BF16)):
            square = lambda f, dtype=dtype: lambda: self.each(f, self.normals(s.side, s.side, dtype=dtype))
            rows |= {
                f"sum_axis0_{t}": square(lambda x: x.sum(0)),
                f"sum_axis1_{t}": square(lambda x: x.sum(1)),
                f"softmax_{t}": square(lambda x: F.softmax(x, -1)),
                f"layer_norm_{t}": self.norm(lambda x, w, b: F.layer_norm(x, w.shape, w, b), dtype),
                f"rms_norm_{t}": self.norm(lambda x, w, b: F.rms_norm(x, w.shape, w), dtype),
                f"transpose_{t}": square(lambda x: x.t().contiguous()),
                f"argmax_{t}": square(lambda x: x.argmax(1)),
                f"cumsum_{t}": square(lambda x: x.cumsum(1)),
            }
        rows |= {
            "random_normal": lambda: Case(lambda i: torch.randn(s.many, device=self.device)),
            "sort": lambda: self.each(lambda x: torch.sort(x, -1)[0], self.normals(*s.sort)),
            "take": self.take,
            "scatter_add": self.scatter_add,
            "small_add": self.small_add,
            "chain": self.chain,
            "matmul_bf16": lambda: self.product(s.side, BF16),
            "matmul_f16": lambda: self.product(s.side, torch.float16),
            "matmul_tf32": lambda: self.product(s.side, torch.float32, tf32=True),
            "matmul_f32": lambda: self.product(s.exact, torch.float32),
            "matvec_bf16": self.vector_product,
            "conv_f32": lambda: self.convolution(torch.float32, tf32=False),
            "conv_grad_f32": lambda: self.convolution_gradient(torch.float32, tf32=False),
            "conv_tf32": lambda: self.convolution(torch.float32),
            "conv_grad_tf32": lambda: self.convolution_gradient(torch.float32),
            "conv_bf16": lambda: self.convolution(BF16),
            "conv_grad_bf16": lambda: self.convolution_gradient(BF16),
            "mlp_step": self.mlp_step,
            "gpt_step": self.gpt_step,
            "decode_bf16": self.decode,
            "decode_q4": lambda: self.decode(quantized=True),
            "prefill_bf16": self.prefill,
        }
        for size in (64, 128):
            rows[f"attention_{size}"] = lambda size=size: self.attention(size)
            rows[f"attention_grad_{size}"] = lambda size=size: self.attention_gradient(size)
        return rows

    def norm(self, f, dtype):
        def make():
            x, side = self.normals(self.sizes.side, self.sizes.side, dtype=dtype), self.sizes.side
            w, b, g = self.normal(side, dtype=dtype), self.normal(side, dtype=dtype), self.compile(f)
            return Case(lambda i: g(x[i % len(x)], w, b))
        return make

    def multiply_add(self):
        a, b = self.normals(self.sizes.many), self.normals(self.sizes.many)
        f = self.compile(lambda x, y: x * y + x)
        return Case(lambda i: f(a[i % len(a)], b[i % len(b)]))

    def indices(self):
        return torch.randint(0, self.sizes.table, (self.sizes.rows,), device=self.device)

    def take(self):
        index = self.indices()
        return self.each(lambda table: table[index], self.normals(self.sizes.table, self.sizes.columns))

    def scatter_add(self):
        index, updates = self.indices(), self.normal(self.sizes.rows, self.sizes.columns)
        return self.each(lambda table: table.index_add(0, index, updates),
                         self.normals(self.sizes.table, self.sizes.columns))

    def small_add(self):
        x, one = self.normal(8), torch.ones(8, device=self.device)

        def run(_):
            nonlocal x
            x = x + one
        return Case(run)

    def chain(self):
        x, one = self.normal(8), torch.ones(8, device=self.device)
        n = 1000

        def f(x, one):
            for _ in range(n):
                x = x + one
            return x
        f = self.compile(f)
        return Case(lambda i: f(x, one), divisor=n)

    def product(self, n, dtype, tf32=False):
        a, b = self.normals(n, n, dtype=dtype), self.normals(n, n, dtype=dtype)

        def prepare(_):
            torch.backends.cuda.matmul.allow_tf32 = tf32
        return Case(lambda i: a[i % len(a)] @ b[i % len(b)], prepare)

    def vector_product(self):
        x = self.normal(1, self.sizes.side, dtype=BF16)
        return self.each(lambda w: x @ w, self.normals(self.sizes.side, self.sizes.side, dtype=BF16))

    def convolution_data(self, dtype):
        n, h, w, c = self.sizes.image
        last = torch.channels_last
        x = [x.permute(0, 3, 1, 2).contiguous(memory_format=last) for x in self.normals(n, h, w, c, dtype=dtype)]
        weight = self.normal(c, c, 3, 3, dtype=dtype, scale=0.05).contiguous(memory_format=last)
        return x, weight

    def convolution(self, dtype, tf32=True):
        x, w = self.convolution_data(dtype)

        def prepare(_):
            torch.backends.cudnn.allow_tf32 = tf32
        return Case(lambda i: F.conv2d(x[i % len(x)], w, padding=1), prepare)

    def convolution_gradient(self, dtype, tf32=True):
        x, w = self.convolution_data(dtype)
        g, _ = self.convolution_data(dtype)
        for a in (*x, w):
            a.requires_grad_()
        torch.backends.cudnn.allow_tf32 = tf32
        y = [F.conv2d(a, w, padding=1) for a in x]

        def prepare(_):
            torch.backends.cudnn.allow_tf32 = tf32

        def run(i):
            k = i % len(x)
            return torch.autograd.grad(y[k], (x[k], w), g[k], retain_graph=True)
        return Case(run, prepare)

    def attention_data(self, size):
        return [self.normals(*self.sizes.attention, size, dtype=BF16) for _ in range(4)]

    def attention(self, size):
        q, k, v, _ = self.attention_data(size)

        def run(i):
            i %= len(q)
            return F.scaled_dot_product_attention(q[i], k[i], v[i], is_causal=True)
        return Case(run)

    def attention_gradient(self, size):
        q, k, v, g = self.attention_data(size)
        for a in (*q, *k, *v):
            a.requires_grad_()
        y = [F.scaled_dot_product_attention(*a, is_causal=True) for a in zip(q, k, v)]

        def run(i):
            i %= len(q)
            return torch.autograd.grad(y[i], (q[i], k[i], v[i]), g[i], retain_graph=True)
        return Case(run)

    # ---- training ----

    def mlp_step(self):
        """The loss is compiled, its gradient with it; so does who trains in PyTorch."""
        model = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(),
                              nn.Linear(256, 10)).to(self.device)
        x, y = self.normal(256, 784), torch.randint(0, 10, (256,), device=self.device)
        loss = self.compile(lambda x, y: F.cross_entropy(model(x), y), mode="reduce-overhead")
        optimizer = torch.optim.SGD(model.parameters(), 0.1, fused=True)

        def run(_):
            optimizer.zero_grad(set_to_none=True)
            loss(x, y).backward()
            optimizer.step()
        return Case(run)

    def gpt_step(self):
        o = self.sizes.gpt
        model = Gpt(**o).to(self.device)
        shape = (self.sizes.gpt_batch, o["context"])
        ids, targets = (torch.randint(0, o["vocabulary"], shape, device=self.device) for _ in range(2))
        loss = self.compile(lambda: F.cross_entropy(model(ids).flatten(0, 1), targets.flatten()))
        optimizer = torch.optim.AdamW(model.parameters(), 3e-4, fused=True)

        def run(_):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(self.device, BF16):
                value = loss()
            value.backward()
            optimizer.step()
        return Case(run, most=4)

    # ---- language models ----

    def decode(self, quantized=False):
        if quantized and self.device == "cpu":
            return None
        model = Decoder(self, quantized)
        step = self.compile(model.token, mode="reduce-overhead")
        x = self.normal(1, self.sizes.lm["hidden"], dtype=BF16)

        def run(_):
            with torch.no_grad():
                return step(x)
        return Case(run, most=32)

    def prefill(self):
        model = Decoder(self, False)
        x = self.normal(self.sizes.lm["context"], self.sizes.lm["hidden"], dtype=BF16)

        def run(_):
            with torch.no_grad():
                return model.read(x)
        return Case(run, most=4)


class GptBlock(nn.Module):
    def __init__(self, dims, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dims), nn.LayerNorm(dims)
        self.qkv, self.out = nn.Linear(dims, 3 * dims), nn.Linear(dims, dims)
        self.up, self.down = nn.Linear(dims, 4 * dims), nn.Linear(4 * dims, dims)

    def forward(self, x):
        batch, n, dims = x.shape
        q, k, v = (a.view(batch, n, self.heads, -1).transpose(1, 2) for a in self.qkv(self.norm1(x)).split(dims, -1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(batch, n, dims))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class Gpt(nn.Module):
    """GPT-2's architecture; autocast gives products in bfloat16 over parameters in float32."""

    def __init__(self, vocabulary, context, layers, dims, heads):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, dims), nn.Embedding(context, dims)
        self.blocks = nn.Sequential(*(GptBlock(dims, heads) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(dims), nn.Linear(dims, vocabulary, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, ids):
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        return self.head(self.norm(self.blocks(x)))


class PackedLinear(nn.Module):
    """4 bits in groups of 64, by PyTorch's own kernel."""

    def __init__(self, weight):  # (columns, rows), as x @ weight
        super().__init__()
        groups = weight.t().float().reshape(weight.shape[1], -1, 64)
        low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
        scale = ((high - low) / 15).clamp(min=1e-6)
        q = ((groups - low) / scale).round().clamp(0, 15).to(torch.uint8).reshape(weight.shape[1], -1)
        packed = q[:, ::2] << 4 | q[:, 1::2]
        # The kernel's value is (q - 8) * scale + zero.
        both = torch.cat([scale, low + 8 * scale], -1).transpose(0, 1).contiguous().to(BF16)
        self.register_buffer("packed", torch.ops.aten._convert_weight_to_int4pack(packed, 8))
        self.register_buffer("scales", both)

    def forward(self, x):
        return torch.ops.aten._weight_int4pack_mm(x, self.packed, 64, self.scales)


class Decoder(nn.Module):
    """Mistral 7B's shape; keys and values of the context are there already. Positions are not encoded, and
    nothing is written to the cache: less than what Lazuli's row does."""

    def __init__(self, library, quantized):
        super().__init__()
        for key, value in library.sizes.lm.items():
            setattr(self, key, value)
        self.size = self.hidden // self.heads
        keys = self.kv_heads * self.size

        def linear(columns, rows):
            w = library.normal(columns, rows, dtype=BF16, scale=0.02)
            return PackedLinear(w) if quantized else Linear(w)
        # Parameters and buffers of a module, so that a captured graph reads them in place.
        self.qkv = nn.ModuleList(linear(self.hidden, self.hidden + 2 * keys) for _ in range(self.layers))
        self.out = nn.ModuleList(linear(self.hidden, self.hidden) for _ in range(self.layers))
        self.gate_up = nn.ModuleList(linear(self.hidden, 2 * self.inner) for _ in range(self.layers))
        self.down = nn.ModuleList(linear(self.inner, self.hidden) for _ in range(self.layers))
        self.head = linear(self.hidden, self.vocabulary)
        self.norm = nn.Parameter(library.normal(self.hidden, dtype=BF16), requires_grad=False)
        for name in ("past_keys", "past_values"):
            self.register_buffer(name, library.normal(self.layers, 1, self.kv_heads, self.context, self.size, dtype=BF16))

    def rms(self, x):
        return F.rms_norm(x, (self.hidden,), self.norm)

    def feed_forward(self, layer, x):
        gate, up = self.gate_up[layer](self.rms(x)).chunk(2, -1)
        return x + self.down[layer](F.silu(gate) * up)

    def token(self, x):
        """Logits after one more token x (1, hidden)."""
        for i in range(self.layers):
            q = self.qkv[i](self.rms(x))[:, :self.hidden].view(1, self.kv_heads, -1, self.size)
            y = F.scaled_dot_product_attention(q, self.past_keys[i], self.past_values[i])
            x = x + self.out[i](y.reshape(1, self.hidden))
            x = self.feed_forward(i, x)
        return self.head(self.rms(x)).argmax(-1)

    def read(self, x):
        """Logits after all of x (positions, hidden)."""
        n = x.shape[0]
        for i in range(self.layers):
            heads = self.qkv[i](self.rms(x)).view(1, n, -1, self.size).transpose(1, 2)
            q, k, v = heads.split([self.heads, self.kv_heads, self.kv_heads], 1)
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            x = x + self.out[i](y.transpose(1, 2).reshape(n, self.hidden))
            x = self.feed_forward(i, x)
        return self.head(self.rms(x[-1:]))


class Linear(nn.Module):
    """x @ weight."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, x):
        return x @ self.weight
