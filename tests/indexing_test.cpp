#include "lazuli/indexing.h"

#include <gmock/gmock.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "lazuli/ops/creation.h"
#include "lazuli/ops/elementwise.h"
#include "lazuli/ops/indexing.h"
#include "lazuli/ops/reduce.h"
#include "lazuli/ops/shape.h"
#include "lazuli/transforms.h"

namespace {

using namespace lazuli;
using namespace lazuli::indexing;
using nlohmann::json;
using ::testing::HasSubstr;

array nested(const json& list) {
  std::vector<int64_t> flat;
  Shape shape;
  for (const json* level = &list; level->is_array(); level = &level->front()) {
    shape.push_back(static_cast<int64_t>(level->size()));
    if (level->empty()) break;
  }
  std::function<void(const json&)> read = [&](const json& x) {
    if (x.is_array())
      std::for_each(x.begin(), x.end(), read);
    else
      flat.push_back(x.get<int64_t>());
  };
  read(list);
  return array(flat, shape);
}

Subscript subscript(const json& x) {
  if (x.is_string()) return ellipsis;
  if (x.is_null()) return newaxis;
  if (x.is_number()) return x.get<int64_t>();
  if (x.contains("array")) return nested(x["array"]);
  Range r;
  const json& bounds = x["range"];
  if (!bounds[0].is_null()) r.start = bounds[0].get<int64_t>();
  if (!bounds[1].is_null()) r.stop = bounds[1].get<int64_t>();
  if (!bounds[2].is_null()) r.step = bounds[2].get<int64_t>();
  return r;
}

TEST(Indexing, AgreesWithNumPy) {
  std::ifstream file(LAZULI_TEST_DATA "/indexing.json");
  json cases = json::parse(file);
  ASSERT_GT(cases.size(), 100u);
  for (const json& c : cases) {
    SCOPED_TRACE(c["index"].dump() + " of " + c["shape"].dump());
    Shape shape(c["shape"].get<std::vector<int64_t>>());
    std::vector<Subscript> subscripts;
    for (const json& x : c["index"]) subscripts.push_back(subscript(x));
    // The same elements in three layouts.
    array plain = reshape(arange(size_of(shape), int64), shape);
    array strided = transpose(contiguous(transpose(plain)));
    array reversed = flip(contiguous(flip(plain)));
    for (const array& a : {plain, strided, reversed}) {
      array read = index(a, subscripts);
      ASSERT_EQ(read.shape(), Shape(c["result_shape"].get<std::vector<int64_t>>()));
      EXPECT_EQ(read.to_vector<int64_t>(), c["read"].get<std::vector<int64_t>>());
      array values = reshape(arange(1, static_cast<int64_t>(read.size()) + 1, int64), read.shape());
      for (auto [name, how] : {std::pair{"set", Write::set},
                               {"add", Write::add},
                               {"multiply", Write::multiply},
                               {"minimum", Write::minimum}}) {
        SCOPED_TRACE(name);
        EXPECT_EQ(index_update(a, subscripts, values, how).to_vector<int64_t>(),
                  c[name].get<std::vector<int64_t>>());
      }
      EXPECT_EQ(index_update(a, subscripts, values, Write::subtract).to_vector<int64_t>(),
                index_update(a, subscripts, negative(values), Write::add).to_vector<int64_t>());
    }
  }
}

std::vector<int> ints(const array& a) { return a.to_vector<int>(); }
using V = std::vector<int>;

TEST(Indexing, ReadsWellInCode) {
  array a = reshape(arange(24), {2, 3, 4});
  EXPECT_EQ(a(0).shape(), Shape({3, 4}));
  EXPECT_EQ(ints(a(-1, _, 2)), V({14, 18, 22}));
  EXPECT_EQ(ints(a(0, range(1, 3), 0)), V({4, 8}));
  EXPECT_EQ(ints(a(0, 0, range(_, _, -1))), V({3, 2, 1, 0}));
  EXPECT_EQ(ints(a(0, 0, range(1, _))), V({1, 2, 3}));
  EXPECT_EQ(ints(a(0, 0, Range{.step = 2})), V({0, 2}));
  EXPECT_EQ(a(newaxis, ellipsis, 0).shape(), Shape({1, 2, 3}));
  EXPECT_EQ(ints(a(0, {2, 0}, 1)), V({9, 1}));
  EXPECT_EQ(ints(a(0, {2}, 1)), V({9}));
  EXPECT_EQ(ints(a(std::vector{1, 0}, 0, array({0, -1}))), V({12, 3}));
  EXPECT_EQ(a(_, _, _, newaxis, ellipsis).shape(), Shape({2, 3, 4, 1}));
  size_t i = 1;
  EXPECT_EQ(a(i, i, i).item<int>(), 17);
}

TEST(Indexing, BasicReadsAreViews) {
  array a = contiguous(reshape(arange(24), {2, 3, 4}));
  a.eval();
  array b = a(1, _, range(_, _, -2));
  b.eval();
  EXPECT_EQ(b.offset(), 15);
  EXPECT_EQ(b.strides(), Strides({4, -2}));
}

TEST(Indexing, WritesRebindTheHandle) {
  array a = arange(5), before = a;
  a.at(1) = 7;
  a.at(range(3, _)) = array({8, 9});
  EXPECT_EQ(ints(a), V({0, 7, 2, 8, 9}));
  EXPECT_EQ(ints(before), V({0, 1, 2, 3, 4}));
  a.at({0, 0, 2}) += 10;
  EXPECT_EQ(ints(a), V({20, 7, 12, 8, 9}));
  a.at({1, 1}) -= array({1, 2});
  a.at({2, 2}) *= 2;
  EXPECT_EQ(ints(a), V({20, 4, 48, 8, 9}));
  a.at(0) = a.at(1);
  a.at(1) = before.at(4);
  EXPECT_EQ(ints(a), V({4, 4, 48, 8, 9}));
  array x = array({1.0f, 2.0f, 8.0f});
  x.at({2, 2}) /= 2;
  x.at(0) /= 4;
  EXPECT_EQ(x.to_vector<float>(), std::vector<float>({0.25f, 2, 2}));
}

TEST(Indexing, FunctionalFormsLeaveTheArray) {
  const array a = arange(4);
  EXPECT_EQ(ints(a.at({0, 0}).add(1)), V({2, 1, 2, 3}));
  EXPECT_EQ(ints(a.at(1).set(9)), V({0, 9, 2, 3}));
  EXPECT_EQ(ints(a.at({3, 3}).maximum(array({5, 4}))), V({0, 1, 2, 5}));
  EXPECT_EQ(ints(a.at({3, 2}).minimum(array({5, 1}))), V({0, 1, 1, 3}));
  EXPECT_EQ(ints(a.at(range(1, 3)).multiply(5)), V({0, 5, 10, 3}));
  EXPECT_EQ(ints(a), V({0, 1, 2, 3}));
}

TEST(Indexing, ValuesAreConvertedAndBroadcast) {
  array a = zeros({2, 3}, int32);
  a.at(0) = 2.9;
  a.at(1, range(0, 2)) = array({{4}});
  EXPECT_EQ(ints(a), V({2, 2, 2, 4, 4, 0}));
  array h = zeros({2}, float16);
  h.at(0) += 1.5;
  EXPECT_EQ(h.dtype(), float16);
  EXPECT_EQ(h.to_vector<float>(), std::vector<float>({1.5f, 0}));
}

TEST(Indexing, LastOfRepeatedAssignmentsWins) {
  array a = zeros({3}, int32);
  a.at({1, 1, 0, 1}) = array({1, 2, 3, 4});
  EXPECT_EQ(ints(a), V({3, 4, 0}));
}

TEST(Indexing, MasksSelectWhatIsWritten) {
  array a = reshape(arange(6), {3, 2});
  array rows = array({true, false, true});
  array b = a;
  b.at(rows) = -1;
  EXPECT_EQ(ints(b), V({-1, -1, 2, 3, -1, -1}));
  b = a;
  b.at(rows) = array({7, 8});
  EXPECT_EQ(ints(b), V({7, 8, 2, 3, 7, 8}));
  b = a;
  b.at(rows, _) = array({{7, 8}, {9, 10}});
  EXPECT_EQ(ints(b), V({7, 8, 2, 3, 9, 10}));
  b = a;
  b.at(rows, ellipsis) += array({{10, 20}, {30, 40}});
  EXPECT_EQ(ints(b), V({10, 21, 2, 3, 34, 45}));
  b = a;
  b.at(a > 2) *= 10;
  EXPECT_EQ(ints(b), V({0, 1, 2, 30, 40, 50}));
  b = a;
  b.at(a > 2) = array({5, 6, 7});
  EXPECT_EQ(ints(b), V({0, 1, 2, 5, 6, 7}));
  b = a;
  b.at(a > 2) = array({5, 6});
  EXPECT_THROW(b.eval(), std::out_of_range);
}

template <class E, class F>
std::string message(F&& f) {
  try {
    f();
  } catch (const E& e) {
    return e.what();
  }
  return "nothing was thrown";
}

TEST(Indexing, Errors) {
  array a = reshape(arange(6), {2, 3});
  auto invalid = [](auto&& f) { return message<std::invalid_argument>(f); };
  auto range_error = [](auto&& f) { return message<std::out_of_range>(f); };
  EXPECT_EQ(range_error([&] { a(2); }), "[index] index 2 is out of range for axis 0 with extent 2");
  EXPECT_EQ(range_error([&] { a(_, -4); }), "[index] index -4 is out of range for axis 1 with extent 3");
  EXPECT_EQ(range_error([&] { a(SIZE_MAX); }),
            "[index] index 9223372036854775807 is out of range for axis 0 with extent 2");
  EXPECT_EQ(range_error([&] { a(INT64_MIN); }),
            "[index] index -9223372036854775808 is out of range for axis 0 with extent 2");
  EXPECT_EQ(range_error([&] { a.at(2) = 1; }), "[index] index 2 is out of range for axis 0 with extent 2");
  EXPECT_THAT(range_error([&] {
                a(_, {0, 3}).eval();
              }),
              HasSubstr("index 3 is out of range for axis 1 with extent 3"));
  EXPECT_THAT(range_error([&] { a.at({-3}).set(1).eval(); }),
              HasSubstr("index -3 is out of range for axis 0 with extent 2"));
  EXPECT_EQ(invalid([&] { a(0, 0, 0); }), "[index] found 3 subscripts for an array of shape (2, 3)");
  EXPECT_EQ(invalid([&] { a(ellipsis, ellipsis); }), "[index] found 2 ellipses, expected at most one");
  EXPECT_EQ(invalid([&] { a(range(0, 1, 0)); }), "[index] the step of a range is 0");
  EXPECT_EQ(invalid([&] { a(array({0.0f})); }),
            "[index] expected index arrays of an integer dtype, found float32");
  EXPECT_THAT(invalid([&] { a(a > 2); }), HasSubstr("can be written through"));
  EXPECT_THAT(invalid([&] { a.at(0, array({true, false, true})) = 1; }), HasSubstr("as the first subscript"));
  EXPECT_THAT(invalid([&] { a.at(array({true})) = 1; }), HasSubstr("does not fit the leading axes"));
  EXPECT_THAT(invalid([&] { a.at(array({true, false}), 0) = 1; }), HasSubstr("followed by whole axes only"));
  EXPECT_THAT(invalid([&] {
                a.at(0) = array({1, 2});
              }),
              HasSubstr("values of shape (2,) do not broadcast to the selected elements, (3,)"));
  EXPECT_THAT(invalid([&] { a.at(0) += 0.5; }), HasSubstr("int32 with values of float64"));
  EXPECT_THAT(invalid([&] { a.at(0) /= 2; }), HasSubstr("dividing elements of an array of int32"));
  EXPECT_THAT(invalid([&] { a(array({0, 1}), array({0, 1, 2})); }), HasSubstr("[index]"));
}

TEST(Indexing, GradientsFlowThroughReadsAndWrites) {
  array x({1.0f, 2.0f, 3.0f, 4.0f});
  // The trap of mlx#4444: a strided slice that picks one row.
  array m = reshape(arange(6, float32), {2, 3});
  array g = grad([](const array& a) { return sum(a(Range{.step = 2}) * array({{101.f, 102.f, 103.f}})); })(m);
  EXPECT_EQ(g.to_vector<float>(), std::vector<float>({101, 102, 103, 0, 0, 0}));
  g = grad([](const array& a) { return sum(square(a({0, 0, 3}))); })(x);
  EXPECT_EQ(g.to_vector<float>(), std::vector<float>({4, 0, 0, 8}));
  g = grad([](array a) {
    a.at({1, 1}) *= 3;
    a.at(0) = a(3) * a(3);
    return sum(a);
  })(x);
  EXPECT_EQ(g.to_vector<float>(), std::vector<float>({0, 9, 1, 9}));
}

}  // namespace
