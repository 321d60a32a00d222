#include "lazuli/io/tensor_writer.h"

#include "lazuli/io.h"
#include "lazuli/ops.h"
#include "tests/io/files.h"
#include "tests/support.h"

namespace lazuli {
namespace {

using test::Folder;
using test::read_file;
using testing::message_of;

TEST(TensorWriter, PiecesGiveTheFileOfTheWhole) {
  Folder folder;
  const array a = reshape(arange(0.0, 6.0, float32), {2, 3}), b = astype(arange(0.0, 3.0, float32), float16);
  SafetensorsWriter out(folder / "pieces.safetensors",
                        std::vector<TensorInfo>{{"a", float32, {2, 3}}, {"b", float16, {3}}});
  out.write(slice(a, {0, 0}, {1, 3}));
  out.write(slice(a, {1, 0}, {2, 3}));
  out.write(b);
  out.commit();
  save_safetensors(folder / "whole.safetensors", {{"a", a}, {"b", b}});
  EXPECT_EQ(read_file(folder / "pieces.safetensors"), read_file(folder / "whole.safetensors"));

  const std::vector<GgufTensor> tensors{gguf_tensor("a", a), gguf_tensor("b", b)};
  GgufWriter gguf(folder / "pieces.gguf", {}, tensors);
  for (const GgufTensor& t : tensors)
    for (size_t i = 0; i < t.bytes.size(); i += 2) gguf.write(t.bytes.subspan(i, 2));
  gguf.commit();
  save_gguf(folder / "whole.gguf", {}, tensors);
  EXPECT_EQ(read_file(folder / "pieces.gguf"), read_file(folder / "whole.gguf"));
}

TEST(TensorWriter, WhatWasAnnouncedMustCome) {
  Folder folder;
  const std::vector<TensorInfo> one{{"a", float32, {2}}};
  auto error = [](auto f) { return message_of<std::invalid_argument>(f); };
  EXPECT_EQ(error([&] {
              SafetensorsWriter out(folder / "a", one);
              out.write(array({1.0f, 2.0f, 3.0f}));
            }),
            "[save_safetensors] 4 bytes more than the tensors announced");
  EXPECT_EQ(error([&] {
              SafetensorsWriter out(folder / "a", one);
              out.write(array({1.0f}));
              out.commit();
            }),
            "[save_safetensors] tensor 'a' has 4 bytes, announced were 8");
  EXPECT_EQ(error([&] {
              SafetensorsWriter(folder / "a", std::vector<TensorInfo>{one[0], one[0]});
            }),
            "[save_safetensors] tensor 'a' is given twice");
  EXPECT_TRUE(folder.list().empty());
}

}  // namespace
}  // namespace lazuli
