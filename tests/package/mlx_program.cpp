// A program written for MLX: it uses nothing but MLX's C++ interface, compiles against MLX 0.32 and
// against Lazuli, and prints the same with both.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <iostream>
#include <sstream>

#include "mlx/graph_utils.h"
#include "mlx/mlx.h"

using namespace mlx::core;

array from_single_headers(const Args& args);

static void expect(bool ok, const char* what) {
  if (ok) return;
  std::cout << "failed: " << what << std::endl;
  std::exit(1);
}
static bool same(const array& a, const array& b, double tolerance = 1e-5) {
  return allclose(a, b, 1e-5, tolerance).item<bool>();
}

static void arrays() {
  array x(1.0f);
  expect(x.dtype() == float32 && x.ndim() == 0 && x.size() == 1 && x.item<float>() == 1, "a scalar");
  array y({1, 2, 3, 4, 5, 6}, {2, 3}, int32);
  expect(y.shape(0) == 2 && y.shape(-1) == 3 && y.itemsize() == 4 && y.nbytes() == 24, "properties");
  array z = astype(y, float16);
  expect(z.dtype() == float16 && size_of(float16) == 2, "astype");
  std::vector<float> values{1, 2, 3, 4};
  array w(values.begin(), {2, 2});
  expect(w.data<float>()[3] == 4, "data");
  expect(array_equal(w + w, 2 * w).item<bool>(), "operators");
  expect(promote_types(int32, float16) == float16 && issubdtype(float16, floating), "types");
  expect(result_type(y, z) == float16 && kindof(float32) == Dtype::Kind::f, "result_type");
  std::ostringstream os;
  os << y << y.dtype();
  std::cout << os.str() << std::endl;
  int rows = 0;
  for (auto row : y) rows += row.size() == 3;
  expect(rows == 2, "iteration");
  bool thrown = false;
  try {
    reshape(y, {4, 4});
  } catch (const std::invalid_argument&) {
    thrown = true;
  }
  expect(thrown, "an error is an exception");
  expect(finfo(float32).eps < 1e-6 && iinfo(int8).max == 127, "limits of types");
}

static void operations() {
  auto x = reshape(arange(0, 12, float32), {3, 4});
  auto y = transpose(x, {1, 0});
  expect(sum(matmul(x, y)).item<float>() == 1134, "matmul");
  expect(same(softmax(x, -1), exp(x - logsumexp(x, -1, true))), "softmax");
  expect(same(mean(x, std::vector<int>{0, 1}), array(5.5f)), "mean");
  expect(same(var(x, {1}, false, 1), full({3}, 5.0f / 3)), "var");
  expect(array_equal(argmax(x, 1), full({3}, 3, uint32)).item<bool>(), "argmax");
  expect(same(concatenate({x, x}, 0), tile(x, {2, 1})), "concatenate");
  expect(same(slice(x, {0, 1}, {3, 3}), take(x, array({1, 2}), 1)), "slice and take");
  expect(same(where(x > array(3.0f), x, zeros_like(x)),
              maximum(x, array(3.0f)) * astype(x > array(3.0f), float32)),
         "where");
  expect(same(cumsum(x, 1), matmul(x, triu(ones({4, 4})))), "cumsum");
  expect(same(sort(-x, 1), -take(x, array({3, 2, 1, 0}), 1)), "sort");
  expect(same(pad(x, 1), pad(x, {{1, 1}, {1, 1}})), "pad");
  expect(same(split(x, 2, 1)[0], slice(x, {0, 0}, {3, 2})), "split");
  expect(same(expand_dims(squeeze(expand_dims(x, 0), 0), {0, 1}), reshape(x, {1, 1, 3, 4})), "expand_dims");
  expect(same(take_along_axis(x, array({0, 1, 2}, {3, 1}), 1), array({0.f, 5.f, 10.f}, {3, 1})),
         "take_along_axis");
  expect(same(scatter_add(zeros({3}), array({0, 0, 2}), ones({3, 1}), 0), array({2.f, 0.f, 1.f})),
         "scatter_add");
  expect(same(addmm(array(1.0f), x, y, 2.0f, 3.0f), array(2.0f) * matmul(x, y) + array(3.0f)), "addmm");
  auto image = reshape(arange(0, 16, float32), {1, 4, 4, 1});
  expect(same(conv2d(image, ones({1, 3, 3, 1}), {1, 1}, {1, 1}, {1, 1}, 1),
              conv_general(image, ones({1, 3, 3, 1}), {1, 1}, {1, 1}, {1, 1}, {1, 1}, 1)),
         "conv2d");
  expect(same(clip(x, array(2.f), array(3.f)), minimum(maximum(x, array(2.f)), array(3.f))), "clip");
  expect(all(isfinite(log1p(x))).item<bool>() && any(isnan(sqrt(-x))).item<bool>(), "isnan");
  expect(same(linspace(0, 1, 5), arange(0.0, 1.25, 0.25)), "linspace");
  auto parts = divmod(array({7, 9}), array({4, 5}));
  expect(array_equal(parts[0] * array({4, 5}) + parts[1], array({7, 9})).item<bool>(), "divmod");
  expect(same(outer(array({1.f, 2.f}), array({3.f})), array({3.f, 6.f}, {2, 1})), "outer");
  expect(same(tensordot(x, y, 1), matmul(x, y)), "tensordot");
  expect(from_single_headers({x, x}).shape() == x.shape(), "single headers");
}

