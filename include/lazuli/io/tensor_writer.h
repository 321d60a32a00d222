// Model files written piece by piece, for models that do not fit into memory: all tensors are announced
// first, then their bytes follow in the same order.
//
//     SafetensorsWriter out("model.safetensors", {{"a", float32, {2, 3}}, {"b", float16, {4}}});
//     out.write(values_of_a);      // pieces of any size: a few rows, an expert, a tensor
//     out.write(values_of_b);
//     out.commit();                // without it nothing is left behind
//
// Files appear under their name when they are complete, or not at all. Errors: std::invalid_argument
// "[save_gguf] ..." or "[save_safetensors] ..." for what the format cannot hold and for a number of bytes
// that is not the one announced; std::runtime_error for files that cannot be written.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "lazuli/array.h"
#include "lazuli/io/gguf.h"

namespace lazuli {

// A tensor of a safetensors file.
struct TensorInfo {
  std::string name;
  Dtype dtype = float32;
  Shape shape;
};

// One file of tensors, whose headers the derived classes make.
class TensorWriter {
 public:
  virtual ~TensorWriter();
  TensorWriter(const TensorWriter&) = delete;
  TensorWriter& operator=(const TensorWriter&) = delete;

  // The next bytes of the tensors, row-major.
  void write(std::span<const std::byte> bytes);
  // The same, of an array of the announced dtype; it is computed here.
  void write(const array& values);
  // Completes the file. Throws std::invalid_argument if bytes are missing.
  void commit();

 protected:
  struct Part {
    std::string name;
    uint64_t bytes = 0, padding = 0;  // behind it
  };
  TensorWriter(std::string op, const std::string& file, const std::string& header, std::vector<Part> parts);

 private:
  struct File;
  std::string op_;
  std::unique_ptr<File> file_;
  std::vector<Part> parts_;
  size_t at_ = 0;      // the part that is being written
  uint64_t done_ = 0;  // bytes of it
  void skip_complete();
};

class GgufWriter final : public TensorWriter {
 public:
  // Of the tensors name, shape and type count. Metadata and limits: see save_gguf.
  GgufWriter(const std::string& file, const GgufMetadata& metadata, std::span<const GgufTensor> tensors);
};

class SafetensorsWriter final : public TensorWriter {
 public:
  // Writes to `file` as it is called. For aligned data larger items come first.
  SafetensorsWriter(const std::string& file, std::span<const TensorInfo> tensors,
                    const std::unordered_map<std::string, std::string>& metadata = {});
};

// Gives back the memory of pages of a mapped file that lie in `bytes`; they come again if they are used. Does
// nothing for other memory.
void release_pages(std::span<const std::byte> bytes);

}  // namespace lazuli
