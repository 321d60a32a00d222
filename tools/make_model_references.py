#!/usr/bin/env python3
"""Makes tests/data/models: tiny models with random weights in the layouts that people publish, and the logits that
mlx-lm's own implementation of the architecture gives for a row of tokens.

    pip install mlx-lm gguf numpy safetensors; python3 tools/make_model_references.py

Layouts: NAME.gguf with the keys, names and row orders of llama.cpp's converter; NAME/ as Hugging Face publishes it;
NAME-mistral/ as Mistral does. Weights are float32, so that only the order of additions differs. Where mlx-lm knows no
sliding window (Mistral, Qwen 2, Gemma 2, Phi-3) the mask of the layer is replaced by one here.
"""
import json
import struct
from pathlib import Path

import gguf
import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.models.base import create_causal_mask
from safetensors.numpy import save_file

OUT = Path(__file__).resolve().parent.parent / "tests/data/models"
TOKENS = [3, 17, 5, 5, 30, 0, 21, 9, 14, 2]
VOCABULARY = 40
LETTERS = ["<unk>", "<s>", "</s>", "▁"] + [chr(ord("a") + i) for i in range(26)]
LETTERS += [f"<{i}>" for i in range(VOCABULARY - len(LETTERS))]
CHAT = ("{{ bos_token }}{% for m in messages %}{{ m.role[0] }}{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}a{% endif %}")

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}


class Windowed:
    """A layer of mlx-lm with a sliding window in place of its mask."""

    def __init__(self, layer, window):
        self.layer, self.window = layer, window

    def __getattr__(self, name):
        return getattr(self.layer, name)

    def __call__(self, x, mask=None, cache=None):
        return self.layer(x, create_causal_mask(x.shape[1], window_size=self.window), cache)


def build(mlx_name, config, seed, gemma=False, windows=None, quantization=None):
    """Random weights by mlx-lm's names, and the logits. `quantization`: as in config.json."""
    import importlib
    m = importlib.import_module("mlx_lm.models." + mlx_name)
    model = m.Model(m.ModelArgs.from_dict(config))
    if mlx_name == "gemma3_text":
        model.sanitize({})  # ties the output to the embedding
    rng = np.random.default_rng(seed)
    weights = {}
    for name, value in tree_flatten(model.parameters()):
        norm = name.endswith("norm.weight") or "layernorm" in name or ".ln_" in name
        w = rng.standard_normal(value.shape).astype(np.float32) * (0.3 if value.ndim > 1 else 0.2)
        weights[name] = w + 1 if norm and name.endswith("weight") and not gemma else w
    model.update(tree_unflatten([(k, mx.array(v)) for k, v in weights.items()]))
    if quantization:
        defaults = {k: v for k, v in quantization.items() if not isinstance(v, dict)}
        nn.quantize(model, **defaults,
                    class_predicate=lambda path, m: hasattr(m, "to_quantized") and quantization.get(path, True))
        weights = {k: np.array(v) for k, v in tree_flatten(model.parameters())}
    for i, window in enumerate(windows or []):
        if window:
            model.model.layers[i] = Windowed(model.model.layers[i], window)
    return weights, reference(model)


def reference(model):
    logits = np.array(model(mx.array([TOKENS])))[0]
    return [[round(float(x), 5) for x in row] for row in logits]


# ---- Hugging Face ----

def write_hugging_face(name, config, weights):
    out = {}
    for key, value in weights.items():
        if ".switch_mlp." in key and "quantization" not in config:  # one matrix for each expert
            before, part = key.split(".switch_mlp.")
            part = part.removesuffix(".weight")
            if config["model_type"] == "mixtral":
                part = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}[part]
            for e in range(len(value)):
                out[f"{before}.experts.{e}.{part}.weight"] = value[e]
        elif config["model_type"] == "gpt2":  # Conv1D: the other way round
            matrix = value.ndim == 2 and ".h." in key
            out[key.removeprefix("model.")] = value.T if matrix else value
        else:
            out[key] = value
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: np.ascontiguousarray(v) for k, v in out.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def write_tokenizer_json(name):
    """What lies beside the weights of a model that chats."""
    folder = OUT / name
    letters = ["Ġ" if t == "▁" else t for t in LETTERS]
    added = [{"id": i, "content": letters[i], "single_word": False, "lstrip": False, "rstrip": False,
              "normalized": False, "special": True} for i in (0, 1, 2)]
    tokenizer = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
                 "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                                   "use_regex": True},
                 "post_processor": None, "decoder": {"type": "ByteLevel", "add_prefix_space": True,
                                                     "trim_offsets": True, "use_regex": True},
                 "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
                           "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                           "vocab": {t: i for i, t in enumerate(letters)}, "merges": []}}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}) + "\n")
    (folder / "chat_template.jinja").write_text(CHAT)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 39]}) + "\n")


