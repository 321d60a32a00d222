#include <gmock/gmock.h>

#include "lazuli/io.h"
#include "tests/io/arrays.h"
#include "tests/io/files.h"

namespace lazuli {
namespace {
using namespace test;
using testing::HasSubstr;
using testing::Not;

std::string with_header(const std::string& json, const std::string& data = "") {
  uint64_t length = json.size();
  return std::string(reinterpret_cast<char*>(&length), 8) + json + data;
}

TEST(Safetensors, ReadsWhatMlxWrites) {
  auto [arrays, metadata] = load_safetensors(data_file("mlx.safetensors"));
  EXPECT_EQ(metadata,
            (std::unordered_map<std::string, std::string>{{"format", "mlx"}, {"note", "caf\u00e9"}}));
  EXPECT_EQ(arrays.size(), 15u);
  for (Dtype dtype : kAllDtypes)
    if (dtype != float64) expect_same(arrays.at(std::string(dtype_name(dtype))), pattern({2, 3}, dtype));
  EXPECT_EQ(arrays.at("scalar").item<float>(), 7);
  EXPECT_EQ(arrays.at("empty").shape(), (Shape{0, 3}));
}

TEST(Safetensors, RoundTrips) {
  Folder folder;
  std::unordered_map<std::string, array> arrays;
  for (Dtype dtype : kAllDtypes) arrays.emplace(dtype_name(dtype), pattern({2, 3}, dtype));
  arrays.emplace("scalar", array(7.0f));
  arrays.emplace("empty", pattern({0, 3}, int8));
  arrays.emplace("weird \"name\" \n \u00e9", array({1, 2}));
  save_safetensors(folder / "a", arrays, {{"k", "v"}, {"", "\"quotes\"\n"}});
  auto [loaded, metadata] = load_safetensors(folder / "a.safetensors");
  EXPECT_EQ(metadata, (std::unordered_map<std::string, std::string>{{"k", "v"}, {"", "\"quotes\"\n"}}));
  ASSERT_EQ(loaded.size(), arrays.size());
  for (auto& [name, a] : arrays) expect_same(loaded.at(name), a);

  save_safetensors(folder / "none", {});
  EXPECT_TRUE(load_safetensors(folder / "none.safetensors").first.empty());
}

TEST(Safetensors, FilesAreReproducibleAndAligned) {
  Folder folder;
  std::unordered_map<std::string, array> forward, backward;
  std::vector<std::string> names = {"c", "a", "d", "b"};
  for (auto& n : names) forward.emplace(n, n == "d" ? pattern({3}, int8) : pattern({3}, float32));
  for (auto n = names.rbegin(); n != names.rend(); ++n) backward.emplace(*n, forward.at(*n));
  save_safetensors(folder / "1", forward);
  save_safetensors(folder / "2", backward);
  std::string bytes = read_file(folder / "1.safetensors");
  EXPECT_EQ(bytes, read_file(folder / "2.safetensors"));
  uint64_t length;
  std::memcpy(&length, bytes.data(), 8);
  EXPECT_EQ((8 + length) % 64, 0u);
  EXPECT_LT(bytes.find("\"a\""), bytes.find("\"b\""));
  EXPECT_LT(bytes.find("\"c\""), bytes.find("\"d\"")) << "wide types first, so that all are aligned";
}

TEST(Safetensors, ReadsStreams) {
  Folder folder;
  save_safetensors(std::make_shared<io::FileWriter>(folder / "a"), {{"x", pattern({2, 3}, float32)}},
                   {{"k", "v"}});
  auto [arrays, metadata] = load_safetensors(std::make_shared<io::FileReader>(folder / "a"));
  expect_same(arrays.at("x"), pattern({2, 3}, float32));
  EXPECT_EQ(metadata.at("k"), "v");
}

TEST(Safetensors, MisalignedDataIsCopied) {
  Folder folder;
  std::string json =
      R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}})";
  write_file(folder / "a", with_header(json, std::string("\7\0\0\x80\x3f", 5)));
  EXPECT_EQ(load_safetensors(folder / "a").first.at("b").item<float>(), 1.0f);
}

