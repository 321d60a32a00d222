#!/usr/bin/env python3
"""Derives the polynomials of src/backend/cpu/simd_math-inl.h; prints one C++ array each.

Needs numpy and scipy. Each fit is a weighted minimax fit: Lawson's iteration (least
squares on Chebyshev nodes, reweighted by the error) in long-double function values. Then
the coefficients are rounded one at a time, lowest power first, to the type that the
kernel uses, and the rest is fitted again, so that the rounding of one coefficient is made
good by the others. The number printed beside each array is the largest relative error of
the final approximation, as a power of two, evaluated in double.
"""
import numpy as np
from scipy import special

LD = np.longdouble


def nodes(a, b, n=4000):
    k = np.arange(n, dtype=LD)
    return (LD(a) + LD(b)) / 2 - (LD(b) - LD(a)) / 2 * np.cos(LD(np.pi) * (k + LD(0.5)) / n)


def lawson(x, y, w, powers, rounds=150):
    """Coefficients c of sum c_k x^powers_k that minimise max |w (y - p(x))|."""
    scale = np.max(np.abs(x))
    basis = np.stack([(x / scale) ** int(p) for p in powers], axis=1)
    lam = np.ones(len(x), dtype=LD)
    best, best_error = None, np.inf
    for _ in range(rounds):
        root = np.sqrt(lam) * w
        a = (basis * root[:, None]).astype(np.float64)
        rhs = y * root
        c = np.zeros(len(powers), dtype=LD)
        for _ in range(3):  # refine: residual in long double
            c += np.linalg.lstsq(a, (rhs - (basis * root[:, None]) @ c).astype(np.float64), rcond=None)[0]
        error = np.abs(w * (y - basis @ c))
        if error.max() < best_error:
            best, best_error = c, error.max()
        lam *= error + error.max() * LD(1e-3)
        lam /= lam.sum()
    return [best[i] / scale ** int(p) for i, p in enumerate(powers)]


def fit(name, f, a, b, degree, weight, dtype=np.float32, note="", full=False):
    """f(x) ~ c0 + c1 x + ... on [a, b]; weight(x) turns absolute into relative error."""
    x = nodes(a, b)
    y, w = f(x), weight(x)
    fixed = []
    for k in range(degree + 1):
        rest = y - sum((LD(c) * x**i for i, c in enumerate(fixed)), LD(0) * x)
        c = lawson(x, rest, w, range(k, degree + 1))
        fixed.append(dtype(c[0]))
    p = sum((LD(c) * x**i for i, c in enumerate(fixed)), LD(0) * x)
    error = np.max(np.abs(w * (y - p)))
    suffix = "f" if dtype is np.float32 else ""
    print(f"// {note} error 2^{np.log2(float(error)):.1f}")
    print(f"{name}[] = {{" + ", ".join(f"{c:.9g}{suffix}" if suffix else f"{c:.17g}" for c in fixed) + "};", flush=True)


def series(x, terms):
    """sum terms[k] x^k in long double: for quotients that cancel near 0."""
    r = LD(0) * x
    for t in reversed(terms):
        r = r * x + t
    return r


def factorial(n):
    r = LD(1)
    for i in range(2, n + 1):
        r *= i
    return r


def exp_rest(r):  # (exp(r) - 1 - r) / r^2
    return series(r, [1 / factorial(k + 2) for k in range(24)])


def log_rest(f):  # (log1p(f) - f + f^2/2) / f^3
    small = np.abs(f) < 0.05
    g = np.where(small, LD(0.5), f)
    s = series(np.where(small, f, 0), [LD((-1) ** k) / (k + 3) for k in range(30)])
    return np.where(small, s, (np.log1p(g) - g + g * g / 2) / g**3)


def odd_rest(terms):  # (f(sqrt z) - sqrt z) / sqrt z^3 from the Taylor series of f
    return lambda z: series(z, terms)


LN2_2 = 0.3466
SIN = [LD((-1) ** (k + 1)) / factorial(2 * k + 3) for k in range(14)]
COS = [LD((-1) ** k) / factorial(2 * k + 4) for k in range(14)]
SINH = [1 / factorial(2 * k + 3) for k in range(20)]


def asin_terms(n=70):
    t, r = LD(1), []
    for k in range(1, n):
        t = t * (2 * k - 1) / (2 * k)
        r.append(t / (2 * k + 1))
    return r


def cubic_rest(f, taylor):  # (f(r) - r) / r^3 in z = r^2; the series where that cancels
    def g(z):
        r = np.sqrt(z)
        small = r < 0.02
        q = np.where(small, LD(0.5), r)
        return np.where(small, series(z, taylor), (f(q) - q) / q**3)

    return g


