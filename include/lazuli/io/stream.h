// Reader and Writer: byte streams that `load` and `save` accept in place of a file name.
//
// Derive from them to keep arrays in memory, in an archive or behind a network. A Reader
// must be seekable. Both report failure through good() or by throwing.
//
//     auto writer = std::make_shared<lazuli::io::FileWriter>("a.npy");
//     lazuli::save(writer, lazuli::array({1, 2, 3}));
//
// FileWriter writes in place; `save` with a file name replaces the file atomically.
#pragma once

#include <cstddef>
#include <cstdint>
#include <ios>
#include <memory>
#include <string>

namespace lazuli::io {

class Reader {
 public:
  virtual ~Reader() = default;
  virtual bool is_open() const = 0;
  virtual bool good() const = 0;
  virtual size_t tell() = 0;
  virtual void seek(int64_t offset, std::ios_base::seekdir way = std::ios_base::beg) = 0;
  // Reads n bytes at the position and moves it.
  virtual void read(char* data, size_t n) = 0;
  // Reads n bytes at `offset` from the start; the position is unspecified afterwards.
  virtual void read(char* data, size_t n, size_t offset) = 0;
  // What errors call this stream: "file a.npy".
  virtual std::string label() const = 0;
};

class Writer {
 public:
  virtual ~Writer() = default;
  virtual bool is_open() const = 0;
  virtual bool good() const = 0;
  virtual size_t tell() = 0;
  virtual void seek(int64_t offset, std::ios_base::seekdir way = std::ios_base::beg) = 0;
  virtual void write(const char* data, size_t n) = 0;
  virtual std::string label() const = 0;
  // Called once all values are computed, just before the first write.
  virtual void open() {}
};

// A file opened for reading. Errors are std::runtime_error and name the file.
class FileReader : public Reader {
 public:
  explicit FileReader(std::string path);
  ~FileReader() override;
  FileReader(const FileReader&) = delete;
  FileReader& operator=(const FileReader&) = delete;

  bool is_open() const override { return fd_ >= 0; }
  bool good() const override { return is_open(); }
  size_t tell() override;
  void seek(int64_t offset, std::ios_base::seekdir way = std::ios_base::beg) override;
  void read(char* data, size_t n) override;
  void read(char* data, size_t n, size_t offset) override;
  std::string label() const override { return "file " + path_; }

 private:
  std::string path_;
  int fd_;
};
using ParallelFileReader = FileReader;

// A file that `open` creates or empties. Errors are std::runtime_error and name the file.
class FileWriter : public Writer {
 public:
  explicit FileWriter(std::string path) : path_(std::move(path)) {}
  ~FileWriter() override;
  FileWriter(const FileWriter&) = delete;
  FileWriter& operator=(const FileWriter&) = delete;

  void open() override;
  bool is_open() const override { return fd_ >= 0; }
  bool good() const override { return is_open(); }
  size_t tell() override;
  void seek(int64_t offset, std::ios_base::seekdir way = std::ios_base::beg) override;
  void write(const char* data, size_t n) override;
  std::string label() const override { return "file " + path_; }

 private:
  std::string path_;
  int fd_ = -1;
};

}  // namespace lazuli::io
