"""Writes nn.json: what Python MLX computes for layers, losses, optimizers and schedules.

Run with a Python that has mlx installed: python tests/data/make_nn.py. Made with mlx 0.32.4, CPU.
"""

import json
import math
import os

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_flatten, tree_map

mx.set_default_device(mx.cpu)


def values(shape, seed, low=-1.0, high=1.0, dtype=mx.float32):
    """Numbers that look random and are the same everywhere."""
    n = math.prod(shape)
    x = [((i * 7919 + seed * 104729 + 13) % 1009) / 1008 for i in range(n)]
    return mx.array([low + (high - low) * v for v in x]).reshape(shape).astype(dtype)


def dump(a):
    def plain(v):
        return [plain(x) for x in v] if isinstance(v, list) else v

    flat = plain(a.reshape(-1).tolist())
    if mx.issubdtype(a.dtype, mx.floating):
        flat = [float("%.9g" % v) for v in flat]
    return {"shape": list(a.shape), "dtype": str(a.dtype).split(".")[-1], "data": flat}


def dump_tree(tree):
    return {k: dump(v) for k, v in tree_flatten(tree)}


def set_weights(model):
    flat = tree_flatten(model.parameters())
    model.load_weights(
        [(k, values(v.shape, i + 1, 0.5, 1.5) if k.endswith("running_var") else values(v.shape, i + 1) * 0.5)
         for i, (k, v) in enumerate(flat)]
    )


def layer_case(name, model, inputs, train=True, call=None):
    """Output, gradients of mean(output^2) by parameters and by the first input, buffers after the call."""
    set_weights(model)
    model.train(train)
    weights = dump_tree(model.parameters())
    call = call or (lambda m, *a: m(*a))

    def outputs(m, *a):
        out = call(m, *a)
        return out if isinstance(out, tuple) else (out,)

    def loss(params, first):
        model.update(params)
        return sum(mx.mean(mx.square(o)) for o in outputs(model, first, *inputs[1:]))

    params = model.trainable_parameters()
    out = outputs(model, *inputs)
    after = dump_tree(model.parameters())
    model.load_weights([(k, mx.array(v["data"]).reshape(v["shape"])) for k, v in weights.items()])
    if mx.issubdtype(inputs[0].dtype, mx.floating):
        grads, input_grad = mx.grad(loss, argnums=(0, 1))(params, inputs[0])
        input_grad = dump(input_grad)
    else:
        grads, input_grad = mx.grad(loss)(params, inputs[0]), None
    return {
        "name": name,
        "train": train,
        "weights": weights,
        "inputs": [None if x is None else dump(x) for x in inputs],
        "outputs": [dump(o) for o in out],
        "grads": dump_tree(grads),
        "input_grad": input_grad,
        "after": after,
    }