static void transforms() {
  auto f = [](const array& x) { return sum(square(x)); };
  expect(same(grad(f)(array({1.f, 2.f})), array({2.f, 4.f})), "grad");
  auto second = grad(grad([](const array& x) { return x * x * x; }));
  expect(second(array(2.0f)).item<float>() == 12, "second derivative");
  auto loss = [](const std::vector<array>& p) { return mean(square(matmul(p[0], p[1]))); };
  auto [value, gradients] = value_and_grad(loss, std::vector<int>{0, 1})({ones({2, 3}), ones({3, 2})});
  expect(value.item<float>() == 9 && gradients.size() == 2, "value_and_grad");
  auto [outputs, tangents] = jvp([](const array& x) { return sin(x); }, array(0.0f), array(1.0f));
  expect(tangents.item<float>() == 1, "jvp");
  auto [again, cotangents] = vjp([](const array& x) { return sin(x); }, array(0.0f), array(1.0f));
  expect(same(again, outputs) && cotangents.item<float>() == 1, "vjp");
  auto dot = [](const array& a, const array& b) { return sum(a * b); };
  expect(same(vmap(dot)(ones({3, 2}), ones({3, 2})), full({3}, 2.0f)), "vmap");
  std::function<std::vector<array>(const std::vector<array>&)> g = [](const std::vector<array>& v) {
    return std::vector<array>{exp(v[0]) + v[1]};
  };
  expect(same(compile(g)({zeros({2}), ones({2})})[0], full({2}, 2.0f)), "compile");
  expect(same(checkpoint(g)({zeros({2}), ones({2})})[0], full({2}, 2.0f)), "checkpoint");
  array a = ones({4}), b = a * array(2.0f);
  async_eval(b);
  eval(a, b);
  synchronize();
}

static void randomness() {
  auto key = random::key(7);
  auto [k1, k2] = random::split(key);
  // The numbers of MLX for the same key.
  expect(array_equal(random::bits({2}, k1), array({3467496783u, 563264800u})).item<bool>(), "bits");
  expect(same(random::uniform({3}, k2), array({0.0777458f, 0.174454f, 0.832646f})), "uniform");
  auto n = random::normal({1000}, float32, 0.0f, 1.0f, key);
  expect(std::abs(mean(n).item<float>()) < 0.2f, "normal");
  auto i = random::randint(0, 10, {100}, int32, key);
  expect(max(i).item<int>() < 10 && min(i).item<int>() >= 0, "randint");
  expect(random::bernoulli(0.5f, {8}, key).dtype() == bool_, "bernoulli");
  expect(random::categorical(zeros({4, 3}), -1, key).shape() == Shape{4}, "categorical");
}

static void devices_and_memory() {
  Device d = Device::cpu;
  set_default_device(d);
  expect(default_device() == Device::cpu && !metal::is_available(), "devices");
  Stream s = new_stream(d);
  array a = add(ones({2}), ones({2}), s);
  eval(a);
  synchronize(s);
  StreamOrDevice where = s;
  expect(to_stream(where).device == d, "to_stream");
  { StreamContext context(Device::cpu); }
  reset_peak_memory();
  array big = arange(0, 1 << 18, float32);
  eval(big);
  expect(get_peak_memory() >= 1 << 20 && get_active_memory() >= 1 << 20, "memory");
  expect(get_array_buffer_size({big, big}) >= 1 << 20, "buffer size");
  size_t before = set_cache_limit(1 << 20);
  set_cache_limit(before);
  clear_cache();
  {
    allocator::Data block = allocator::malloc(256);
    std::memset(block.buffer().raw_ptr(), 1, 256);
    expect(allocator::allocator().size(block.buffer()) >= 256, "allocator");
  }
  std::ostringstream graph;
  NodeNamer namer;
  array x = ones({2}), y = exp(x);
  namer.set_name(x, "input");
  print_graph(graph, namer, y);
  export_to_dot(graph, y);
  expect(graph.str().find("input") != std::string::npos, "graph");
}

static void files() {
  const char* temporary = std::getenv("TMPDIR");
  std::string base = std::string(temporary ? temporary : "/tmp") + "/lazuli_mlx_program";
  array x = reshape(arange(0, 6, float32), {2, 3});
  save(base + ".npy", x);
  expect(array_equal(load(base + ".npy"), x).item<bool>(), "npy");
  save_safetensors(base + ".safetensors", {{"x", x}}, {{"format", "test"}});
  auto [tensors, metadata] = load_safetensors(base + ".safetensors");
  expect(array_equal(tensors.at("x"), x).item<bool>() && metadata.at("format") == "test", "safetensors");
  std::remove((base + ".npy").c_str());
  std::remove((base + ".safetensors").c_str());
}

int main() {
  arrays();
  operations();
  transforms();
  randomness();
  devices_and_memory();
  files();
  std::cout << "all is well" << std::endl;
}
