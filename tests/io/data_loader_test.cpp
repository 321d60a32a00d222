#include <gmock/gmock.h>

#include <numeric>
#include <set>

#include "lazuli/data.h"
#include "lazuli/random.h"
#include "tests/io/arrays.h"

namespace lazuli {
namespace {
using namespace test;
using testing::ElementsAre;

std::vector<int> all_rows(const DataLoader<2>& loader, const std::optional<array>& key = std::nullopt) {
  std::vector<int> out;
  for (auto [x, y] : loader.epoch(key)) {
    auto rows = y.to_vector<int>();
    auto values = x.to_vector<int>();
    EXPECT_EQ(x.shape(), (Shape{y.shape(0), 3}));
    for (size_t i = 0; i < rows.size(); ++i)
      EXPECT_EQ(values[3 * i], 3 * rows[i] - 2) << "x and y go together";
    out.insert(out.end(), rows.begin(), rows.end());
  }
  return out;
}

TEST(DataLoader, GoesThroughAllRowsInOrder) {
  array y(std::vector<int>{0, 1, 2, 3, 4, 5, 6});
  DataLoader loader({.batch_size = 3, .shuffle = false}, pattern({7, 3}, int32), y);
  EXPECT_EQ(loader.size(), 3);
  EXPECT_EQ(loader.rows(), 7);
  EXPECT_THAT(all_rows(loader), ElementsAre(0, 1, 2, 3, 4, 5, 6));
  EXPECT_EQ(loader.epoch()[2][1].shape(), (Shape{1})) << "the last batch is kept";
}

TEST(DataLoader, ShufflesByKey) {
  std::vector<int> rows(100);
  std::iota(rows.begin(), rows.end(), 0);
  DataLoader loader({.batch_size = 32}, pattern({100, 3}, int32), array(rows));
  auto first = all_rows(loader, random::key(1)), second = all_rows(loader, random::key(2));
  EXPECT_NE(first, rows);
  EXPECT_NE(first, second);
  EXPECT_EQ(first, all_rows(loader, random::key(1)));
  EXPECT_EQ(std::set<int>(first.begin(), first.end()).size(), 100u);
  random::seed(3);
  auto third = all_rows(loader);
  EXPECT_NE(third, all_rows(loader)) << "each epoch has its own order";
  random::seed(3);
  EXPECT_EQ(third, all_rows(loader));
}

TEST(DataLoader, DropsTheLastBatchOnRequest) {
  DataLoader loader({.batch_size = 3, .shuffle = false, .drop_last = true}, pattern({7}, int32));
  EXPECT_EQ(loader.size(), 2);
  int64_t rows = 0;
  for (auto [x] : loader.epoch()) rows += x.shape(0);
  EXPECT_EQ(rows, 6);
}

TEST(DataLoader, RefusesWhatDoesNotFit) {
  array a = pattern({3, 2}, float32), b = pattern({4}, float32);
  EXPECT_THROW(DataLoader({.batch_size = 0}, a), std::invalid_argument);
  EXPECT_THROW(DataLoader({}, a, b), std::invalid_argument);
  EXPECT_THROW(DataLoader({}, array(1)), std::invalid_argument);
  EXPECT_THROW(DataLoader({}, pattern({0, 2}, float32)), std::invalid_argument);
  try {
    DataLoader({}, a, b);
  } catch (const std::invalid_argument& e) {
    EXPECT_STREQ(e.what(), "[DataLoader] the arrays must have equally many rows, but have (3, 2) and (4,)");
  }
}

}  // namespace
}  // namespace lazuli
