"""The rows of the GPU benchmark in PyTorch or JAX, timed as measure.h does.

    peers.py torch --rows softmax,layer_norm --mode compile
    peers.py jax --serve              lines "ROW MODE" on standard input, as they come (what run.py does)
    peers.py torch --small --device cpu        tiny sizes: does every row run?

A sample is the wall clock of n runs submitted one after another and one wait at the end, divided by n; inputs
rotate over copies that exceed the L2 cache together. The rows are in torch_rows.py and jax_rows.py, written as
a user of the library would write them; modes of torch are eager and compile, of jax jit.
"""

import argparse
import gc
import importlib
import json
import os
import time

MODES = {"torch": ("eager", "compile"), "jax": ("jit",)}
SAMPLE_SECONDS, ROW_SECONDS, SAMPLES = 0.012, 0.25, 7
LEAST_RUNS = 8  # of a sample: so many that the GPU is kept fed


class Sizes:
    """Extents of the rows; small ones try the program."""

    def __init__(self, small=False):
        self.small = small
        self.many = 1 << 12 if small else 64 << 20
        self.side = 64 if small else 8192
        self.sort = (16, 64) if small else (1024, 4096)
        self.table, self.rows, self.columns = (100, 200, 16) if small else (320_000, 655_360, 512)
        self.exact = 64 if small else 4096
        self.image = (2, 8, 8, 8) if small else (64, 56, 56, 64)
        self.attention = (1, 2, 128) if small else (4, 16, 4096)  # batch, heads, positions
        self.gpt = dict(vocabulary=128, context=32, layers=2, dims=64, heads=4) if small else dict(
            vocabulary=50304, context=1024, layers=12, dims=768, heads=12)
        self.gpt_batch = 2 if small else 8
        self.lm = dict(layers=2, hidden=64, inner=128, heads=4, kv_heads=2, vocabulary=96, context=32) if small else dict(
            layers=32, hidden=4096, inner=14336, heads=32, kv_heads=8, vocabulary=32000, context=1024)

    def copies(self, nbytes):
        """So many that they exceed the L2 cache three times over."""
        return min(12, max(2, -(-3 * 50 * 2**20 // nbytes)))


class Case:
    """run(i) submits run i; prepare(n) comes before n runs and is not timed."""

    def __init__(self, run, prepare=None, most=1000, divisor=1):
        self.run, self.prepare, self.most, self.divisor = run, prepare, most, divisor


def measure(case, wait):
    """Milliseconds: (median, minimum, number of runs)."""
    at = 0

    def sample(n):
        nonlocal at
        if case.prepare:
            case.prepare(n)
            at = 0
        wait(None)
        start = time.perf_counter()
        for _ in range(n):
            result = case.run(at)
            at += 1
        wait(result)
        return (time.perf_counter() - start) / n

    for n in (1, 2, 2):  # compilers and autotuners
        sample(min(n, case.most))
    once = sample(min(3, case.most))
    n = min(max(int(SAMPLE_SECONDS / once), LEAST_RUNS), case.most)
    sample(n)
    times = []
    start = time.perf_counter()
    while len(times) < SAMPLES or (time.perf_counter() - start < ROW_SECONDS and len(times) < 50):
        times.append(sample(n))
    times.sort()
    return times[len(times) // 2] * 1e3 / case.divisor, times[0] * 1e3 / case.divisor, len(times) * n


def run_row(library, name, mode):
    result = {"row": name, "mode": mode}
    try:
        case = library.case(name, mode)
        if case is None:
            return result | {"missing": True}
        median, least, runs = measure(case, library.wait)
        return result | {"ms": median, "min_ms": least, "runs": runs}
    except Exception as e:  # one row that fails must not end the others
        return result | {"error": f"{type(e).__name__}: {e}".replace("\n", " ")[:300]}
    finally:
        case = None
        gc.collect()
        library.clean()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], epilog=__doc__.partition("\n\n")[2],
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", choices=sorted(MODES))
    parser.add_argument("--rows", default="", help="names or beginnings of names, with commas between (default: all)")
    parser.add_argument("--mode", help="only this one")
    parser.add_argument("--serve", action="store_true", help="rows on standard input")
    parser.add_argument("--list", action="store_true", help="print the names of the rows")
    parser.add_argument("--device", default="gpu", choices=("gpu", "cpu"))
    parser.add_argument("--small", action="store_true", help="tiny sizes")
    options = parser.parse_args()
    # Other programs measure on the same GPU in turn: take memory as it is needed.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.4")
    if options.device == "cpu":
        os.environ["JAX_PLATFORMS"] = "cpu"
    module = importlib.import_module(options.library + "_rows")
    library = module.Library(Sizes(options.small), options.device)
    if options.serve:
        print(json.dumps({"version": library.version, "device": library.device_name}), flush=True)
        while True:
            try:
                name, mode = input().split()
            except EOFError:
                return
            print(json.dumps(run_row(library, name, mode)), flush=True)
    wanted = [n for n in library.names() if any(n.startswith(p) for p in options.rows.split(","))]
    for name in wanted:
        if options.list:
            print(name)
            continue
        for mode in MODES[options.library]:
            if options.mode in (None, mode):
                result = run_row(library, name, mode)
                if "missing" not in result:
                    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
