#!/usr/bin/env python3
"""Measures prefill and decode of a GGUF file with Lazuli and llama.cpp in turns, and writes one table.

    python3 benchmarks/language_models.py [--model FILE] [--rounds 3] [--save]

llama.cpp comes from PyPI's llama-cpp-python, compiled on this machine by pip (some minutes, once), into
~/.cache/lazuli/llama; LAZULI_LLAMA_PYTHON names a python that has it. Both use all cores, the same file and the same
tokens: a prompt of 512, then 127 tokens generated greedily after one. Best on an idle machine.
"""
import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- speed: begin -->", "<!-- speed: end -->"


def llama_python():
    if named := os.environ.get("LAZULI_LLAMA_PYTHON"):
        return Path(named)
    folder = Path.home() / ".cache/lazuli/llama"
    python = folder / "bin/python"
    if not (folder / "complete").exists():
        print(f"Compiling llama.cpp into {folder} (once; LAZULI_LLAMA_PYTHON names another python)")
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "llama-cpp-python"], check=True)
        (folder / "complete").touch()
    return python


def llama_serve(model, threads):
    """In llama.cpp's python: one measurement, as JSON."""
    import time

    import llama_cpp
    import numpy as np
    m = llama_cpp.Llama(model, n_ctx=1024, n_threads=threads, n_threads_batch=threads, n_batch=512, verbose=False)
    vocabulary = m.n_vocab()
    prompt = [(i * 7919 + 13) % vocabulary for i in range(512)]
    m.eval(prompt)  # pages and caches warm
    m.reset()
    start = time.perf_counter()
    m.eval(prompt)
    prefill = 512 / (time.perf_counter() - start)
    m.reset()
    m.eval(prompt[:1])
    token = 1
    start = time.perf_counter()
    for _ in range(127):
        m.eval([token])
        logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits(m.ctx), shape=(vocabulary,))
        token = int(logits.argmax())
    print(json.dumps({"prefill": prefill, "decode": 127 / (time.perf_counter() - start),
                      "version": llama_cpp.__version__}))


def last_json(command, environment):
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{command[0]} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main():
    if len(sys.argv) == 4 and sys.argv[1] == "--llama":
        return llama_serve(sys.argv[2], int(sys.argv[3]))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=Path, default=ROOT / "build/release")
    parser.add_argument("--model", help="GGUF file (default: SmolLM2, fetched)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--save", action="store_true", help="put the table into docs/language_models.md")
    options = parser.parse_args()
    model = options.model or subprocess.run([ROOT / "scripts/fetch_smollm2.sh"], check=True, capture_output=True,
                                            text=True).stdout.strip()
    threads = len(os.sched_getaffinity(0))
    environment = dict(os.environ, OMP_NUM_THREADS=str(threads))
    python = llama_python()
    found = {"Lazuli": [], "llama.cpp": []}
    for r in range(options.rounds):
        found["Lazuli"].append(last_json([options.build / "apps/lazuli/lazuli", "bench", "-m", model, "--rounds", "3",
                                          "--prompt", "512", "--tokens", "128", "--json"], environment))
        found["llama.cpp"].append(last_json([python, __file__, "--llama", model, str(threads)], environment))
        print(f"round {r + 1}: " + ", ".join(
            f"{n} {v[-1]['prefill']:.0f} and {v[-1]['decode']:.0f} tokens/s" for n, v in found.items()), flush=True)
    median = {n: {k: statistics.median(x[k] for x in v) for k in ("prefill", "decode")} for n, v in found.items()}
    version = found["llama.cpp"][0]["version"]
    lines = [f"| tokens per second, {Path(model).name} | Lazuli | llama.cpp | ratio |", "|---|---:|---:|---:|"]
    for key, name in (("prefill", "prompt of 512"), ("decode", "generation")):
        ours, theirs = median["Lazuli"][key], median["llama.cpp"][key]
        lines.append(f"| {name} | {ours:.0f} | {theirs:.0f} | {ours / theirs:.2f} |")
    lines += ["", f"{threads} threads, llama-cpp-python {version}, medians of {options.rounds} rounds in turns, "
              f"{datetime.date.today()} (`benchmarks/language_models.py`)."]
    table = "\n".join(lines)
    print("\n" + table)
    if options.save:
        path = ROOT / "docs/language_models.md"
        text = path.read_text()
        begin, end = text.index(BEGIN) + len(BEGIN), text.index(END)
        path.write_text(text[:begin] + "\n" + table + "\n" + text[end:])


if __name__ == "__main__":
    main()