# ---- Mistral ----

def write_mistral(name, params, weights):
    names = {"model.embed_tokens": "tok_embeddings", "model.norm": "norm", "lm_head": "output"}
    parts = {"input_layernorm": "attention_norm", "post_attention_layernorm": "ffn_norm",
             "self_attn.q_proj": "attention.wq", "self_attn.k_proj": "attention.wk", "self_attn.v_proj": "attention.wv",
             "self_attn.o_proj": "attention.wo", "mlp.gate_proj": "feed_forward.w1", "mlp.down_proj": "feed_forward.w2",
             "mlp.up_proj": "feed_forward.w3", "block_sparse_moe.gate": "feed_forward.gate"}
    experts = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}
    out = {}
    for key, value in weights.items():
        key = key.removesuffix(".weight")
        if key in names:
            out[names[key] + ".weight"] = value
            continue
        _, _, layer, part = key.split(".", 3)
        if ".switch_mlp." in part:
            for e in range(len(value)):
                w = experts[part.split(".")[-1]]
                out[f"layers.{layer}.feed_forward.experts.{e}.{w}.weight"] = value[e]
            continue
        heads = {"self_attn.q_proj": params["n_heads"], "self_attn.k_proj": params["n_kv_heads"]}.get(part)
        if heads:
            value = traditional(value, heads, params["head_dim"])
        out[f"layers.{layer}.{parts[part]}.weight"] = value
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: np.ascontiguousarray(v) for k, v in out.items()}, folder / "consolidated.safetensors")
    (folder / "params.json").write_text(json.dumps(params, indent=2) + "\n")


def write_sentencepiece(name):
    """A SentencePiece model (a protobuf) of letters."""
    def field(number, data):
        return bytes([number << 3 | 2, len(data)]) + data

    pieces = b""
    for i, letter in enumerate(LETTERS):
        kind = {0: 2, 1: 3, 2: 3}.get(i, 1)
        pieces += field(1, field(1, letter.encode()) + b"\x15" + struct.pack("<f", 0.0) + bytes([0x18, kind]))
    trainer = bytes([3 << 3, 2])  # BPE
    normalizer = bytes([3 << 3, 0, 4 << 3, 0])  # no prefix, no removal of spaces
    (OUT / name / "tokenizer.model").write_bytes(pieces + field(2, trainer) + field(3, normalizer))


# ---- GGUF ----

def traditional(x, heads, head_dim):
    """Rows (half, pair) -> (pair, half) within each head."""
    return x.reshape(heads, 2, head_dim // 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)


GGUF_NAMES = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
              "lm_head.weight": "output.weight", "model.wte.weight": "token_embd.weight",
              "model.wpe.weight": "position_embd.weight", "model.ln_f.weight": "output_norm.weight",
              "model.ln_f.bias": "output_norm.bias"}
GGUF_PARTS = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "self_attn.qkv_proj": "attn_qkv",
    "mlp.gate_up_proj": "ffn_up", "block_sparse_moe.gate": "ffn_gate_inp", "mlp.gate": "ffn_gate_inp",
    "block_sparse_moe.switch_mlp.gate_proj": "ffn_gate_exps", "block_sparse_moe.switch_mlp.up_proj": "ffn_up_exps",
    "block_sparse_moe.switch_mlp.down_proj": "ffn_down_exps", "mlp.switch_mlp.gate_proj": "ffn_gate_exps",
    "mlp.switch_mlp.up_proj": "ffn_up_exps", "mlp.switch_mlp.down_proj": "ffn_down_exps",
    "ln_1": "attn_norm", "ln_2": "ffn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output",
    "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"}
GEMMA_PARTS = {"post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm",
               "post_feedforward_layernorm": "post_ffw_norm"}


