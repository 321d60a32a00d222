#include "lazuli/io/gguf.h"

#include <gmock/gmock.h>

#include "lazuli/ops.h"
#include "tests/io/arrays.h"
#include "tests/io/files.h"

namespace lazuli {
namespace {
using namespace test;
using testing::ElementsAre;
using testing::HasSubstr;

std::string reference(const std::string& name) { return LAZULI_TEST_DATA "/gguf/" + name; }

template <class E, class F>
std::string message(F&& f) {
  try {
    f();
  } catch (const E& e) {
    return e.what();
  }
  return "nothing was thrown";
}

Gguf sample() {
  Gguf out;
  out.metadata.set("general.architecture", "llama");
  out.metadata.set("u8", uint8_t{200});
  out.metadata.set("i8", int8_t{-100});
  out.metadata.set("u16", uint16_t{60000});
  out.metadata.set("i16", int16_t{-30000});
  out.metadata.set("u32", uint32_t{4000000000});
  out.metadata.set("i32", int32_t{-2000000000});
  out.metadata.set("f32", 0.1f);
  out.metadata.set("yes", true);
  out.metadata.set("u64", UINT64_MAX);
  out.metadata.set("i64", INT64_MIN);
  out.metadata.set("f64", 0.1);
  out.metadata.set("strings", std::vector<std::string>{"a", "", "\u00e9"});
  out.metadata.set("bools", std::vector<bool>{true, false});
  out.metadata.set("none", std::vector<int16_t>{});
  out.metadata.set("nested", std::vector<GgufArray>{{std::vector<double>{1, 2}}, {std::vector<GgufArray>{}}});
  for (Dtype dtype : {float32, float16, bfloat16, float64, int8, int16, int32, int64})
    out.add(gguf_tensor(std::string(dtype_name(dtype)), pattern({2, 3}, dtype)));
  out.add(gguf_tensor("scalar", array(7.0f)));
  out.add(gguf_tensor("empty", pattern({0, 3}, int8)));
  out.add(quantize("q8", pattern({2, 2, 64}, float32), GgmlType::Q8_0));
  out.add(gguf_tensor("blocks", zeros({3, 36}, uint8), GgmlType::Q4_0));
  return out;
}

TEST(Gguf, ReadsWhatTheGgufPackageWrites) {
  Gguf file = load_gguf(reference("everything.gguf"));
  const GgufMetadata& m = file.metadata;
  EXPECT_EQ(file.version, 3u);
  EXPECT_EQ(m.begin()->first, "general.architecture");
  EXPECT_EQ(m.get<std::string>("general.architecture"), "test");
  EXPECT_EQ(m.at("u8"), GgufValue(uint8_t{200}));
  EXPECT_EQ(m.at("i8"), GgufValue(int8_t{-100}));
  EXPECT_EQ(m.at("u16"), GgufValue(uint16_t{60000}));
  EXPECT_EQ(m.at("i16"), GgufValue(int16_t{-30000}));
  EXPECT_EQ(m.at("u32"), GgufValue(uint32_t{4000000000}));
  EXPECT_EQ(m.at("i32"), GgufValue(int32_t{-2000000000}));
  EXPECT_EQ(m.at("f32"), GgufValue(0.1f));
  EXPECT_EQ(m.at("yes"), GgufValue(true));
  EXPECT_EQ(m.at("no"), GgufValue(false));
  EXPECT_EQ(m.at("string"), GgufValue(std::string("caf\u00e9 \u2603")));
  EXPECT_EQ(m.at("u64"), GgufValue(uint64_t{9223372036854775809u}));
  EXPECT_EQ(m.at("i64"), GgufValue(int64_t{-4611686018427387904}));
  EXPECT_EQ(m.at("f64"), GgufValue(0.1));
  EXPECT_THAT(m.get<std::vector<std::string>>("strings"), ElementsAre("a", "", "\u00e9"));
  EXPECT_THAT(m.get<std::vector<int64_t>>("ints"), ElementsAre(1, -2, 3));
  EXPECT_THAT(m.get<std::vector<float>>("floats"), ElementsAre(0.5f, -1.5f));
  EXPECT_THAT(m.get<std::vector<bool>>("bools"), ElementsAre(true, false, true));
  EXPECT_THAT(m.get<std::vector<uint8_t>>("bytes"), ElementsAre(0, 1, 255));
  auto nested = std::get<std::vector<GgufArray>>(std::get<GgufArray>(m.at("nested")).values);
  ASSERT_EQ(nested.size(), 2u);
  EXPECT_EQ(nested[1].size(), 3u);

  for (Dtype dtype : {float32, float16, bfloat16, float64, int8, int16, int32, int64})
    expect_same(file.at(std::string(dtype_name(dtype))).values(), pattern({2, 3}, dtype));
  EXPECT_EQ(file.at("rank4").shape, (Shape{1, 2, 3, 4}));
  for (const GgufTensor& t : file.tensors) EXPECT_EQ(t.offset % 64, 0u) << t.name;
}

TEST(Gguf, RoundTrips) {
  Folder folder;
  Gguf out = sample();
  save_gguf(folder / "a.gguf", out);
  Gguf in = load_gguf(folder / "a.gguf");
  EXPECT_EQ(in.metadata, out.metadata);
  ASSERT_EQ(in.tensors.size(), out.tensors.size());
  for (size_t i = 0; i < in.tensors.size(); ++i) {
    const GgufTensor &a = in.tensors[i], &b = out.tensors[i];
    EXPECT_EQ(a.name, b.name);
    EXPECT_EQ(a.shape, b.shape) << a.name;
    EXPECT_EQ(a.type, b.type) << a.name;
    EXPECT_TRUE(std::ranges::equal(a.bytes, b.bytes)) << a.name;
    EXPECT_EQ(a.offset % 32, 0u);
    expect_same(a.values(), b.values());
  }
  std::string bytes = read_file(folder / "a.gguf");
  save_gguf(folder / "b.gguf", in);
  EXPECT_EQ(read_file(folder / "b.gguf"), bytes);
  EXPECT_EQ(folder.list().size(), 2u);
}

TEST(Gguf, AlignmentKeyIsHonoured) {
  Folder folder;
  GgufMetadata m;
  m.set("general.alignment", uint32_t{256});
  std::vector<GgufTensor> tensors = {gguf_tensor("a", pattern({3}, int8)),
                                     gguf_tensor("b", pattern({3}, float32))};
  save_gguf(folder / "a", m, tensors);
  Gguf in = load_gguf(folder / "a");
  for (auto& t : in.tensors) EXPECT_EQ(t.offset % 256, 0u);
  expect_same(in.at("b").values(), pattern({3}, float32));
}

TEST(Gguf, BlocksStayPacked) {
  Gguf file = sample();
  const GgufTensor& t = file.at("q8");
  EXPECT_TRUE(t.packed());
  EXPECT_EQ(t.values().shape(), (Shape{2, 2, 68}));
  EXPECT_EQ(t.values().dtype(), uint8);
  array x = dequantize(t), expected = pattern({2, 2, 64}, float32);
  EXPECT_LE(max(abs(x - expected)).item<float>(), 1.01f);  // steps of 253 / 127
  EXPECT_EQ(dequantize(t, float16).dtype(), float16);
  expect_same(dequantize(t, bfloat16), astype(x, bfloat16));
  EXPECT_EQ(file.at("blocks").shape, (Shape{3, 64}));
  expect_same(dequantize(file.at("int8")), pattern({2, 3}, float32));

  GgufTensor again = gguf_tensor("again", t.values(), GgmlType::Q8_0);
  EXPECT_EQ(again.shape, t.shape);
  EXPECT_TRUE(std::ranges::equal(again.bytes, t.bytes));
}

// A file above 4 MB is mapped: opening must not read the data, and arrays keep the mapping.
TEST(Gguf, LargeFilesAreMapped) {
  Folder folder;
  save_gguf(folder / "a", {}, std::vector{gguf_tensor("x", full({2 << 20}, 3.0f, float32))});
  std::optional<array> x;
  {
    Gguf file = load_gguf(folder / "a");
    x = file.at("x").values();
    EXPECT_EQ(x->data<float>(), reinterpret_cast<const float*>(file.tensors[0].bytes.data()));
    EXPECT_EQ(x->data<float>(), file.at("x").values().data<float>());
  }
  std::filesystem::remove(folder / "a");
  EXPECT_EQ(sum(*x).item<float>(), 3.0f * (2 << 20));
  x->data<float>()[0] = 4;  // private: the file is never written
  EXPECT_EQ(x->data<float>()[0], 4);
}

TEST(Gguf, PagesOfMappedTensorsComeAgain) {
  Folder folder;
  save_gguf(folder / "a", {},
            std::vector{gguf_tensor("x", full({2 << 20}, 3.0f, float32)),
                        gguf_tensor("y", full({2 << 20}, 4.0f, float32))});
  Gguf file = load_gguf(folder / "a");
  array x = file.at("x").values(), y = file.at("y").values();
  for (array* a : {&x, &y}) {
    a->data<float>()[1 << 20] = 7;  // in memory only
    a->data<float>()[0] = 8;
  }
  release_pages(file.at("x"));
  EXPECT_EQ(x.data<float>()[1 << 20], 3);
  EXPECT_EQ(y.data<float>()[1 << 20], 7);
  EXPECT_EQ(y.data<float>()[0], 8);
  GgufTensor mine = gguf_tensor("z", full({2 << 20}, 5.0f, float32));
  release_pages(mine);  // not mapped: nothing happens
  EXPECT_EQ(mine.values().data<float>()[1 << 20], 5);
}

TEST(Gguf, MetadataConversions) {
  GgufMetadata m = sample().metadata;
  EXPECT_EQ(m.get<int64_t>("u32"), 4000000000);
  EXPECT_EQ(m.get<double>("i8"), -100.0);
  EXPECT_EQ(m.get<float>("f64"), 0.1f);
  EXPECT_EQ(m.get<uint8_t>("u8"), 200);
  EXPECT_EQ(m.get_or<int>("missing", 5), 5);
  EXPECT_EQ(m.get_or<int>("u16", 5), 60000);
  EXPECT_TRUE(m.get<std::vector<std::string>>("none").empty());
  using Bad = std::invalid_argument;
  EXPECT_EQ(message<std::out_of_range>([&] { m.get<int>("missing"); }),
            "[gguf] the metadata has no key 'missing'");
  EXPECT_EQ(message<Bad>([&] { m.get<int>("u32"); }),
            "[gguf] metadata 'u32': expected i32, found u32 4000000000");
  EXPECT_EQ(message<Bad>([&] { m.get<int>("f32"); }), "[gguf] metadata 'f32': expected i32, found f32 0.1");
  EXPECT_EQ(message<Bad>([&] { m.get<bool>("u8"); }), "[gguf] metadata 'u8': expected bool, found u8 200");
  EXPECT_EQ(message<Bad>([&] { m.get<std::string>("bools"); }),
            "[gguf] metadata 'bools': expected string, found array of 2 bool");
  EXPECT_EQ(message<Bad>([&] { m.get<std::vector<int>>("strings"); }),
            "[gguf] metadata 'strings': expected array of i32, found array of 3 string");
  EXPECT_EQ(message<Bad>([&] { m.get<std::vector<float>>("f32"); }),
            "[gguf] metadata 'f32': expected array of a number, found f32 0.1");
  m.set("u8", "now a string");
  EXPECT_EQ((m.begin() + 1)->first, "u8") << "replacing keeps the place";
  EXPECT_TRUE(m.erase("u8"));
  EXPECT_FALSE(m.erase("u8"));
  EXPECT_EQ(m.get<std::string>("general.architecture"), "llama");
  EXPECT_EQ(m.get<int>("i8"), -100);
}

TEST(Gguf, CallsThatCannotWork) {
  Folder folder;
  using Bad = std::invalid_argument;
  auto x = gguf_tensor("x", pattern({2, 3}, float32));
  auto save = [&](GgufMetadata m, std::vector<GgufTensor> t) {
    return message<Bad>([&] { save_gguf(folder / "a", m, t); });
  };
  EXPECT_EQ(save({}, {x, x}), "[save_gguf] tensor 'x': the name is used twice");
  EXPECT_EQ(save({}, {gguf_tensor(std::string(64, 'n'), pattern({1}, int8))}),
            "[save_gguf] tensor '" + std::string(64, 'n') + "': a name has 1 to 63 bytes, found 64");
  EXPECT_EQ(save({}, {gguf_tensor("x", pattern({1, 1, 1, 1, 1}, int8))}),
            "[save_gguf] tensor 'x': at most 4 axes are possible, found shape (1, 1, 1, 1, 1)");
  GgufTensor cut = x;
  cut.bytes = cut.bytes.first(20);
  EXPECT_EQ(save({}, {cut}), "[save_gguf] tensor 'x': shape (2, 3) of F32 takes 24 bytes, found 20");
  for (uint32_t alignment : {0u, 4u, 48u}) {
    GgufMetadata m;
    m.set("general.alignment", alignment);
    EXPECT_THAT(save(m, {}), HasSubstr("must be a power of two from 8 of type u32"));
  }
  GgufMetadata m;
  m.set("", "x");
  EXPECT_EQ(save(m, {}), "[save_gguf] a metadata key has 1 to 65535 bytes, found 0");
  EXPECT_TRUE(folder.list().empty());

  EXPECT_THAT(message<Bad>([] { gguf_tensor("x", pattern({2}, bool_)); }), HasSubstr("no type stores bool"));
  EXPECT_EQ(
      message<Bad>([] {
        gguf_tensor("x", pattern({2, 17}, uint8), GgmlType::Q4_0);
      }),
      "[gguf_tensor] tensor 'x': rows of Q4_0 are uint8 with a multiple of 18 bytes, found uint8 (2, 17)");
  EXPECT_EQ(
      message<Bad>([] {
        quantize("x", pattern({32, 33}, float32), GgmlType::Q4_0);
      }),
      "[quantize] tensor 'x': Q4_0 has blocks of 32 values, which do not divide the last axis of (32, 33)");
  EXPECT_EQ(message<Bad>([] { quantize("x", pattern({32}, int32), GgmlType::Q4_0); }),
            "[quantize] tensor 'x': expected a floating dtype, found int32");
  EXPECT_EQ(message<Bad>([] { quantize("x", pattern({256}, float32), GgmlType::Q2_K); }),
            "[quantize] tensor 'x': [ggml_quantize] Q2_K is not supported");
  EXPECT_EQ(message<Bad>([&] { dequantize(x, int32); }),
            "[dequantize] expected a floating dtype, found int32");
  auto unknown = gguf_tensor("u", zeros({1, 66}, uint8), GgmlType::TQ2_0);
  EXPECT_EQ(message<Bad>([&] { dequantize(unknown); }),
            "[dequantize] tensor 'u': [ggml_dequantize] TQ2_0 is not supported");
  EXPECT_EQ(message<std::out_of_range>([] { sample().at("nothing"); }),
            "[gguf] there is no tensor 'nothing'");
}

// ---- files put together by hand ----

template <class T>
std::string raw(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}
std::string text(const std::string& s) { return raw<uint64_t>(s.size()) + s; }
std::string start(uint64_t tensors, uint64_t keys, uint32_t version = 3) {
  return "GGUF" + raw(version) + raw(tensors) + raw(keys);
}
std::string tensor(const std::string& name, std::vector<uint64_t> dims, uint32_t type, uint64_t offset) {
  std::string out = text(name) + raw<uint32_t>(static_cast<uint32_t>(dims.size()));
  for (uint64_t d : dims) out += raw(d);
  return out + raw(type) + raw(offset);
}
std::string padded(std::string header, size_t data) {
  header.resize((header.size() + 31) / 32 * 32 + data);
  return header;
}

TEST(Gguf, ReadsVersion1) {
  auto short_text = [](const std::string& s) { return raw<uint32_t>(static_cast<uint32_t>(s.size())) + s; };
  std::string bytes = "GGUF" + raw<uint32_t>(1) + raw<uint32_t>(1) + raw<uint32_t>(2);
  bytes += short_text("name") + raw<uint32_t>(8) + short_text("old");
  bytes += short_text("list") + raw<uint32_t>(9) + raw<uint32_t>(4) + raw<uint32_t>(2) + raw<uint32_t>(5) +
           raw<uint32_t>(6);
  bytes += short_text("x") + raw<uint32_t>(1) + raw<uint32_t>(2) + raw<uint32_t>(0) + raw<uint64_t>(0);
  bytes = padded(bytes, 0) + raw(1.5f) + raw(2.5f);
  Folder folder;
  write_file(folder / "a", bytes);
  Gguf file = load_gguf(folder / "a");
  EXPECT_EQ(file.version, 1u);
  EXPECT_EQ(file.metadata.get<std::string>("name"), "old");
  EXPECT_THAT(file.metadata.get<std::vector<int>>("list"), ElementsAre(5, 6));
  EXPECT_EQ(file.at("x").values().to_vector<float>(), (std::vector<float>{1.5f, 2.5f}));
}

TEST(Gguf, MisalignedDataIsCopied) {
  // With alignment 1 the float lies behind one byte, at some odd address for one of the two keys.
  Folder folder;
  for (std::string key : {"k", "kk", "kkk", "kkkk"}) {
    std::string header = start(2, 2) + text("general.alignment") + raw<uint32_t>(4) + raw<uint32_t>(1) +
                         text(key) + raw<uint32_t>(0) + raw<uint8_t>(0) + tensor("b", {1}, 24, 0) +
                         tensor("x", {1}, 0, 1);
    write_file(folder / "a", header + raw<int8_t>(1) + raw(2.5f));
    EXPECT_EQ(load_gguf(folder / "a").at("x").values().item<float>(), 2.5f);
  }
}

TEST(Gguf, NamesTheFaultOfABadFile) {
  Folder folder;
  auto expect = [&](const std::string& bytes, const std::string& what) {
    write_file(folder / "a", bytes);
    EXPECT_EQ(error_of([&] { load_gguf(folder / "a"); }), "[load_gguf] " + (folder / "a") + ": " + what);
  };
  auto key = [](uint32_t type, const std::string& value) {
    return start(0, 1) + text("k") + raw(type) + value;
  };
  constexpr uint64_t kHuge = uint64_t{1} << 60;
  expect("", "not a GGUF file: expected the first bytes 'GGUF', found ''");
  expect("PK\3\4....", "not a GGUF file: expected the first bytes 'GGUF', found 'PK\\x03\\x04'");
  expect(start(0, 0, 4), "versions 1 to 3 are supported, found 4");
  expect(start(0, 0, 0), "versions 1 to 3 are supported, found 0");
  expect(start(0, 0, 0x03000000), "big-endian files are not supported");
  expect(std::string("GGUF\3\0\0", 7), "cut off: the version needs 4 bytes at offset 4, but the file has 7");
  expect(start(kHuge, 0), "cut off: the file claims 1152921504606846976 tensors, but only 0 bytes follow");
  expect(start(0, kHuge), "cut off: the file claims 1152921504606846976 keys, but only 0 bytes follow");
  expect(start(0, 1) + raw(kHuge) + std::string(20, 'x'),
         "cut off: a metadata key needs 1152921504606846976 bytes at offset 32, but the file has 52");
  expect(start(0, 1) + text("") + std::string(20, 0), "a metadata key is empty");
  expect(start(0, 2) + text("k") + raw<uint32_t>(0) + "x" + text("k") + raw<uint32_t>(0) + "y",
         "metadata 'k': the key is used twice");
  expect(key(13, std::string(20, 0)), "metadata 'k': there is no value type 13");
  expect(key(8, raw(kHuge)),
         "cut off: metadata 'k' needs 1152921504606846976 bytes at offset 45, but the file has 45");
  for (uint32_t type = 0; type < 13; ++type) {
    SCOPED_TRACE(type);
    expect(key(9, raw(type) + raw(kHuge)),
           "cut off: the file claims 1152921504606846976 values of metadata 'k', but only 0 bytes follow");
  }
  expect(key(9, raw<uint32_t>(99) + raw<uint64_t>(0)), "metadata 'k': there is no value type 99");
  std::string nest;
  for (int i = 0; i < 40; ++i) nest += raw<uint32_t>(9) + raw<uint64_t>(1);
  expect(key(9, nest + raw<uint32_t>(0) + raw<uint64_t>(0)), "metadata 'k': arrays nest more than 16 deep");

  auto one = [&](const std::string& t, size_t data = 64) { return padded(start(1, 0) + t, data); };
  expect(one(tensor("x", {1, 1, 1, 1, 1}, 0, 0)), "tensor 'x': at most 4 axes are supported, found 5");
  expect(one(tensor("x", {UINT64_MAX}, 0, 0)), "tensor 'x': the shape is too large");
  expect(one(tensor("x", {uint64_t{1} << 32, uint64_t{1} << 32}, 0, 0)),
         "tensor 'x': the shape is too large");
  expect(one(tensor("x", {0, uint64_t{1} << 32, uint64_t{1} << 32}, 0, 0)),
         "tensor 'x': the shape is too large");
  expect(one(tensor("x", {uint64_t{1} << 62}, 0, 0)),
         "tensor 'x': cut off: shape (4611686018427387904,) of F32 at offset 0 does not fit the 64 bytes of "
         "data");
  expect(one(tensor("x", {4}, 4, 0)), "tensor 'x': type 4 is not known");
  expect(one(tensor("x", {33, 2}, 8, 0)),
         "tensor 'x': Q8_0 has blocks of 32 values, which do not divide the last axis of (2, 33)");
  expect(one(tensor("x", {4}, 0, 8)), "tensor 'x': its offset 8 is not a multiple of the alignment 32");
  expect(one(tensor("x", {4}, 0, 64)),
         "tensor 'x': cut off: shape (4,) of F32 at offset 64 does not fit the 64 bytes of data");
  expect(one(tensor("x", {4}, 0, UINT64_MAX - 31)),
         "tensor 'x': cut off: shape (4,) of F32 at offset 18446744073709551584 does not fit the 64 bytes of "
         "data");
  expect(padded(start(2, 0) + tensor("x", {4}, 0, 0) + tensor("x", {4}, 0, 32), 64),
         "tensor 'x': the name is used twice");
  expect(padded(start(2, 0) + tensor("x", {9}, 0, 0) + tensor("y", {4}, 0, 32), 64),
         "tensor 'y': its data overlaps that of tensor 'x'");
  for (uint32_t alignment : {0u, 33u, 1u << 31})
    expect(start(0, 1) + text("general.alignment") + raw<uint32_t>(4) + raw(alignment),
           "metadata 'general.alignment' must be a power of two of type u32");
  EXPECT_EQ(error_of([&] { load_gguf(folder / "missing"); }),
            "[load_gguf] " + (folder / "missing") + ": cannot open: No such file or directory");
  EXPECT_EQ(error_of([&] { save_gguf(folder / "no/a", Gguf()); }),
            "[save_gguf] " + (folder / "no/a") + ": cannot create: No such file or directory");
}

}  // namespace
}  // namespace lazuli
