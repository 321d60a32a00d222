#!/usr/bin/env python3
"""Runs the benchmark programs row by row and writes one table.

    python3 benchmarks/run.py [--build build/release] [--out build/bench] [--rounds 3] [row or prefix...]

The programs take turns within a row, so that the ratios of a row come from one stretch of time on one
machine; each figure is the median of the rounds' medians. Writes OUT/benchmarks.md and OUT/benchmarks.json;
--save also copies the table to docs/benchmarks.md and into README.md.

MLX and JAX (and PyTorch, if its python has it) come from the python named by LAZULI_PEERS_PYTHON, or from a
virtual environment that this script makes once in ~/.cache/lazuli/peers.
"""

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent

# name: (what it is, the target as a multiple of the limit or None)
ROWS = {
    "matmul_f32_1024": ("matmul float32, 1024³", 1.25),
    "matmul_f32_2048": ("matmul float32, 2048³", 1.25),
    "matmul_bf16_1024": ("matmul bfloat16, 1024³", 1.25),
    "matmul_f16_1024": ("matmul float16, 1024³", 1.25),
    "vecmat": ("x[1,4096] @ W[4096,4096]", 1.25),
    "vecmat_t": ("x[1,4096] @ W[4096,4096]ᵀ", 1.25),
    "fma": ("a*b+a, 16M", 1.25),
    "gelu": ("gelu (erf), 16M", 1.25),
    "exp": ("exp, 16M", 1.25),
    "tanh": ("tanh, 16M", 1.25),
    "sum_all": ("sum of all, 16M", 1.25),
    "sum_axis0": ("sum over axis 0, 4096²", 1.25),
    "sum_axis1": ("sum over axis 1, 4096²", 1.25),
    "softmax": ("softmax over the last axis, 4096²", 1.25),
    "layer_norm": ("layer_norm, 4096²", 1.25),
    "attention": ("attention, causal, 16 heads × 1024 × 64", 1.25),
    "q4_vecmat": ("4-bit weights, groups of 64: x[1,4096] @ W[4096,4096]ᵀ", 1.25),
    "q4_matmul": ("4-bit weights, groups of 64: x[512,4096] @ W[4096,4096]ᵀ", 1.25),
    "argmax": ("argmax over the last axis, 4096²", 1.25),
    "cumsum": ("cumsum over the last axis, 4096²", None),
    "transpose": ("transpose and copy, 4096²", 1.25),
    "conv2d_forward": ("conv2d [16,56,56,64] * [64,3,3,64]", 1.25),
    "conv2d_input_gradient": ("… gradient of its input", 1.25),
    "conv2d_weight_gradient": ("… gradient of its weight", 1.25),
    "sort": ("sort, 1024 × 4096", None),
    "take": ("take 65,536 rows of 32,000 × 512", None),
    "scatter_add": ("scatter-add 65,536 rows into 32,000 × 512", None),
    "random_normal": ("random normal, 16M", 1.25),
    "mlp_step": ("training step, MLP 784-256-256-10, batch 256", 1.25),
    "chain": ("chain of 10,000 adds on 8 elements, per add", None),
    "add_eval": ("one add and its eval, 8 elements", None),
}
TITLES = {"limit": "limit", "lazuli": "Lazuli", "mlx": "MLX", "jax": "JAX", "torch": "PyTorch"}


