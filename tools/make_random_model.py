#!/usr/bin/env python3
"""Writes a GGUF file with random weights in the shape of a real model, to measure speed and memory with.

    pip install gguf numpy
    python3 tools/make_random_model.py mistral-7b.gguf            # 4.1 GB, Q4_0, the shape of Mistral 7B v0.3
    python3 tools/make_random_model.py small.gguf --layers 4      # 0.7 GB

Rows repeat a few megabytes of random blocks, so that this takes no longer than the disk. The text it generates
is noise.
"""
import argparse

import gguf
import numpy as np

POOL_ROWS = 512


def blocks(rng, rows, columns, scale):
    """(rows, bytes of a row) of Q4_0: a float16 scale and 16 bytes of nibbles for 32 weights."""
    pool = min(rows, POOL_ROWS)
    b = np.empty((pool, columns // 32, 18), np.uint8)
    b[..., 2:] = rng.integers(0, 256, (pool, columns // 32, 16), dtype=np.uint8)
    d = (scale * rng.uniform(0.5, 1.5, (pool, columns // 32, 1))).astype(np.float16)
    b[..., :2] = d.view(np.uint8)
    b = b.reshape(pool, -1)
    return np.concatenate([b] * (-(-rows // pool)))[:rows]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--hidden", type=int, default=4096)
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--kv-heads", type=int, default=8)
    parser.add_argument("--intermediate", type=int, default=14336)
    parser.add_argument("--vocabulary", type=int, default=32768)
    o = parser.parse_args()
    rng = np.random.default_rng(1)
    head = o.hidden // o.heads
    w = gguf.GGUFWriter(o.file, "llama", use_temp_file=True)
    w.add_name("random")
    w.add_block_count(o.layers)
    w.add_context_length(32768)
    w.add_embedding_length(o.hidden)
    w.add_feed_forward_length(o.intermediate)
    w.add_head_count(o.heads)
    w.add_head_count_kv(o.kv_heads)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_rope_freq_base(1e6)
    w.add_rope_dimension_count(head)
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)]
    tokens += [f"▁{i}" for i in range(o.vocabulary - len(tokens))]
    w.add_tokenizer_model("llama")
    w.add_token_list(tokens)
    w.add_token_scores([0.0] * len(tokens))
    w.add_token_types([2, 3, 3] + [6] * 256 + [1] * (len(tokens) - 259))
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    w.add_unk_token_id(0)

    def matrix(name, rows, columns):
        w.add_tensor(name + ".weight", blocks(rng, rows, columns, 0.2 / columns**0.5),
                     raw_dtype=gguf.GGMLQuantizationType.Q4_0)

    def norm(name):
        w.add_tensor(name + ".weight", np.ones(o.hidden, np.float32))

    matrix("token_embd", o.vocabulary, o.hidden)
    for i in range(o.layers):
        at = f"blk.{i}."
        norm(at + "attn_norm")
        matrix(at + "attn_q", o.hidden, o.hidden)
        matrix(at + "attn_k", o.kv_heads * head, o.hidden)
        matrix(at + "attn_v", o.kv_heads * head, o.hidden)
        matrix(at + "attn_output", o.hidden, o.hidden)
        norm(at + "ffn_norm")
        matrix(at + "ffn_gate", o.intermediate, o.hidden)
        matrix(at + "ffn_up", o.intermediate, o.hidden)
        matrix(at + "ffn_down", o.hidden, o.intermediate)
    norm("output_norm")
    matrix("output", o.vocabulary, o.hidden)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file(progress=True)
    w.close()


if __name__ == "__main__":
    main()