def layers():
    x2 = values((4, 6), 50)
    image = values((2, 5, 6, 4), 51)
    sequence = values((2, 7, 4), 52)
    volume = values((1, 4, 5, 4, 2), 53)
    causal = nn.MultiHeadAttention.create_additive_causal_mask(7)
    keep = values((7, 7), 54) > -0.5
    memory = values((2, 5, 4), 55)
    C = layer_case
    return [
        C("Linear", nn.Linear(6, 3), [x2]),
        C("Linear_no_bias", nn.Linear(6, 3, bias=False), [values((2, 3, 6), 56)]),
        C("Bilinear", nn.Bilinear(6, 5, 3), [x2, values((4, 5), 57)]),
        C("Embedding", nn.Embedding(5, 3), [mx.array([[0, 4, 1], [1, 1, 2]])]),
        C("Embedding_as_linear", nn.Embedding(5, 6), [x2], call=lambda m, x: m.as_linear(x)),
        C("Conv1d", nn.Conv1d(4, 3, 3, stride=2, padding=1), [sequence]),
        C("Conv1d_dilated", nn.Conv1d(4, 6, 2, dilation=2, groups=2, bias=False), [sequence]),
        C("Conv2d", nn.Conv2d(4, 3, 3, padding=1), [image]),
        C("Conv2d_options", nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2),
          [image]),
        C("Conv3d", nn.Conv3d(2, 3, 2, stride=2, padding=1), [volume]),
        C("ConvTranspose1d", nn.ConvTranspose1d(4, 3, 3, stride=2, padding=1, output_padding=1), [sequence]),
        C("ConvTranspose2d", nn.ConvTranspose2d(4, 3, (3, 2), stride=2, padding=1), [image]),
        C("ConvTranspose3d", nn.ConvTranspose3d(2, 3, 2, stride=2), [volume]),
        C("LayerNorm", nn.LayerNorm(6), [x2]),
        C("LayerNorm_no_bias", nn.LayerNorm(6, eps=1e-3, bias=False), [x2]),
        C("LayerNorm_plain", nn.LayerNorm(6, affine=False), [x2]),
        C("RMSNorm", nn.RMSNorm(6), [x2]),
        C("GroupNorm", nn.GroupNorm(2, 4), [image]),
        C("GroupNorm_pytorch", nn.GroupNorm(2, 4, pytorch_compatible=True), [image]),
        C("InstanceNorm", nn.InstanceNorm(4, affine=True), [image]),
        C("InstanceNorm_plain", nn.InstanceNorm(4), [sequence]),
        C("BatchNorm", nn.BatchNorm(4), [image]),
        C("BatchNorm_eval", nn.BatchNorm(4), [image], train=False),
        C("BatchNorm_2d", nn.BatchNorm(6, momentum=0.3), [x2]),
        C("BatchNorm_plain", nn.BatchNorm(4, affine=False, track_running_stats=False), [sequence]),
        C("RNN", nn.RNN(4, 3), [sequence]),
        C("RNN_relu", nn.RNN(4, 3, bias=False, nonlinearity=nn.relu), [sequence]),
        C("RNN_hidden", nn.RNN(4, 3), [sequence, values((2, 3), 60)]),
        C("GRU", nn.GRU(4, 3), [sequence]),
        C("GRU_hidden", nn.GRU(4, 3, bias=False), [sequence, values((2, 3), 61)]),
        C("LSTM", nn.LSTM(4, 3), [sequence]),
        C("LSTM_hidden", nn.LSTM(4, 3, bias=False), [sequence, values((2, 3), 62), values((2, 3), 63)]),
        C("PReLU", nn.PReLU(6), [x2]),
        C("MultiHeadAttention", nn.MultiHeadAttention(4, 2, bias=True), [sequence, memory, memory]),
        C("MultiHeadAttention_causal", nn.MultiHeadAttention(4, 2), [sequence, sequence, sequence, causal]),
        C("MultiHeadAttention_bool", nn.MultiHeadAttention(4, 2), [sequence, sequence, sequence, keep]),
        C("MultiHeadAttention_dims", nn.MultiHeadAttention(4, 2, query_input_dims=4, key_input_dims=3,
          value_input_dims=5, value_dims=6, value_output_dims=2),
          [sequence, values((2, 5, 3), 64), values((2, 5, 5), 65)]),
        C("TransformerEncoder", nn.TransformerEncoder(2, 4, 2, mlp_dims=8), [sequence, causal]),
        C("TransformerEncoder_last", nn.TransformerEncoder(1, 4, 2, norm_first=False, activation=nn.gelu),
          [sequence, causal]),
        C("TransformerDecoder", nn.TransformerDecoder(2, 4, 2, mlp_dims=8), [sequence, memory, causal, None]),
        C("TransformerDecoder_last", nn.TransformerDecoder(1, 4, 2, mlp_dims=8, norm_first=False),
          [sequence, memory, causal, None]),
        C("Transformer", nn.Transformer(4, 2, 1, 1, mlp_dims=8), [memory, sequence, None, causal, None]),
        C("Sequential", nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)), [x2]),
        C("MaxPool1d", nn.MaxPool1d(2), [sequence]),
        C("MaxPool2d", nn.MaxPool2d(3, stride=2, padding=1), [image]),
        C("MaxPool3d", nn.MaxPool3d(2), [volume]),
        C("AvgPool1d", nn.AvgPool1d(3, stride=1, padding=1), [sequence]),
        C("AvgPool2d", nn.AvgPool2d((2, 3)), [image]),
        C("AvgPool3d", nn.AvgPool3d(2, stride=1), [volume]),
    ]


