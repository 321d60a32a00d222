#include "lazuli/optimizers/rules.h"

#include <cmath>
#include <stdexcept>

#include "lazuli/ops/creation.h"
#include "lazuli/ops/elementwise.h"
#include "lazuli/ops/matmul.h"
#include "lazuli/ops/reduce.h"
#include "lazuli/ops/shape.h"

namespace lazuli::optimizers {

namespace {

void require(bool ok, const char* optimizer, const char* what) {
  if (!ok) throw std::invalid_argument(std::string("[") + optimizer + "] " + what);
}
void check_betas(const char* optimizer, const std::array<double, 2>& betas) {
  for (double beta : betas) require(beta >= 0 && beta < 1, optimizer, "betas must be in [0, 1)");
}

// weight a + (1 - weight) b
array average(double weight, const array& a, const array& b) { return weight * a + (1 - weight) * b; }

struct SgdRule {
  SGDOptions o;
  // The slot is there without momentum too, as in Python MLX, so that files agree.
  void init(const array& p, Slots& slots) const { slots.add("v", zeros_like(p)); }
  array apply(const array& gradient, const array& p, Slots& slots, const Context& c) const {
    array g = o.weight_decay != 0 ? gradient + o.weight_decay * p : gradient;
    if (o.momentum <= 0) return p - c.rate(g) * g;
    array& v = slots["v"];
    v = o.momentum * v + (o.dampening > 0 ? (1 - o.dampening) * g : g);
    return p - c.rate(g) * (o.nesterov ? g + o.momentum * v : v);
  }
};

struct RmspropRule {
  RMSpropOptions o;
  void init(const array& p, Slots& slots) const { slots.add("v", zeros_like(p)); }
  array apply(const array& g, const array& p, Slots& slots, const Context& c) const {
    array& v = slots["v"];
    v = average(o.alpha, v, square(g));
    return p - c.rate(g) * g / (sqrt(v) + o.eps);
  }
};

struct AdagradRule {
  AdagradOptions o;
  void init(const array& p, Slots& slots) const { slots.add("v", zeros_like(p)); }
  array apply(const array& g, const array& p, Slots& slots, const Context& c) const {
    array& v = slots["v"];
    v = v + square(g);
    return p - c.rate(g) * g / (sqrt(v) + o.eps);
  }
};

struct AdaDeltaRule {
  AdaDeltaOptions o;
  void init(const array& p, Slots& slots) const {
    slots.add("v", zeros_like(p));
    slots.add("u", zeros_like(p));
  }
  array apply(const array& g, const array& p, Slots& slots, const Context& c) const {
    array &v = slots["v"], &u = slots["u"];
    v = average(o.rho, v, square(g));
    array d = sqrt(u + o.eps) / sqrt(v + o.eps) * g;
    u = average(o.rho, u, square(d));
    return p - c.rate(g) * d;
  }
};

void init_moments(const array& p, Slots& slots) {
  slots.add("m", zeros_like(p));
  slots.add("v", zeros_like(p));
}

struct AdamRule {
  AdamOptions o;
  double weight_decay = 0;
  void init(const array& p, Slots& slots) const { init_moments(p, slots); }
  array apply(const array& g, const array& parameter, Slots& slots, const Context& c) const {
    auto [b1, b2] = o.betas;
    array lr = c.rate(g);
    array p = parameter;
    if (weight_decay != 0) p = p * c.once("decay", g, [&] { return 1 - lr * weight_decay; });
    array &m = slots["m"], &v = slots["v"];
    m = average(b1, m, g);
    v = average(b2, v, square(g));
    if (!o.bias_correction) return p - lr * m / (sqrt(v) + o.eps);
    array c1 =
        c.once("c1", g, [&] { return *c.learning_rate / (1 - power(o.betas[0], astype(c.step, float32))); });
    array c2 = c.once("c2", g, [&] { return rsqrt(1 - power(o.betas[1], astype(c.step, float32))); });
    return p - c1 * m / (sqrt(v) * c2 + o.eps);
  }
};

struct AdamaxRule {
  AdamaxOptions o;
  void init(const array& p, Slots& slots) const { init_moments(p, slots); }
  array apply(const array& g, const array& p, Slots& slots, const Context& c) const {
    array &m = slots["m"], &v = slots["v"];
    m = average(o.betas[0], m, g);
    v = maximum(o.betas[1] * v, abs(g));
    return p - c.rate(g) * m / (v + o.eps);
  }
};

struct LionRule {
  LionOptions o;
  void init(const array& p, Slots& slots) const { slots.add("m", zeros_like(p)); }
  array apply(const array& g, const array& p, Slots& slots, const Context& c) const {
    array lr = c.rate(g);
    array& m = slots["m"];
    array direction = sign(average(o.betas[0], m, g));
    m = average(o.betas[1], m, g);
    return (o.weight_decay > 0 ? (1 - lr * o.weight_decay) * p : p) - lr * direction;
  }
};

struct AdafactorRule {
  AdafactorOptions o;

  void init(const array& p, Slots& slots) const {
    if (p.ndim() >= 2) {
      Shape rows = p.shape(), columns = p.shape();
      rows.pop_back();
      columns.erase(columns.end() - 2);
      slots.add("exp_avg_sq_row", zeros(rows, p.dtype()));
      slots.add("exp_avg_sq_col", zeros(columns, p.dtype()));
    } else {
      slots.add("exp_avg_sq", zeros_like(p));
    }
    if (o.beta_1) slots.add("exp_avg", zeros_like(p));
  }

  static array root_mean_square(const array& x) { return sqrt(mean(square(x))); }

