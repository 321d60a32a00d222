"""Lazuli beside PyTorch and JAX on one GPU: a table and a JSON file.

    python3 benchmarks/gpu/run.py --program build/release/benchmarks/lazuli_gpu_bench --out build/gpu_bench
    python3 benchmarks/gpu/run.py --rows softmax,matmul --no-compile      while tuning
    python3 benchmarks/gpu/run.py --from gpu_bench.json --save            the table into docs/cuda.md

The programs take turns row by row, in one run. A row that fails, or takes longer than --row-limit, is marked and
the others go on; rows that would begin after --deadline are left out. The JSON file is written after each row.
"""

import argparse
import json
import queue
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
# What is to be beaten, in milliseconds: the last column of GPU_LIMITS.md (one H100 80GB, CUDA 13.0, PyTorch 2.11), which
# is the limit of the memory or of the arithmetic where a library comes near it. For matrix products it is 95% of
# the ceiling, for 4 bits 75% of the memory's bandwidth.
TO_BEAT = {
    "negative_f32": 0.182, "fma_f32": 0.27, "gelu_f32": 0.19, "exp_f32": 0.182, "sum_all_f32": 0.095,
    "sum_axis0_f32": 0.095, "sum_axis1_f32": 0.095, "sum_axis0_bf16": 0.050, "sum_axis1_bf16": 0.050,
    "softmax_f32": 0.183, "softmax_bf16": 0.095, "layer_norm_f32": 0.181, "layer_norm_bf16": 0.094,
    "rms_norm_f32": 0.187, "rms_norm_bf16": 0.094, "transpose_f32": 0.20, "transpose_bf16": 0.10,
    "argmax_f32": 0.10, "argmax_bf16": 0.05, "cumsum_f32": 0.20, "cumsum_bf16": 0.10, "random_normal": 0.12,
    "sort": 0.163, "take": 0.915, "scatter_add": 1.5, "matmul_bf16": 1.405 / 0.95, "matmul_f16": 1.462 / 0.95,
    "matmul_tf32": 2.961 / 0.95, "matmul_f32": 2.663 / 0.95, "matvec_bf16": 0.050, "conv_tf32": 0.084,
    "conv_grad_tf32": 0.20, "conv_bf16": 0.047, "conv_grad_bf16": 0.107, "attention_64": 0.329,
    "attention_grad_64": 0.998, "attention_128": 0.472, "attention_grad_128": 1.618, "small_add": 0.002,
    "mlp_step": 0.12, "mlp_step_compiled": 0.12, "gpt_step": 22.0, "decode_bf16": 5.5, "decode_q4": 1.87,
}
# Rows that have no peer of their own are compared with the same one.
SAME_AS = {"mlp_step_compiled": "mlp_step"}
FIRST = ("gpt_step", "decode", "mlp_step")
WAYS = {"lazuli": "Lazuli", "torch_eager": "PyTorch eager", "torch_compile": "torch.compile", "jax_jit": "JAX"}


class Program:
    """A benchmark program that waits for rows on its standard input; started again if it dies."""

    def __init__(self, name, command, greets):
        self.name, self.command, self.greets = name, command, greets
        self.facts = {}
        self.start()

    def start(self):
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.lines = queue.Queue()
        threading.Thread(target=self.read, args=(self.process.stdout, self.lines), daemon=True).start()
        self.greeted = not self.greets

    @staticmethod
    def read(stream, lines):
        for line in stream:
            if line.startswith("{"):
                lines.put(line)
        lines.put(None)

    def answer(self, limit):
        try:
            line = self.lines.get(timeout=limit)
        except queue.Empty:
            self.process.kill()
            return {"error": f"took more than {limit:.0f} s"}
        return json.loads(line) if line else {"error": "the program died"}

    def greet(self):
        """The program's version and device; None if it does not start."""
        if not self.greeted:
            self.facts = self.answer(120)
            self.greeted = True
        return None if "error" in self.facts else self.facts

    def run(self, request, limit):
        if self.process.poll() is not None:
            self.start()
            if self.greet() is None:
                return {"error": "the program does not start"}
        try:
            self.process.stdin.write(request + "\n")
            self.process.stdin.flush()
        except OSError:
            return {"error": "the program died"}
        result = self.answer(limit)
        if "error" in result and self.process.poll() is None and "took more" in result["error"]:
            self.process.wait()
        return result

    def close(self):
        try:
            self.process.stdin.close()
            self.process.wait(10)
        except (OSError, subprocess.TimeoutExpired):
            self.process.kill()