def activations():
    x = mx.concatenate([values((36,), 70, -4, 4), mx.array([0.5, -0.5, 3.0, -3.0])]).reshape(4, 10)
    f = {
        "relu": nn.relu, "relu2": nn.relu2, "relu6": nn.relu6, "leaky_relu": nn.leaky_relu, "elu": nn.elu,
        "celu": lambda x: nn.celu(x, 1.5), "selu": nn.selu, "sigmoid": nn.sigmoid,
        "log_sigmoid": nn.log_sigmoid, "silu": nn.silu, "mish": nn.mish, "softplus": nn.softplus,
        "softsign": nn.softsign, "softshrink": nn.softshrink, "hard_shrink": nn.hard_shrink,
        "hard_tanh": nn.hard_tanh, "hardswish": nn.hardswish, "step": nn.step, "tanh": nn.tanh,
        "gelu": nn.gelu, "gelu_approx": nn.gelu_approx, "gelu_fast_approx": nn.gelu_fast_approx,
        "glu": nn.glu, "softmax": nn.softmax, "log_softmax": nn.log_softmax, "softmin": nn.softmin,
    }
    def grad(g):
        return mx.grad(lambda y: mx.sum(g(y) * mx.cos(mx.arange(g(y).size).reshape(g(y).shape))))(x)
    return {"x": dump(x), "y": {k: dump(g(x)) for k, g in f.items()},
            "grad": {k: dump(grad(g)) for k, g in f.items() if k != "step"}}


def losses():
    L = nn.losses
    logits, labels = values((5, 4), 80, -3, 3), mx.array([0, 3, 1, 1, 2])
    p, t = values((5, 4), 81, -2, 2), values((5, 4), 82, -2, 2)
    unit, target = values((5, 4), 83, 0.05, 0.95), (values((5, 4), 84) > 0).astype(mx.float32)
    probs = mx.softmax(t, axis=-1)
    w1, w2 = values((5,), 85, 0, 1), values((5, 4), 86, 0, 1)
    signs = mx.where(target > 0, 1.0, -1.0)
    logp, logq = nn.log_softmax(p), nn.log_softmax(t)
    var = values((5, 4), 87, 0.1, 2)
    cases = {
        "cross_entropy": L.cross_entropy(logits, labels),
        "cross_entropy_mean": L.cross_entropy(logits, labels, reduction="mean"),
        "cross_entropy_smooth": L.cross_entropy(logits, labels, label_smoothing=0.1, reduction="sum"),
        "cross_entropy_probs": L.cross_entropy(logits, probs),
        "cross_entropy_weights": L.cross_entropy(logits, labels, weights=w1),
        "cross_entropy_axis": L.cross_entropy(logits.T, labels, axis=0, label_smoothing=0.2),
        "bce": L.binary_cross_entropy(logits, target),
        "bce_probs": L.binary_cross_entropy(unit, target, with_logits=False, reduction="none"),
        "bce_clipped": L.binary_cross_entropy(target, 1 - target, with_logits=False),
        "bce_weights": L.binary_cross_entropy(logits, target, weights=w2, reduction="sum"),
        "l1": L.l1_loss(p, t), "l1_none": L.l1_loss(p, t, reduction="none"),
        "mse": L.mse_loss(p, t), "mse_sum": L.mse_loss(p, t, reduction="sum"),
        "nll": L.nll_loss(logp, labels), "nll_axis": L.nll_loss(logp.T, labels, axis=0, reduction="mean"),
        "gaussian_nll": L.gaussian_nll_loss(p, t, var),
        "gaussian_nll_full": L.gaussian_nll_loss(p, t, var, full=True, reduction="none"),
        "kl_div": L.kl_div_loss(logp, logq), "kl_div_axis": L.kl_div_loss(logp, logq, axis=0),
        "smooth_l1": L.smooth_l1_loss(p, t), "smooth_l1_beta": L.smooth_l1_loss(p, t, beta=0.5, reduction="none"),
        "triplet": L.triplet_loss(p, t, unit), "triplet_p": L.triplet_loss(p, t, unit, p=3, margin=0.3, axis=0),
        "hinge": L.hinge_loss(p, signs), "huber": L.huber_loss(p, t),
        "huber_delta": L.huber_loss(p, t, delta=0.5, reduction="mean"), "log_cosh": L.log_cosh_loss(p, t),
        "cosine": L.cosine_similarity_loss(p, t), "cosine_axis": L.cosine_similarity_loss(p, t, axis=0),
        "margin": L.margin_ranking_loss(p, t, signs),
        "margin_mean": L.margin_ranking_loss(p, t, signs, margin=0.5, reduction="mean"),
    }
    inputs = {"logits": logits, "labels": labels, "p": p, "t": t, "unit": unit, "target": target,
              "probs": probs, "w1": w1, "w2": w2, "signs": signs, "logp": logp, "logq": logq, "var": var}
    return {"inputs": {k: dump(v) for k, v in inputs.items()}, "values": {k: dump(v) for k, v in cases.items()}}