  array rate(const Context& c, const array& step, const array& rms) const {
    array r = !o.relative_step ? *c.learning_rate
              : o.warmup_init  ? minimum(1e-6 * step, rsqrt(step))
                               : minimum(rsqrt(step), 1e-2);
    r = astype(r, rms.dtype());
    return o.scale_parameter ? maximum(rms, o.eps[1]) * r : r;
  }

  array apply(const array& g, const array& parameter, Slots& slots, const Context& c) const {
    array rms = root_mean_square(parameter);
    array step = astype(c.step, float32);
    array lr = rate(c, step, rms);
    array keep = 1 - astype(power(step, o.decay_rate), rms.dtype());
    array squared = square(g) + o.eps[0];
    auto follow = [&](const char* slot, const array& value) {
      array& average = slots[slot];
      average = keep * average + (1 - keep) * value;
      return average;
    };
    array update = g;
    if (g.ndim() >= 2) {
      array row = follow("exp_avg_sq_row", mean(squared, -1));
      array column = follow("exp_avg_sq_col", mean(squared, -2));
      array row_factor = rsqrt(row / mean(row, -1, true));
      update = expand_dims(row_factor, -1) * expand_dims(rsqrt(column), -2) * g;
    } else {
      update = rsqrt(follow("exp_avg_sq", squared)) * g;
    }
    update = lr * (update / maximum(root_mean_square(update) / o.clip_threshold, 1));
    if (o.beta_1) {
      array& m = slots["exp_avg"];
      m = average(*o.beta_1, m, update);
      update = m;
    }
    array p = o.weight_decay != 0 ? parameter - parameter * (o.weight_decay * lr) : parameter;
    return p - update;
  }
};

// Brings a matrix near the orthogonal one of its polar decomposition.
array orthogonalized(const array& matrix, int steps) {
  bool tall = matrix.shape(0) > matrix.shape(1);
  array x = tall ? transpose(matrix) : matrix;
  x = x / (sqrt(sum(square(x))) + 1e-7);
  for (int i = 0; i < steps; ++i) {
    array a = matmul(x, transpose(x));
    array b = -4.7750 * a + 2.0315 * matmul(a, a);
    x = 3.4445 * x + matmul(b, x);
  }
  return tall ? transpose(x) : x;
}

struct MuonRule {
  MuonOptions o;
  void init(const array& p, Slots& slots) const { slots.add("v", zeros_like(p)); }
  array apply(const array& gradient, const array& p, Slots& slots, const Context& c) const {
    array g = o.weight_decay != 0 ? gradient + o.weight_decay * p : gradient;
    array& v = slots["v"];
    v = average(o.momentum, v, g);
    array update = o.nesterov ? average(o.momentum, v, g) : v;
    array lr = c.rate(g);
    if (p.ndim() < 2) return p - lr * update;
    array matrix = p.ndim() > 2 ? reshape(update, {p.shape(0), -1}) : update;
    update = reshape(orthogonalized(matrix, o.ns_steps), p.shape());
    double aspect = static_cast<double>(p.shape(-2)) / static_cast<double>(p.shape(-1));
    return p - lr * std::sqrt(std::max(1.0, aspect)) * update;
  }
};

}  // namespace

SGD::SGD(Schedule learning_rate, const SGDOptions& o) : Optimizer(std::move(learning_rate), SgdRule{o}) {
  require(!o.nesterov || (o.momentum > 0 && o.dampening == 0), "SGD",
          "nesterov needs a momentum and no dampening");
}

RMSprop::RMSprop(Schedule learning_rate, const RMSpropOptions& o)
    : Optimizer(std::move(learning_rate), RmspropRule{o}) {
  require(o.alpha >= 0, "RMSprop", "alpha must not be negative");
  require(o.eps > 0, "RMSprop", "eps must be positive");
}

Adagrad::Adagrad(Schedule learning_rate, const AdagradOptions& o)
    : Optimizer(std::move(learning_rate), AdagradRule{o}) {
  require(o.eps > 0, "Adagrad", "eps must be positive");
}

AdaDelta::AdaDelta(Schedule learning_rate, const AdaDeltaOptions& o)
    : Optimizer(std::move(learning_rate), AdaDeltaRule{o}) {
  require(o.rho >= 0, "AdaDelta", "rho must not be negative");
  require(o.eps > 0, "AdaDelta", "eps must be positive");
}

Adam::Adam(Schedule learning_rate, const AdamOptions& o) : Optimizer(std::move(learning_rate), AdamRule{o}) {
  check_betas("Adam", o.betas);
  require(o.eps >= 0, "Adam", "eps must not be negative");
}

AdamW::AdamW(Schedule learning_rate, const AdamWOptions& o)
    : Optimizer(std::move(learning_rate), AdamRule{{o.betas, o.eps, o.bias_correction}, o.weight_decay}) {
  check_betas("AdamW", o.betas);
  require(o.eps >= 0, "AdamW", "eps must not be negative");
}

Adamax::Adamax(Schedule learning_rate, const AdamaxOptions& o)
    : Optimizer(std::move(learning_rate), AdamaxRule{o}) {
  check_betas("Adamax", o.betas);
  require(o.eps >= 0, "Adamax", "eps must not be negative");
}

Lion::Lion(Schedule learning_rate, const LionOptions& o) : Optimizer(std::move(learning_rate), LionRule{o}) {
  check_betas("Lion", o.betas);
}

Adafactor::Adafactor(std::optional<Schedule> learning_rate, const AdafactorOptions& o)
    : Optimizer(learning_rate, AdafactorRule{o}) {
  require(o.relative_step || learning_rate, "Adafactor", "without relative_step give a learning rate");
}

Muon::Muon(Schedule learning_rate, const MuonOptions& o) : Optimizer(std::move(learning_rate), MuonRule{o}) {
  require(o.ns_steps >= 0, "Muon", "ns_steps must not be negative");
}

}  // namespace lazuli::optimizers