TEST(Safetensors, NamesTheFaultOfABadFile) {
  Folder folder;
  std::string file = folder / "bad.safetensors";
  auto error = [&](const std::string& json, const std::string& data = "12345678") {
    write_file(file, with_header(json, data));
    return error_of([&] { load_safetensors(file); });
  };
  auto tensor = [&](const std::string& fields) { return error("{\"w\":{" + fields + "}}"); };
  EXPECT_EQ(error_of([&] { load_safetensors(folder / "none"); }),
            "[load_safetensors] " + (folder / "none") + ": cannot open: No such file or directory");
  EXPECT_EQ(tensor(R"("dtype":"F8_E4M3","shape":[8],"data_offsets":[0,8])"),
            "[load_safetensors] " + file + ": tensor 'w': dtype 'F8_E4M3' is not supported");
  EXPECT_THAT(tensor(R"("dtype":"F32","shape":[2],"data_offsets":[0,9])"), HasSubstr("out of range"));
  EXPECT_THAT(tensor(R"("dtype":"F32","shape":[2],"data_offsets":[8,0])"), HasSubstr("out of range"));
  EXPECT_THAT(tensor(R"("dtype":"F32","shape":[3],"data_offsets":[0,8])"), HasSubstr("do not fit 8 bytes"));
  EXPECT_THAT(tensor(R"("dtype":"F32","shape":[4611686018427387904,2],"data_offsets":[0,0])"),
              HasSubstr("do not fit"));
  EXPECT_THAT(tensor(R"("dtype":"F32","shape":[0,4611686018427387904,8],"data_offsets":[0,8])"),
              HasSubstr("do not fit"));
  EXPECT_THAT(tensor(R"("dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,8])"),
              HasSubstr("too large"));
  EXPECT_THAT(tensor(R"("dtype":"F32","shape":[99999999999999999999999],"data_offsets":[0,8])"),
              HasSubstr("fraction"));
  EXPECT_THAT(tensor(R"("dtype":"F32","shape":[-2],"data_offsets":[0,8])"), HasSubstr("negative"));
  EXPECT_THAT(tensor(R"("dtype":"F32","shape":[[2]],"data_offsets":[0,8])"), HasSubstr("found a list"));
  EXPECT_THAT(tensor(R"("dtype":"F32","shape":[2],"data_offsets":[0])"), HasSubstr("two numbers"));
  EXPECT_THAT(tensor(R"("dtype":"F32","shape":[2],"data_offsets":[0,8,8])"), HasSubstr("two numbers"));
  EXPECT_THAT(tensor(R"("dtype":"F32","shape":[2])"), HasSubstr("'data_offsets' is missing"));
  EXPECT_THAT(tensor(R"("dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8])"),
              HasSubstr("duplicate key 'dtype'"));
  EXPECT_THAT(tensor(R"("dtype":3)"), HasSubstr("dtype must be a string"));
  EXPECT_THAT(tensor(R"("strides":[1])"), HasSubstr("unknown key 'strides'"));

  std::string a = R"("a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]})";
  auto second = [&](const std::string& offsets) {
    return error("{" + a + R"(,"b":{"dtype":"U8","shape":[4],"data_offsets":)" + offsets + "}}");
  };
  EXPECT_THAT(second("[2,6]"), HasSubstr("tensor 'b': its data begins at 2, which overlaps"));
  EXPECT_THAT(error("{" + a + "," + a + "}"), HasSubstr("duplicate key 'a'"));
  EXPECT_THAT(error("{" + a + "}"), HasSubstr("4 bytes at the end belong to no tensor"));
  EXPECT_THAT(error(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})"), HasSubstr("leaves a gap"));

  EXPECT_THAT(error(R"({"__metadata__":{"a":1}})"),
              HasSubstr("metadata 'a' must be a string, found a number"));
  EXPECT_THAT(error(R"({"__metadata__":{"a":"1","a":"2"}})"), HasSubstr("duplicate key 'a' in the metadata"));
  EXPECT_THAT(error(R"({"__metadata__":null})"), HasSubstr("__metadata__ must be an object"));
  EXPECT_THAT(error("[]"), HasSubstr("not valid JSON"));
  EXPECT_THAT(error(R"({"a":)" + std::string(100000, '[')), HasSubstr("expected an object, found a list"));
  EXPECT_THAT(error(R"({"a":)" + std::string(100000, '{')), HasSubstr("not valid JSON"));
  EXPECT_THAT(error("{} {}"), HasSubstr("not valid JSON"));
  EXPECT_THAT(error("{\"\xff\":1}"), HasSubstr("not valid JSON"));
  std::string escape = error("{\"\\u001b[31m\":1}");
  EXPECT_THAT(escape, HasSubstr("tensor '\\x1b[31m'"));

  write_file(file, "short");
  EXPECT_THAT(error_of([&] { load_safetensors(file); }), HasSubstr("cut off"));
  write_file(file, std::string(8, '\xff'));
  EXPECT_THAT(error_of([&] { load_safetensors(file); }),
              HasSubstr("header claims 18446744073709551615 bytes"));
  write_file(file, std::string("\xff\xff\xff\x7f\0\0\0\0{}", 10));
  EXPECT_THAT(error_of([&] { load_safetensors(file); }),
              HasSubstr("header claims 2147483647 bytes, the file has 10"));
}

TEST(Safetensors, RefusesNamesTheFormatCannotHold) {
  Folder folder;
  EXPECT_THROW(save_safetensors(folder / "a", {{"__metadata__", array(1)}}), std::invalid_argument);
  EXPECT_THROW(save_safetensors(folder / "a", {{"\xff", array(1)}}), std::invalid_argument);
  EXPECT_THROW(save_safetensors(folder / "a", {}, {{"k", "\xff"}}), std::invalid_argument);
  EXPECT_TRUE(folder.list().empty());
}

}  // namespace
}  // namespace lazuli
