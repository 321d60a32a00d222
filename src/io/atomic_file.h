// AtomicFile: a Writer whose file appears under its name complete, or not at all.
//
//     AtomicFile file("save", "a.npy");
//     file.write(bytes, n);
//     file.commit();   // without it the destructor removes what was written
//
// A device or pipe, which cannot be replaced, is written directly.
#pragma once

#include <string>
#include <vector>

#include "lazuli/io/stream.h"

namespace lazuli::io {

class AtomicFile : public Writer {
 public:
  // Throws std::runtime_error if `path` is a folder, is write-protected, or lies in a
  // folder that cannot be written.
  AtomicFile(std::string_view op, const std::string& path);
  ~AtomicFile() override;
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  bool is_open() const override { return fd_ >= 0; }
  bool good() const override { return is_open(); }
  size_t tell() override { return written_; }
  void seek(int64_t offset, std::ios_base::seekdir way) override;
  void write(const char* data, size_t n) override;
  std::string label() const override { return "file " + path_; }

  // Flushes to disk and renames.
  void commit();

 private:
  void flush();
  void write_now(const char* data, size_t n);

  std::string op_, path_, target_, temporary_;  // temporary_ is empty when writing directly
  int fd_ = -1;
  size_t written_ = 0;
  std::vector<char> pending_;
};

}  // namespace lazuli::io