def optimizers():
    params = {"fc": {"weight": values((4, 3), 90), "bias": values((3,), 91)},
              "conv": {"weight": values((2, 2, 3), 92)}}
    grads = [tree_map(lambda p, i=i: values(p.shape, 100 + i + p.size), params) for i in range(5)]
    warm = optim.join_schedules([optim.linear_schedule(0, 0.1, 2), optim.cosine_decay(0.1, 4, 0.01)], [2])
    cases = {
        "SGD": lambda: optim.SGD(0.1),
        "SGD_momentum": lambda: optim.SGD(0.1, momentum=0.9, weight_decay=0.01, dampening=0.1),
        "SGD_nesterov": lambda: optim.SGD(0.1, momentum=0.9, nesterov=True),
        "SGD_schedule": lambda: optim.SGD(warm),
        "RMSprop": lambda: optim.RMSprop(0.01), "Adagrad": lambda: optim.Adagrad(0.1),
        "AdaDelta": lambda: optim.AdaDelta(0.5), "Adam": lambda: optim.Adam(0.01),
        "Adam_corrected": lambda: optim.Adam(0.01, betas=[0.8, 0.95], bias_correction=True),
        "AdamW": lambda: optim.AdamW(0.01, weight_decay=0.1), "Adamax": lambda: optim.Adamax(0.01),
        "AdamW_corrected": lambda: optim.AdamW(warm, bias_correction=True),
        "Lion": lambda: optim.Lion(0.01, weight_decay=0.1), "Adafactor": lambda: optim.Adafactor(),
        "Adafactor_options": lambda: optim.Adafactor(0.01, relative_step=False, beta_1=0.9, weight_decay=0.1,
                                                     scale_parameter=False),
        "Adafactor_warmup": lambda: optim.Adafactor(warmup_init=True),
        "Muon": lambda: optim.Muon(0.02), "Muon_plain": lambda: optim.Muon(0.02, nesterov=False, weight_decay=0),
        "Multi": lambda: optim.MultiOptimizer([optim.Muon(0.02), optim.AdamW(0.01)],
                                              [lambda k, g: k.endswith("weight")]),
    }
    out = {}
    for name, make in cases.items():
        opt, p = make(), params
        for g in grads:
            p = opt.apply_gradients(g, p)
        out[name] = {"params": dump_tree(p), "state": dump_tree(opt.state)}
    clipped, norm = optim.clip_grad_norm(grads[0], 0.5)
    return {"params": dump_tree(params), "grads": [dump_tree(g) for g in grads], "cases": out,
            "clipped": dump_tree(clipped), "norm": dump(norm)}


def schedules():
    s = {
        "exponential": optim.exponential_decay(0.1, 0.9), "step": optim.step_decay(0.1, 0.5, 3),
        "cosine": optim.cosine_decay(0.1, 8), "cosine_end": optim.cosine_decay(0.1, 5, 0.02),
        "linear": optim.linear_schedule(0, 0.1, 5),
        "join": optim.join_schedules([optim.linear_schedule(0, 0.1, 4), optim.cosine_decay(0.1, 5)], [4]),
    }
    return {k: [float("%.9g" % mx.array(f(mx.array(i, mx.uint64))).item()) for i in range(12)] for k, f in s.items()}


def seeded():
    """Initial weights after a seed: the same draws in the same order."""
    def weights(make):
        mx.random.seed(7)
        return dump_tree(make().parameters())
    return {
        "Linear": weights(lambda: nn.Linear(4, 3)), "Embedding": weights(lambda: nn.Embedding(4, 3)),
        "Conv2d": weights(lambda: nn.Conv2d(2, 3, 2)), "LSTM": weights(lambda: nn.LSTM(2, 2)),
        "GRU": weights(lambda: nn.GRU(2, 2)), "MultiHeadAttention": weights(lambda: nn.MultiHeadAttention(4, 2)),
    }


if __name__ == "__main__":
    here = os.path.dirname(os.path.abspath(__file__))
    with open(os.path.join(here, "nn.json"), "w") as f:
        json.dump({"layers": layers(), "activations": activations(), "losses": losses(), "optimizers": optimizers(),
                   "schedules": schedules(), "seeded": seeded()}, f, separators=(",", ":"))
        f.write("\n")