def text_of(result):
    if not result or "missing" in result:
        return "–"
    if "error" in result:
        return "failed"
    ms = result["ms"]
    value, unit = (ms * 1e3, " µs") if ms < 0.01 else (ms, "")
    return (f"{value:.0f}" if value >= 100 else f"{value:#.3g}") + unit


def table(all_):
    rows, facts = all_["rows"], all_["facts"]
    ways = [w for w in WAYS if any(w in r for r in rows.values())]
    head = ["milliseconds"] + [WAYS[w] for w in ways] + ["to beat", "PyTorch's best / Lazuli"]
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    missed, slower, errors = 0, 0, []
    for name, row in rows.items():
        results = {w: row.get(w) for w in ways}
        for w in ways:
            if not results[w] or "missing" in results[w]:
                results[w] = rows.get(SAME_AS.get(name), {}).get(w) if w != "lazuli" else results[w]
            if results[w] and "error" in results[w]:
                errors.append(f"{name} ({WAYS[w]}): {results[w]['error']}")
        ms = {w: r["ms"] for w, r in results.items() if r and "ms" in r}
        own, beat = ms.get("lazuli"), TO_BEAT.get(name)
        best = min((ms[w] for w in ms if w.startswith("torch")), default=None)
        cells = [row.get("what", name)] + [text_of(results[w]) for w in ways]
        if results.get("lazuli") and "gb_s" in results["lazuli"] and name.startswith("decode"):
            cells[1] += f" ({results['lazuli']['gb_s'] / 1e3:.2f} TB/s)"
        cells.append("–" if beat is None else text_of({"ms": beat}) + (" ✗" if own and own > beat else ""))
        cells.append("–" if not own or not best else f"{best / own:.2f}")
        missed += bool(own and beat and own > beat)
        slower += bool(own and best and own > best)
        lines.append("| " + " | ".join(cells) + " |")
    versions = ", ".join(f"{k} {v}" for k, v in facts["versions"].items())
    note = (f"{facts['device']}, {facts['date']}; {versions}. Medians of wall clock over runs with one wait at the end, "
            f"inputs rotating over copies larger than the L2 cache, the programs in turn row by row. ✗: misses what "
            f"is to be beaten ({missed} rows); {slower} rows are slower than PyTorch's best.")
    text = "\n".join(lines) + "\n\n" + note + "\n"
    if errors:
        text += "\nFailed: " + "; ".join(errors) + ".\n"
    return text


def save(text):
    file = ROOT / "docs/cuda.md"
    begin, end = "<!-- written by benchmarks/gpu/run.py -->\n", "<!-- end of benchmarks -->"
    old = file.read_text()
    if begin not in old:
        sys.exit(f"run.py: {file} lacks the line {begin.strip()}")
    file.write_text(re.sub(re.escape(begin) + ".*?" + re.escape(end), lambda _: begin + text + end, old, flags=re.S))


def commit():
    try:
        done = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty"], capture_output=True, text=True)
        return done.stdout.strip() or "(no commit)"
    except OSError:
        return "(no commit)"