def write_gguf(file, arch, config, weights, extra=None, tensors=None):
    c = config
    gpt2, gemma = arch == "gpt2", arch.startswith("gemma")
    hidden = c["n_embd"] if gpt2 else c["hidden_size"]
    heads = c["n_head"] if gpt2 else c["num_attention_heads"]
    kv_heads = heads if gpt2 else c["num_key_value_heads"]
    head_dim = c.get("head_dim") or hidden // heads
    w = gguf.GGUFWriter(OUT / file, arch)
    w.add_block_count(c["n_layer"] if gpt2 else c["num_hidden_layers"])
    w.add_context_length(c["n_positions"] if gpt2 else c["max_position_embeddings"])
    w.add_embedding_length(hidden)
    w.add_feed_forward_length(4 * hidden if gpt2 else c["intermediate_size"])
    w.add_head_count(heads)
    if gpt2:
        w.add_layer_norm_eps(1e-5)
    else:
        w.add_head_count_kv(kv_heads)
        w.add_layer_norm_rms_eps(1e-5)
        w.add_rope_freq_base(c["rope_theta"])
        w.add_rope_dimension_count(head_dim)
        if head_dim != hidden // heads:
            w.add_key_length(head_dim)
            w.add_value_length(head_dim)
    if extra:
        extra(w)

    # A SentencePiece vocabulary of letters, so that the files are whole.
    w.add_tokenizer_model("llama")
    w.add_token_list(LETTERS)
    w.add_token_scores([0.0] * len(LETTERS))
    w.add_token_types([2, 3, 3] + [1] * (len(LETTERS) - 3))
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    w.add_unk_token_id(0)
    w.add_add_bos_token(True)
    w.add_add_space_prefix(False)
    w.add_chat_template(CHAT)

    parts = GGUF_PARTS | (GEMMA_PARTS if gemma else {})
    for name, value in weights.items():
        if gemma and name.endswith("norm.weight"):
            value = value + 1  # the converter adds it
        if name in GGUF_NAMES:
            w.add_tensor(GGUF_NAMES[name], value)
            continue
        _, _, layer, rest = name.split(".", 3)
        part, kind = rest.rsplit(".", 1)
        if arch == "llama" and part in ("self_attn.q_proj", "self_attn.k_proj"):
            value = traditional(value, heads if part == "self_attn.q_proj" else kv_heads, head_dim)
        w.add_tensor(f"blk.{layer}.{parts[part]}.{kind}", np.ascontiguousarray(value))
    for name, value in (tensors or {}).items():
        w.add_tensor(name, np.array(value, np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def llama3_factors(head_dim):
    """rope_freqs.weight as llama.cpp's converter computes it."""
    factors = []
    for i in range(head_dim // 2):
        freq = 1.0 / 10000.0 ** (2 * i / head_dim)
        wavelength, old = 2 * np.pi / freq, LLAMA3["original_max_position_embeddings"]
        low, high = LLAMA3["low_freq_factor"], LLAMA3["high_freq_factor"]
        if wavelength < old / high:
            factors.append(1.0)
        elif wavelength > old / low:
            factors.append(LLAMA3["factor"])
        else:
            smooth = (old / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / LLAMA3["factor"] + smooth))
    return factors


# ---- the models ----

def config_of(model_type, layers, hidden=16, heads=4, kv_heads=2, intermediate=12, **more):
    return dict(model_type=model_type, hidden_size=hidden, num_hidden_layers=layers, intermediate_size=intermediate,
                num_attention_heads=heads, num_key_value_heads=kv_heads, rms_norm_eps=1e-5, vocab_size=VOCABULARY,
                rope_theta=10000.0, max_position_embeddings=512, tie_word_embeddings=False) | more


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    references = {}

    def add(name, logits, files, **more):
        references[name] = {"files": files, "tokens": TOKENS, "logits": logits} | more

    # Wide enough for blocks of 32 columns.
    c = config_of("llama", 2, hidden=32, intermediate=64)
    weights, logits = build("llama", c, 1)
    write_gguf("llama.gguf", "llama", c, weights)
    add("llama", logits, ["llama.gguf"])

    c = config_of("llama", 1, heads=2, kv_heads=1, tie_word_embeddings=True, rope_scaling=LLAMA3)
    weights, logits = build("llama", c, 2)
    write_gguf("llama3.gguf", "llama", c, weights, tensors={"rope_freqs.weight": llama3_factors(8)})
    write_hugging_face("llama3", c, weights)
    add("llama3", logits, ["llama3.gguf", "llama3"])

    # Every layer has a window of 4.
    c = config_of("mistral", 2, sliding_window=4)
    weights, logits = build("llama", {k: v for k, v in c.items() if k != "sliding_window"}, 5, windows=[4, 4])
    write_hugging_face("mistral", c, weights)
    write_tokenizer_json("mistral")
    write_mistral("mistral-mistral", dict(dim=16, n_layers=2, head_dim=4, hidden_dim=12, n_heads=4, n_kv_heads=2,
                                          norm_eps=1e-5, sliding_window=4, vocab_size=VOCABULARY), weights)
    write_sentencepiece("mistral-mistral")
    write_gguf("mistral.gguf", "llama", c, weights, lambda w: w.add_sliding_window(4))
    add("mistral", logits, ["mistral", "mistral-mistral", "mistral.gguf"])

    c = config_of("mixtral", 2, intermediate=8, num_local_experts=4, num_experts_per_tok=2, rope_theta=1e6)
    weights, logits = build("mixtral", c, 6)
    write_hugging_face("mixtral", c, weights)
    write_mistral("mixtral-mistral", dict(dim=16, n_layers=2, head_dim=4, hidden_dim=8, n_heads=4, n_kv_heads=2,
                                          norm_eps=1e-5, vocab_size=VOCABULARY,
                                          moe=dict(num_experts=4, num_experts_per_tok=2)), weights)
    write_gguf("mixtral.gguf", "llama", c, weights, lambda w: (w.add_expert_count(4), w.add_expert_used_count(2)))
    add("mixtral", logits, ["mixtral", "mixtral-mistral", "mixtral.gguf"])

    c = config_of("qwen2", 2, tie_word_embeddings=True)
    weights, logits = build("qwen2", c, 3)
    write_hugging_face("qwen2", c, weights)
    write_gguf("qwen2.gguf", "qwen2", c, weights)
    add("qwen2", logits, ["qwen2", "qwen2.gguf"])
    # The first layer sees everything.
    _, logits = build("qwen2", c, 3, windows=[0, 4])
    add("qwen2-window", logits, ["qwen2"],
        config={"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1})

    c = config_of("qwen3", 1, head_dim=8)
    weights, logits = build("qwen3", c, 4)
    write_hugging_face("qwen3", c, weights)
    write_gguf("qwen3.gguf", "qwen3", c, weights)
    add("qwen3", logits, ["qwen3", "qwen3.gguf"])
    for kind, scaling in {"linear": {"type": "linear", "factor": 2.5},
                          "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128,
                                   "beta_fast": 16.0, "beta_slow": 0.5}}.items():
        _, logits = build("qwen3", c | {"rope_scaling": scaling}, 4)
        add("qwen3-" + kind, logits, ["qwen3"], config={"rope_scaling": scaling})
    # Dynamic NTK, beyond a context of 6: the base that transformers' _compute_dynamic_ntk_parameters gives for a text of
    # this length (mlx-lm takes the number of heads for the length). Only for a text that is read at once.
    scaling, context, dim = {"rope_type": "dynamic", "factor": 4.0}, 6, 8
    base = 10000.0 * (scaling["factor"] * len(TOKENS) / context - (scaling["factor"] - 1)) ** (dim / (dim - 2))
    _, logits = build("qwen3", c | {"rope_theta": base}, 4)
    add("qwen3-dynamic", logits, ["qwen3"], whole=True,
        config={"rope_scaling": scaling, "max_position_embeddings": context})

    c = config_of("qwen3_moe", 2, head_dim=8, num_experts=4, num_experts_per_tok=2, decoder_sparse_step=2,
                  mlp_only_layers=[], moe_intermediate_size=8, norm_topk_prob=True)
    weights, logits = build("qwen3_moe", c, 9)
    write_hugging_face("qwen3_moe", c, weights)
    write_gguf("qwen3moe.gguf", "qwen3moe", c, weights,
               lambda w: (w.add_expert_count(4), w.add_expert_used_count(2), w.add_expert_feed_forward_length(8)))
    add("qwen3_moe", logits, ["qwen3_moe", "qwen3moe.gguf"])
    _, logits = build("qwen3_moe", c | {"norm_topk_prob": False}, 9)
    add("qwen3_moe-unnormalized", logits, ["qwen3_moe"], config={"norm_topk_prob": False})

    c = config_of("gemma2", 2, head_dim=4, query_pre_attn_scalar=4, attn_logit_softcapping=2.0,
                  final_logit_softcapping=3.0, sliding_window=4)
    weights, logits = build("gemma2", c, 10, gemma=True, windows=[4, 0])
    del c["tie_word_embeddings"]
    write_hugging_face("gemma2", c, weights)
    write_gguf("gemma2.gguf", "gemma2", c, weights,
               lambda w: (w.add_sliding_window(4), w.add_attn_logit_softcapping(2.0),
                          w.add_final_logit_softcapping(3.0)))
    add("gemma2", logits, ["gemma2", "gemma2.gguf"])

    c = config_of("gemma3_text", 7, heads=2, kv_heads=1, head_dim=4, intermediate=8, query_pre_attn_scalar=4,
                  sliding_window=4, rope_theta=1e6, rope_local_base_freq=1e4)
    weights, logits = build("gemma3_text", c, 11, gemma=True)
    del c["tie_word_embeddings"]
    write_hugging_face("gemma3", c, weights)
    write_gguf("gemma3.gguf", "gemma3", c, weights, lambda w: w.add_sliding_window(4))
    add("gemma3", logits, ["gemma3", "gemma3.gguf"])
    scaling = {"rope_type": "linear", "factor": 8.0}  # as the larger ones have; of the global layers only
    _, logits = build("gemma3_text", c | {"rope_scaling": scaling}, 11, gemma=True)
    add("gemma3-linear", logits, ["gemma3"], config={"rope_scaling": scaling})

    short, long = [1.0, 1.1], [1.5, 3.0]
    c = config_of("phi3", 2, sliding_window=4, original_max_position_embeddings=64,
                  rope_scaling={"type": "longrope", "short_factor": short, "long_factor": long})
    weights, logits = build("phi3", c, 12, windows=[4, 4])
    write_hugging_face("phi3", c, weights)

    def phi3_keys(w):
        w.add_sliding_window(4)
        w.add_rope_scaling_orig_ctx_len(64)
        w.add_rope_scaling_attn_factors(float(np.sqrt(1 + np.log(512 / 64) / np.log(64))))

    write_gguf("phi3.gguf", "phi3", c, weights, phi3_keys,
               {"rope_factors_long.weight": long, "rope_factors_short.weight": short})
    add("phi3", logits, ["phi3", "phi3.gguf"])
    # Phi-4-mini turns a part of the features only.
    partial = {"partial_rotary_factor": 0.5, "rope_scaling": None}
    _, logits = build("phi3", c | partial, 12, windows=[4, 4])
    add("phi3-partial", logits, ["phi3"], config=partial)

    c = dict(model_type="gpt2", n_ctx=64, n_embd=8, n_head=2, n_layer=2, n_positions=64, layer_norm_epsilon=1e-5,
             vocab_size=VOCABULARY)
    weights, logits = build("gpt2", c, 13)
    write_hugging_face("gpt2", c, weights)
    write_gguf("gpt2.gguf", "gpt2", c, weights)
    add("gpt2", logits, ["gpt2", "gpt2.gguf"])

    # What mlx-lm's convert writes: quantized matrices, experts stacked.
    quantization = {"group_size": 32, "bits": 4, "lm_head": {"group_size": 32, "bits": 8}}
    c = config_of("qwen3_moe", 2, hidden=32, intermediate=32, head_dim=8, num_experts=4, num_experts_per_tok=2,
                  decoder_sparse_step=2, mlp_only_layers=[], moe_intermediate_size=32, norm_topk_prob=True)
    weights, logits = build("qwen3_moe", c, 14, quantization=quantization)
    write_hugging_face("mlx-affine", c | {"quantization": quantization}, weights)
    add("mlx-affine", logits, ["mlx-affine"])
    quantization = {"group_size": 32, "bits": 4, "mode": "mxfp4"}
    c = config_of("llama", 1, hidden=32, intermediate=32, tie_word_embeddings=True)
    weights, logits = build("llama", c, 15, quantization=quantization)
    write_hugging_face("mlx-mxfp4", c | {"quantization": quantization}, weights)
    add("mlx-mxfp4", logits, ["mlx-mxfp4"])

    (OUT / "logits.json").write_text(json.dumps(references, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
