// What Python MLX computes (tests/data/nn.json and fast.json, written by make_nn.py and make_fast.py), and
// comparison with it.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "lazuli/array.h"
#include "lazuli/nn/tree.h"

namespace lazuli::reference {

using nlohmann::json;

inline json read(const std::string& name) {
  std::ifstream file(std::string(LAZULI_TEST_DATA) + "/" + name);
  return json::parse(file);
}
inline const json& all() {
  static const json values = read("nn.json");
  return values;
}
inline const json& fast() {
  static const json values = read("fast.json");
  return values;
}

inline array to_array(const json& j) {
  Shape shape;
  for (int64_t n : j["shape"]) shape.push_back(n);
  std::string dtype = j["dtype"];
  if (dtype == "float32") return array(j["data"].get<std::vector<float>>(), shape);
  if (dtype == "bool") return array(j["data"].get<std::vector<int>>(), shape, bool_);
  if (dtype == "uint64") return array(j["data"].get<std::vector<uint64_t>>(), shape);
  return array(j["data"].get<std::vector<int>>(), shape);
}

inline nn::Tree to_tree(const json& j) {
  nn::Tree out;
  for (auto& [path, value] : j.items()) out.append(path, to_array(value));
  return out;
}

// Every element within `tolerance` of the expected, relative to the larger of its size and 1.
inline void expect_close(const array& got, const array& want, double tolerance, const std::string& what) {
  ASSERT_EQ(to_string(got.shape()), to_string(want.shape())) << what;
  ASSERT_EQ(dtype_name(got.dtype()), dtype_name(want.dtype())) << what;
  auto a = got.to_vector<double>(), b = want.to_vector<double>();
  for (size_t i = 0; i < a.size(); ++i) {
    bool same = (std::isnan(a[i]) && std::isnan(b[i])) || a[i] == b[i] ||
                std::abs(a[i] - b[i]) <= tolerance * std::max(1.0, std::abs(b[i]));
    ASSERT_TRUE(same) << what << ": element " << i << " is " << a[i] << " but should be " << b[i];
  }
}

inline void expect_close(const nn::Tree& got, const nn::Tree& want, double tolerance,
                         const std::string& what) {
  EXPECT_EQ(got.size(), want.size()) << what;
  for (const auto& [path, value] : want) {
    const array* found = got.find(path);
    ASSERT_TRUE(found) << what << ": nothing at " << path;
    expect_close(*found, value, tolerance, what + " " + path);
  }
}

}  // namespace lazuli::reference