def measure(options):
    listed = subprocess.run([options.program, "--list"], capture_output=True, text=True, check=True).stdout
    titles = dict(line.split(None, 1) for line in listed.splitlines())
    rows = [r for r in titles if any(r.startswith(p) for p in options.rows.split(","))]
    if not rows:
        sys.exit(f"run.py: no such row; the rows are: {' '.join(titles)}")
    # What takes long comes first: it is not what a deadline should cut off.
    rows.sort(key=lambda r: not r.startswith(FIRST))
    begin = time.monotonic()
    programs = {"lazuli": Program("lazuli", [options.program, "--serve", "--device", options.device], False)}
    versions = {"Lazuli": commit()}
    device = options.device
    if not options.no_peers:
        small = ["--small"] if options.small else []
        for library in ("torch", "jax"):
            command = [options.python, HERE / "peers.py", library, "--serve", "--device", options.device, *small]
            programs[library] = Program(library, command, True)
        for library in ("torch", "jax"):
            facts = programs[library].greet()
            if facts is None:
                print(f"run.py: {library} does not start; its columns are left out", file=sys.stderr)
                del programs[library]
            else:
                versions[{"torch": "PyTorch", "jax": "JAX"}[library]] = facts["version"]
                device = facts["device"] if device != "cpu" else device
    steps = [("lazuli", "lazuli", "{}")]
    steps += [(f"{library}_{mode}", library, "{} " + mode)
              for library, modes in (("torch", ("eager", "compile")), ("jax", ("jit",))) if library in programs
              for mode in modes if not (options.no_compile and mode == "compile")]
    result = {"facts": {"device": device, "date": time.strftime("%Y-%m-%d"), "versions": versions}, "rows": {}}
    options.out.mkdir(parents=True, exist_ok=True)
    for k, row in enumerate(rows):
        if time.monotonic() - begin > options.deadline:
            print(f"run.py: {options.deadline:.0f} s are over: not run: {' '.join(rows[k:])}", file=sys.stderr)
            break
        found = {"what": titles[row]}
        for way, program, request in steps:
            rounds = [programs[program].run(request.format(row), options.row_limit) for _ in range(options.rounds)]
            good = sorted((r for r in rounds if "ms" in r), key=lambda r: r["ms"])
            found[way] = good[len(good) // 2] if good else rounds[0]
        result["rows"][row] = found
        result["rows"] = {r: result["rows"][r] for r in titles if r in result["rows"]}  # the program's order
        (options.out / "gpu_bench.json").write_text(json.dumps(result, indent=1) + "\n")
        cells = [f"{w} {text_of(found[w])}" + (f" [{found[w]['error'][:120]}]" if "error" in found[w] else "")
                 for w, _, _ in steps]
        print(f"[{time.monotonic() - begin:5.1f} s] {row}: " + ", ".join(cells), flush=True)
    for program in programs.values():
        program.close()
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], epilog=__doc__.partition("\n\n")[2],
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="", help="names or beginnings of names, with commas between (default: all)")
    parser.add_argument("--program", type=lambda p: Path(p).resolve(), default=ROOT / "build/release/benchmarks/lazuli_gpu_bench")
    parser.add_argument("--python", default=sys.executable, help="the one with PyTorch and JAX")
    parser.add_argument("--out", type=Path, default=ROOT / "build/gpu_bench")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--deadline", type=float, default=225, help="seconds after which no row begins")
    parser.add_argument("--row-limit", type=float, default=75, help="seconds that a row of one program may take")
    parser.add_argument("--no-peers", action="store_true", help="Lazuli alone")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out, which is slow to compile")
    parser.add_argument("--device", default="gpu", choices=("gpu", "cpu"))
    parser.add_argument("--small", action="store_true", help="tiny peers: does everything run?")
    parser.add_argument("--from", dest="source", type=Path, help="read this JSON file instead of measuring")
    parser.add_argument("--save", action="store_true", help="write the table into docs/cuda.md")
    options = parser.parse_args()
    result = json.loads(options.source.read_text()) if options.source else measure(options)
    text = table(result)
    print("\n" + text)
    if not options.source:
        (options.out / "gpu_bench.md").write_text(text)
        print(f"Written to {options.out}/gpu_bench.md and .json")
    if options.save:
        save(text)


if __name__ == "__main__":
    main()