TAN = [LD(1) / 3, LD(2) / 15, LD(17) / 315, LD(62) / 2835, LD(1382) / 155925]
tan_rest = cubic_rest(np.tan, TAN)
atan_rest = cubic_rest(np.arctan, [LD((-1) ** k) / (2 * k + 1) for k in range(1, 8)])


ERF = [(LD((-1) ** k) / factorial(k) / (2 * k + 1)) * 2 / np.sqrt(LD(np.pi)) for k in range(40)]


def erfcx_log2(t):  # -log2(erfc(t))
    t = t.astype(np.float64)
    return (LD(1) * (t * t) - np.log(special.erfcx(t)).astype(LD)) / np.log(LD(2))


def exp2_rest(r):  # (2^-r - 1) / r
    return series(r, [(-np.log(LD(2))) ** (k + 1) / factorial(k + 1) for k in range(24)])


def main():
    one = lambda x: x * 0 + 1
    fit("kExp", exp_rest, -LN2_2, LN2_2, 4, lambda r: r * r, note="(exp(r) - 1 - r) / r^2, |r| <= ln(2)/2;")
    fit("kLog", log_rest, 2**-0.5 - 1, 2**0.5 - 1, 8, lambda f: f * f,
        note="(log1p(f) - f + f^2/2) / f^3, 1+f in [sqrt(1/2), sqrt(2)];")
    z = lambda z: z
    fit("kSin", odd_rest(SIN), 0, 0.62, 2, z, note="(sin r - r) / r^3 in r^2, |r| <= pi/4;")
    fit("kCos", odd_rest(COS), 0, 0.62, 2, lambda z: z * z, note="(cos r - 1 + r^2/2) / r^4 in r^2;")
    fit("kTan", tan_rest, 0, 0.62, 6, z, note="(tan r - r) / r^3 in r^2, |r| <= pi/4;")
    fit("kAsin", odd_rest(asin_terms()), 0, 0.25, 4, z, note="(asin x - x) / x^3 in x^2, |x| <= 1/2;")
    fit("kAtan", atan_rest, 0, 1, 8, z, note="(atan x - x) / x^3 in x^2, |x| <= 1;")
    fit("kSinh", odd_rest(SINH), 0, 1, 3, z, note="(sinh x - x) / x^3 in x^2, |x| <= 1;")
    fit("kErf", lambda z: series(z, ERF) - 1, 0, 0.93**2, 5, one, note="erf(x) / x - 1 in x^2, |x| <= 0.93;")
    fit("kErfc", erfcx_log2, 0.92, 4, 6, lambda t: special.erfc(t.astype(np.float64)).astype(LD),
        note="-log2(erfc(t)), 0.92 <= t <= 4;")
    fit("kExp2Negative", exp2_rest, -0.5, 0.5, 4, lambda r: np.abs(r), note="(2^-r - 1) / r, |r| <= 1/2;")

    # erfinv(x) / x in w = -log(1 - x^2): near 0 in w, then in sqrt(w).
    def center(w):
        x = np.sqrt(-np.expm1(-w.astype(np.float64)))
        r = np.where(x > 1e-9, special.erfinv(x) / np.where(x > 1e-9, x, 1), np.sqrt(np.pi) / 2)
        return r.astype(LD)

    def tail(s):  # from the complement, which is exact where 1 - x^2 is tiny
        w = s.astype(np.float64) ** 2
        comp = np.exp(-w) / (1 + np.sqrt(-np.expm1(-w)))  # 1 - x
        return (special.erfcinv(comp) / (1 - comp)).astype(LD)

    relative = lambda f: (lambda v: 1 / f(v))
    fit("kErfinv", lambda w: center(w) - 1, 0, 5, 9, relative(center), note="erfinv(x) / x - 1 in w = -log(1 - x^2) <= 5;")
    shifted = lambda f, c: (lambda v: f(v + c))
    t = shifted(tail, LD(3))
    fit("kErfinvTail", lambda v: t(v) - 1, np.sqrt(4.99) - 3, np.sqrt(16.1) - 3, 9, relative(t),
        note="the same in sqrt(w) - 3, 5 <= w <= 16.1;")

    # In double, for functions of float that need extra bits.
    fit("kLogD", log_rest, 2**-0.5 - 1, 2**0.5 - 1, 13, lambda f: f * f, np.float64,
        note="(log1p(f) - f + f^2/2) / f^3 in double;")
    fit("kExpD", exp_rest, -LN2_2, LN2_2, 7, lambda r: r * r, np.float64,
        note="(exp(r) - 1 - r) / r^2 in double;")


if __name__ == "__main__":
    main()
