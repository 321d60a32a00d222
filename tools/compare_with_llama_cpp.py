#!/usr/bin/env python3
"""Compares lazuli with llama.cpp on one GGUF file: greedy texts token by token, and perplexity.

    LAZULI_LLAMA_PYTHON=... $LAZULI_LLAMA_PYTHON tools/compare_with_llama_cpp.py MODEL.gguf [--lazuli build/release/apps/lazuli/lazuli]

Run it with a python that has llama-cpp-python (benchmarks/language_models.py makes one). Some minutes.
"""
import argparse
import subprocess

import llama_cpp
import numpy as np

PROMPTS = ["The capital of France is", "Once upon a time", "Water boils at"]
TOKENS, WINDOW = 60, 512


def greedy(model, prompt):
    ids = model.tokenize(prompt.encode(), add_bos=False)
    model.reset()
    new = list(ids)
    out = []
    for _ in range(TOKENS):
        model.eval(new)
        new = [int(np.ctypeslib.as_array(llama_cpp.llama_get_logits(model.ctx), shape=(model.n_vocab(),)).argmax())]
        if new[0] == model.token_eos():
            break
        out += new
    return out


def perplexity(file, text):
    model = llama_cpp.Llama(file, n_ctx=WINDOW, n_batch=WINDOW, logits_all=True, verbose=False)
    ids = model.tokenize(text.encode(), add_bos=False)
    total, scored = 0.0, 0
    for begin in range(0, len(ids) - WINDOW + 1, WINDOW):
        window = ids[begin:begin + WINDOW]
        model.reset()
        model.eval(window)
        logits = np.asarray(model.scores[:WINDOW], dtype=np.float64)[WINDOW // 2:-1]
        targets = np.array(window[WINDOW // 2 + 1:])
        top = logits.max(axis=1)
        total += (np.log(np.exp(logits - top[:, None]).sum(axis=1)) + top - logits[np.arange(len(targets)), targets]).sum()
        scored += len(targets)
    return float(np.exp(total / scored))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--lazuli", default="build/release/apps/lazuli/lazuli")
    parser.add_argument("--lazuli-model", help="another file for lazuli, such as the same weights as F32")
    parser.add_argument("--text", default="/usr/share/common-licenses/Apache-2.0")
    args = parser.parse_args()
    run = lambda *options: subprocess.run([args.lazuli, *options], check=True, capture_output=True, text=True).stdout
    mine = args.lazuli_model or args.model
    model = llama_cpp.Llama(args.model, n_ctx=512, verbose=False)
    for prompt in PROMPTS:
        theirs = greedy(model, prompt)
        text = run("generate", "-q", "-m", mine, "-p", prompt, "-n", str(TOKENS))
        ours = model.tokenize(text.rstrip("\n").encode(), add_bos=False)
        equal = 0
        while equal < min(len(ours), len(theirs)) and ours[equal] == theirs[equal]:
            equal += 1
        print(f"{prompt!r}: the first {equal} of {len(theirs)} tokens are equal", flush=True)
    ours = float(run("perplexity", "-m", mine, "-f", args.text))
    theirs = perplexity(args.model, open(args.text).read())
    print(f"perplexity of {args.text}: {ours:.3f}, llama.cpp {theirs:.3f} ({100 * (ours / theirs - 1):+.2f}%)")


if __name__ == "__main__":
    main()