class Program:
    """One benchmark program, waiting for rows on its standard input."""

    def __init__(self, name, command, environment):
        self.name, self.command = name, command
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        env=environment)

    def row(self, name):
        try:
            self.process.stdin.write(name + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            sys.exit(f"run.py: {' '.join(map(str, self.command))} died on the row {name}")
        return json.loads(line)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def peers_python():
    """A python with MLX and JAX; None if there is none and none can be made."""
    named = os.environ.get("LAZULI_PEERS_PYTHON")
    if named:
        return named
    folder = Path.home() / ".cache/lazuli/peers"
    python = folder / "bin/python"
    if not (folder / "complete").exists():
        print(f"Installing MLX and JAX into {folder} (once; LAZULI_PEERS_PYTHON names another python)")
        made = subprocess.run([sys.executable, "-m", "venv", folder]).returncode == 0 and subprocess.run(
            [python, "-m", "pip", "install", "-q", "numpy", "mlx[cpu]", "jax[cpu]"]).returncode == 0
        if not made:
            print("run.py: no peers: that failed", file=sys.stderr)
            return None
        (folder / "complete").touch()
    return python


def installed(python, library, environment):
    try:
        done = subprocess.run([python, HERE / "peers.py", library, "--version"], capture_output=True, text=True,
                              env=environment)
    except OSError as e:
        sys.exit(f"run.py: {python}, named by LAZULI_PEERS_PYTHON, does not run: {e.strerror}")
    return done.stdout.strip() if done.returncode == 0 else None


def wait_until_quiet(limit=20):
    """Waits while something else uses more than a tenth of a core, at most `limit` seconds."""
    def busy():
        with open("/proc/stat") as file:
            user, nice, system, _, _, irq, softirq = map(int, file.readline().split()[1:8])
        return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")

    end = time.monotonic() + limit
    while time.monotonic() < end:
        before = busy()
        time.sleep(0.3)
        if busy() - before < 0.04:
            return


def processor():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def text_of(ms):
    """Milliseconds with three digits that count; microseconds below a hundredth of one."""
    if ms is None:
        return "–"
    value, unit = (ms * 1e3, " µs") if ms < 0.1 else (ms, "")
    return f"{value:.{max(0, 2 - len(str(int(value))) + 1)}f}{unit}"


def table(results, versions, facts):
    names = [n for n in ("limit", "lazuli", "mlx", "jax", "torch") if n in versions]
    peers = [n for n in names if n not in ("limit", "lazuli")]
    head = ["milliseconds"] + [TITLES[n] + (f" {versions[n]}" if versions[n] else "") for n in names]
    head += ["Lazuli / limit"] + [f"{TITLES[n]} / Lazuli" for n in peers]
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    noisy = False
    for row, (title, target) in ROWS.items():
        if row not in results:
            continue
        ms = {n: results[row].get(n, {}).get("ms") for n in names}
        cells = [title] + [text_of(ms[n]) for n in names]
        ratio = ms["lazuli"] / ms["limit"] if ms.get("lazuli") and ms.get("limit") else None
        cells.append("–" if ratio is None else f"{ratio:.2f}" + (" ✗" if target and ratio > target else ""))
        cells += [f"{ms[n] / ms['lazuli']:.1f}" if ms.get(n) and ms.get("lazuli") else "–" for n in peers]
        if any(results[row].get(n, {}).get("others", 0) > 0.1 for n in names):
            cells[0] += " *"
            noisy = True
        lines.append("| " + " | ".join(cells) + " |")
    notes = [f"{facts['processor']}, {facts['threads']} threads, {facts['date']}; medians of one run in which the "
             f"programs take turns row by row (`make bench`)."]
    if any("✗" in line for line in lines):
        notes.append("✗: misses its target of 1.25 times the limit.")
    if noisy:
        notes.append("\\*: something else kept the machine busy: not a measurement.")
    return "\n".join(lines) + "\n\n" + " ".join(notes) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("rows", nargs="*", help="names or prefixes of rows (default: all)")
    parser.add_argument("--build", type=Path, default=ROOT / "build/release")
    parser.add_argument("--out", type=Path, default=ROOT / "build/bench")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="cores to use (default: all)")
    parser.add_argument("--no-peers", action="store_true", help="only Lazuli and the limit: a quick look while tuning")
    parser.add_argument("--save", action="store_true", help="copy the table into docs/ and README.md")
    options = parser.parse_args()

    rows = [r for r in ROWS if not options.rows or any(r.startswith(p) for p in options.rows)]
    if not rows:
        sys.exit(f"run.py: no such row; the rows are: {' '.join(ROWS)}")
    cores = sorted(os.sched_getaffinity(0))[:options.threads]
    os.sched_setaffinity(0, cores)  # every program inherits it
    environment = dict(os.environ, OMP_NUM_THREADS=str(len(cores)))
    # A user sets none of these; the limit program finds its own.
    for name in ("OPENBLAS_CORETYPE", "OPENBLAS_NUM_THREADS", "OMP_WAIT_POLICY"):
        environment.pop(name, None)

    commands = {"limit": [options.build / "benchmarks/lazuli_limits"],
                "lazuli": [options.build / "benchmarks/lazuli_bench"]}
    versions = {"limit": "", "lazuli": ""}
    python = None if options.no_peers else peers_python()
    for library in ("mlx", "jax", "torch") if python else ():
        if version := installed(python, library, environment):
            commands[library] = [python, HERE / "peers.py", library]
            versions[library] = version
    programs = [Program(n, c + ["--serve"], environment) for n, c in commands.items()]

    results = {}
    for k, row in enumerate(rows):
        found = {p.name: [] for p in programs}
        for _ in range(options.rounds):
            wait_until_quiet()
            for program in programs:
                found[program.name].append(program.row(row))
        results[row] = {}
        for name, rounds in found.items():
            good = [r for r in rounds if "ms" in r]
            if not good:
                results[row][name] = rounds[0]
                continue
            middle = statistics.median_low(r["ms"] for r in good)
            chosen = next(r for r in good if r["ms"] == middle)
            results[row][name] = chosen | {"rounds_ms": [r["ms"] for r in good]}
        cells = [f"{n} " + (text_of(r["ms"]) if "ms" in r else r.get("error", "–")) for n, r in results[row].items()]
        print(f"[{k + 1}/{len(rows)}] {ROWS[row][0]}: " + ", ".join(cells), flush=True)
    for program in programs:
        program.close()

    facts = {"processor": processor(), "threads": len(cores), "date": time.strftime("%Y-%m-%d"),
             "kernel": platform.release(), "versions": versions}
    text = table(results, versions, facts)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "benchmarks.md").write_text(text)
    (options.out / "benchmarks.json").write_text(json.dumps({"facts": facts, "rows": results}, indent=1) + "\n")
    print("\n" + text + f"\nWritten to {options.out}/benchmarks.md and .json")
    if options.save:
        save(text)


def save(text):
    (ROOT / "docs/benchmarks.md").write_text(
        "# Benchmarks\n\nWritten by `python3 benchmarks/run.py --save` (`make bench SAVE=1`). *limit* is the best "
        "of oneDNN, OpenBLAS\nand a loop written for exactly that row (`benchmarks/limits.cpp`), measured in the "
        "same run.\n\n" + text)
    readme = ROOT / "README.md"
    begin, end = "<!-- benchmarks: written by make bench -->\n", "<!-- end of benchmarks -->"
    pattern = re.escape(begin) + ".*?" + re.escape(end)
    readme.write_text(re.sub(pattern, lambda _: begin + text + end, readme.read_text(), flags=re.S))


if __name__ == "__main__":
    main()
