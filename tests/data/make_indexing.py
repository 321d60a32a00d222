"""Writes indexing.json: what NumPy reads and writes through index tuples.

    python3 tests/data/make_indexing.py        (needs numpy)

A subscript is an integer, "...", null (a new axis), {"range": [start, stop, step]} with nulls for open
bounds, or {"array": nested list}. `values` of a write count from 1 and fill `shape`.
"""

import json
import pathlib
import random

import numpy as np

random.seed(7)


def subscript(x):
    if x is Ellipsis:
        return "..."
    if isinstance(x, slice):
        return {"range": [x.start, x.stop, x.step]}
    if isinstance(x, np.ndarray):
        return {"array": x.tolist()}
    return x


def case(shape, index):
    a = np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape)
    read = a[index]
    values = np.arange(1, read.size + 1).reshape(read.shape)
    written = a.copy()
    written[index] = values
    added, multiplied, least = a.copy(), a.copy(), a.copy()
    np.add.at(added, index, values)
    np.multiply.at(multiplied, index, values)
    np.minimum.at(least, index, values)
    return {
        "shape": list(shape),
        "index": [subscript(x) for x in index],
        "result_shape": list(read.shape),
        "read": read.ravel().tolist(),
        "set": written.ravel().tolist(),
        "add": added.ravel().tolist(),
        "multiply": multiplied.ravel().tolist(),
        "minimum": least.ravel().tolist(),
    }


s_ = np.s_
i, j, k = np.array([1, 0, 1]), np.array([[0], [2]]), np.array(1)
chosen = [
    ((5,), s_[(0,)]), ((5,), s_[(-1,)]), ((5,), (slice(None, None, -1),)), ((5,), (slice(4, None, -2),)),
    ((5,), (slice(-100, 100),)), ((5,), (slice(3, 1),)), ((5,), (slice(1, -1, 3),)), ((5,), (Ellipsis,)),
    ((5,), (slice(-2, None),)), ((5,), (slice(None, -6, -1),)), ((5,), (np.array([0, 0, -1, 3]),)),
    ((5,), (np.zeros((2, 0), np.int64),)), ((5,), (np.array([[1, 2], [3, 4]]),)), ((5,), (None, Ellipsis, None)),
    ((2, 3, 4), s_[0, :, i]), ((2, 3, 4), s_[:, 0, i]), ((2, 3, 4), s_[i, :, i]), ((2, 3, 4), s_[i, j]),
    ((2, 3, 4), s_[:, i, j]), ((2, 3, 4), s_[j % 2, :, i]), ((2, 3, 4), s_[i, None, j]), ((2, 3, 4), s_[..., i]),
    ((2, 3, 4), s_[:, i, ..., i]), ((2, 3, 4), s_[None, :, i, None, 2]), ((2, 3, 4), s_[k, :, i]),
    ((2, 3, 4), s_[:, k, 1:3]), ((2, 3, 4), s_[1:, i, ::2]), ((2, 3, 4), s_[::-1, i, ::-1]),
    ((2, 3, 4), s_[:1, i, i]), ((2, 3, 4), s_[0, 1, 2]), ((2, 3, 4), s_[1, ..., None]), ((2, 3, 4), s_[i, 1, ::3]),
    ((2, 3, 4), s_[0, i, ::-2]), ((2, 3, 4), s_[:, 1:1, i]), ((2, 3, 4), s_[i, ::2, None, 3]),
    ((2, 0, 3), s_[i, :, 1]), ((2, 0, 3), s_[:, 0:0, 2]), ((), (Ellipsis,)), ((), (None, Ellipsis)),
    ((2, 1, 3, 2), s_[:, 0, i, ...]), ((2, 1, 3, 2), s_[i, ..., i]), ((2, 1, 3, 2), s_[:, :, j, i]),
    ((2, 3, 2, 3), s_[i, :, i, :]), ((2, 3, 2, 3), s_[:, i, :, j]), ((2, 3, 2, 3), s_[i, j, 0, 0]),
]


def random_subscript(n):
    kind = random.randrange(6)
    if kind == 0:
        return random.randrange(-n, n)
    if kind < 4:
        bound = lambda: random.choice([None, random.randrange(-n - 1, n + 2)])
        return slice(bound(), bound(), random.choice([None, 1, 2, -1, -2]))
    shape = random.choice([(2,), (3, 1), (), (1, 2)])
    return np.array([random.randrange(-n, n) for _ in range(int(np.prod(shape)))]).reshape(shape)


def random_case():
    shape = tuple(random.randrange(1, 4) for _ in range(random.randrange(1, 5)))
    index = [random_subscript(n) for n in shape[: random.randrange(1, len(shape) + 1)]]
    if len(index) < len(shape) and random.random() < 0.3:
        # The last subscripts apply to the last axes.
        tail = random.randrange(0, len(index) + 1)
        index = index[: len(index) - tail] + [Ellipsis] + [random_subscript(n) for n in shape[len(shape) - tail :]]
    if random.random() < 0.3:
        index.insert(random.randrange(0, len(index) + 1), None)
    return case(shape, tuple(index))


cases = [case(*c) for c in chosen] + [random_case() for _ in range(80)]
lines = ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases)
pathlib.Path(__file__).with_name("indexing.json").write_text("[\n" + lines + "\n]\n")
