// Source: the bytes a parser reads. A parser asks for ranges; every range is checked
// against the size before memory is reserved for it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "lazuli/array.h"
#include "lazuli/io/stream.h"

namespace lazuli::io {

class Source {
 public:
  Source(std::string_view op, std::string name) : op_(op), name_(std::move(name)) {}
  virtual ~Source() = default;

  std::string_view op() const { return op_; }
  const std::string& name() const { return name_; }
  uint64_t size() const { return size_; }

  // n bytes at `offset`. Throws std::runtime_error, saying that `what` is cut off, if they
  // are not all there.
  std::shared_ptr<std::byte> read(uint64_t offset, uint64_t n, std::string_view what);

  // An array of the elements at `offset`, which are big-endian if `swap`. Shares the
  // source's memory where that is aligned.
  array read_array(uint64_t offset, const Shape& shape, Dtype dtype, bool swap, std::string_view what);

  // Throws std::runtime_error naming the operation and the file.
  [[noreturn]] void fail(std::string_view what) const;

 protected:
  virtual std::shared_ptr<std::byte> fetch(uint64_t offset, uint64_t n) = 0;
  uint64_t size_ = 0;

 private:
  std::string op_, name_;
};

// A file: mapped if it is large, read at once if it is small or not a regular file.
std::unique_ptr<Source> open_file(std::string_view op, const std::string& path);

// The rest of a stream from its position; offsets count from there.
std::unique_ptr<Source> open_reader(std::string_view op, std::shared_ptr<Reader> reader);

// Bytes that are in memory already.
std::unique_ptr<Source> open_memory(std::string_view op, std::string name, std::shared_ptr<std::byte> data,
                                    uint64_t size);

// Gives the memory of these bytes back if a file is mapped there, and does nothing otherwise. They come again
// from the file when they are next used; what was written over them in memory is lost.
void release_pages(const void* data, uint64_t n);

// Uninitialised memory, aligned for every element type.
std::shared_ptr<std::byte> allocate_bytes(uint64_t n);

// Reverses the bytes of n elements of `itemsize` bytes.
void swap_bytes(std::byte* data, uint64_t n, size_t itemsize);

}  // namespace lazuli::io
