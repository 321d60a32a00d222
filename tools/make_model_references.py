#!/usr/bin/env python3
"""Makes tests/data/models: tiny models with random weights as GGUF files, and the logits that mlx-lm's own
implementation of the architecture gives for a row of tokens.

    pip install mlx-lm gguf numpy; python3 tools/make_model_references.py

Weights are float32, so that only the order of additions differs. llama.cpp's converter puts the rows of q and k
of "llama" models in another order (traditional rope); this script does the same.
"""
import json
from pathlib import Path

import gguf
import mlx.core as mx
import numpy as np

OUT = Path(__file__).resolve().parent.parent / "tests/data/models"
TOKENS = [3, 17, 5, 5, 30, 0, 21, 9, 14, 2]
HIDDEN, HEADS, KV_HEADS, INTERMEDIATE, VOCABULARY = 32, 4, 2, 64, 40

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}


def module(name):
    import importlib
    return importlib.import_module("mlx_lm.models." + name)


def make(file, arch, mlx_name, layers, seed, tied, extra, head_dim=None, rope_freqs=False):
    m = module(mlx_name)
    base = dict(model_type=mlx_name, hidden_size=HIDDEN, num_hidden_layers=layers, intermediate_size=INTERMEDIATE,
                num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, rms_norm_eps=1e-5, vocab_size=VOCABULARY,
                rope_theta=10000.0, max_position_embeddings=512, tie_word_embeddings=tied)
    if head_dim:
        base["head_dim"] = head_dim
    args = m.ModelArgs.from_dict(base | extra)
    model = m.Model(args)
    head_dim = head_dim or HIDDEN // HEADS
    rng = np.random.default_rng(seed)
    from mlx.utils import tree_flatten, tree_unflatten
    weights = {}
    for name, value in tree_flatten(model.parameters()):
        scale = 0.3 if value.ndim > 1 else 0.2
        w = rng.standard_normal(value.shape).astype(np.float32) * scale
        weights[name] = w + 1 if name.endswith("norm.weight") or "layernorm" in name else w
    model.update(tree_unflatten([(k, mx.array(v)) for k, v in weights.items()]))
    logits = np.array(model(mx.array([TOKENS])))[0]

    w = gguf.GGUFWriter(OUT / file, arch)
    w.add_block_count(layers)
    w.add_context_length(512)
    w.add_embedding_length(HIDDEN)
    w.add_feed_forward_length(INTERMEDIATE)
    w.add_head_count(HEADS)
    w.add_head_count_kv(KV_HEADS)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_rope_freq_base(10000.0)
    w.add_rope_dimension_count(head_dim)
    if head_dim != HIDDEN // HEADS:
        w.add_key_length(head_dim)
        w.add_value_length(head_dim)

    # A SentencePiece vocabulary of letters, so that the files are whole.
    letters = ["<unk>", "<s>", "</s>", "▁"] + [chr(ord("a") + i) for i in range(26)]
    letters += [f"<{i}>" for i in range(VOCABULARY - len(letters))]
    w.add_tokenizer_model("llama")
    w.add_token_list(letters)
    w.add_token_scores([0.0] * len(letters))
    w.add_token_types([2, 3, 3] + [1] * (len(letters) - 3))
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    w.add_unk_token_id(0)
    w.add_add_bos_token(True)
    w.add_add_space_prefix(False)
    w.add_chat_template("{{ bos_token }}{% for m in messages %}{{ m.role[0] }}{{ m.content }}{% endfor %}"
                        "{% if add_generation_prompt %}a{% endif %}")

    def traditional(x, heads):  # rows (half, pair) -> (pair, half) within each head
        if arch != "llama":
            return x
        return x.reshape(heads, 2, head_dim // 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)

    names = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
             "lm_head.weight": "output.weight"}
    parts = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
             "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
             "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate",
             "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
    for name, value in weights.items():
        if name in names:
            w.add_tensor(names[name], value)
            continue
        _, _, layer, rest = name.split(".", 3)
        part, kind = rest.rsplit(".", 1)
        if part == "self_attn.q_proj":
            value = traditional(value, HEADS)
        if part == "self_attn.k_proj":
            value = traditional(value, KV_HEADS)
        w.add_tensor(f"blk.{layer}.{parts[part]}.{kind}", np.ascontiguousarray(value))
    if rope_freqs:  # as llama.cpp's converter computes them
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
        w.add_tensor("rope_freqs.weight", np.array(factors, np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return {"tokens": TOKENS, "logits": [[float(f"{x:.7g}") for x in row] for row in logits]}


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    references = {
        "llama.gguf": make("llama.gguf", "llama", "llama", 2, 1, False, {}),
        "llama3.gguf": make("llama3.gguf", "llama", "llama", 1, 2, True, {"rope_scaling": LLAMA3}, rope_freqs=True),
        "qwen2.gguf": make("qwen2.gguf", "qwen2", "qwen2", 1, 3, True, {}),
        "qwen3.gguf": make("qwen3.gguf", "qwen3", "qwen3", 1, 4, False, {}, head_dim=16),
    }
    (OUT / "logits.json").write_text(json.dumps(references, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
