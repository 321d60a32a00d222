#include "io/source.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <iterator>
#include <map>
#include <mutex>
#include <new>

#include "io/error.h"

namespace lazuli::io {
namespace {

// Below this a copy is as fast as page faults, and safe from changes to the file.
constexpr uint64_t kMapFrom = 4 << 20;

class MemorySource : public Source {
 public:
  MemorySource(std::string_view op, std::string name, std::shared_ptr<std::byte> data, uint64_t size)
      : Source(op, std::move(name)), data_(std::move(data)) {
    size_ = size;
  }

 private:
  std::shared_ptr<std::byte> fetch(uint64_t offset, uint64_t) override {
    return {data_, data_.get() + offset};
  }
  std::shared_ptr<std::byte> data_;
};

class ReaderSource : public Source {
 public:
  ReaderSource(std::string_view op, std::shared_ptr<Reader> reader)
      : Source(op, reader->label()), reader_(std::move(reader)) {
    start_ = reader_->tell();
    reader_->seek(0, std::ios_base::end);
    uint64_t end = reader_->tell();
    reader_->seek(static_cast<int64_t>(start_));
    if (!reader_->good() || end < start_) fail("cannot find the size of the stream");
    size_ = end - start_;
  }

 private:
  std::shared_ptr<std::byte> fetch(uint64_t offset, uint64_t n) override {
    auto data = allocate_bytes(n);
    reader_->read(reinterpret_cast<char*>(data.get()), n, start_ + offset);
    if (!reader_->good()) fail(fmt::format("reading {} bytes at offset {} failed", n, start_ + offset));
    return data;
  }
  std::shared_ptr<Reader> reader_;
  uint64_t start_;
};

struct Descriptor {
  int fd;
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
};

// Reads until `n` bytes or the end of the file; returns how many came.
uint64_t read_fully(int fd, std::byte* out, uint64_t n, std::string_view op, const std::string& path) {
  uint64_t done = 0;
  while (done < n) {
    ssize_t got = ::read(fd, out + done, std::min<uint64_t>(n - done, 1u << 30));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail_errno(op, path, "cannot read", errno);
    if (got == 0) break;
    done += static_cast<uint64_t>(got);
  }
  return done;
}

// A pipe or device: its size is known only at its end.
std::unique_ptr<Source> read_stream(int fd, std::string_view op, const std::string& path) {
  std::vector<std::byte> bytes;
  for (uint64_t used = 0;; used = bytes.size()) {
    bytes.resize(used + std::max<uint64_t>(1 << 16, used / 2));
    uint64_t got = read_fully(fd, bytes.data() + used, bytes.size() - used, op, path);
    if (used + got == bytes.size()) continue;
    auto data = allocate_bytes(used + got);
    std::copy_n(bytes.data(), used + got, data.get());
    return open_memory(op, path, std::move(data), used + got);
  }
}

}  // namespace

std::shared_ptr<std::byte> allocate_bytes(uint64_t n) {
  constexpr std::align_val_t kAlignment{64};
  auto* data = static_cast<std::byte*>(::operator new(std::max<uint64_t>(n, 1), kAlignment));
  return {data, [](std::byte* p) { ::operator delete(p, kAlignment); }};
}

void swap_bytes(std::byte* data, uint64_t n, size_t itemsize) {
  for (uint64_t i = 0; i < n; ++i) std::reverse(data + i * itemsize, data + (i + 1) * itemsize);
}

void Source::fail(std::string_view what) const { io::fail(op_, name_, what); }

std::shared_ptr<std::byte> Source::read(uint64_t offset, uint64_t n, std::string_view what) {
  if (offset > size_ || n > size_ - offset)
    fail(fmt::format("cut off: {} needs {} bytes at offset {}, but the file has {}", what, n, offset, size_));
  return fetch(offset, n);
}

array Source::read_array(uint64_t offset, const Shape& shape, Dtype dtype, bool swap, std::string_view what) {
  uint64_t count = 0;
  try {
    count = static_cast<uint64_t>(size_of(shape));
  } catch (const std::exception&) {
    count = UINT64_MAX;
  }
  if (count > size_ / dtype.size())
    fail(fmt::format("cut off: {} has shape {} and dtype {}, but the file has only {} bytes", what,
                     to_string(shape), dtype_name(dtype), size_));
  uint64_t bytes = count * dtype.size();
  auto data = read(offset, bytes, what);

  // A bool other than 0 and 1 is undefined behaviour in C++.
  bool odd_bools = dtype == bool_ &&
                   std::any_of(data.get(), data.get() + bytes, [](std::byte b) { return b > std::byte{1}; });
  // In complex64 each half is swapped on its own.
  size_t width = dtype == complex64 ? 4 : dtype.size();
  bool aligned = reinterpret_cast<uintptr_t>(data.get()) % width == 0;
  if (swap || odd_bools || !aligned) {
    auto copy = allocate_bytes(bytes);
    std::memcpy(copy.get(), data.get(), bytes);
    if (swap) swap_bytes(copy.get(), bytes / width, width);
    if (odd_bools)
      for (uint64_t i = 0; i < bytes; ++i) copy.get()[i] = std::byte{copy.get()[i] != std::byte{0}};
    data = std::move(copy);
  }
  void* pointer = data.get();
  return array(pointer, shape, dtype, [owner = std::move(data)](void*) mutable { owner.reset(); });
}

namespace {

// Where files are mapped: elsewhere "not needed" would mean "zero".
class Mappings {
 public:
  static void add(const void* begin, uint64_t size) {
    std::lock_guard lock(mutex());
    all()[reinterpret_cast<uintptr_t>(begin)] = size;
  }
  static void remove(const void* begin) {
    std::lock_guard lock(mutex());
    all().erase(reinterpret_cast<uintptr_t>(begin));
  }
  static void release(uintptr_t begin, uint64_t n) {
    const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
    const uintptr_t first = (begin + page - 1) / page * page, last = (begin + n) / page * page;
    std::lock_guard lock(mutex());
    auto after = all().upper_bound(begin);
    if (after == all().begin() || first >= last) return;
    const auto& [start, size] = *std::prev(after);
    if (begin + n <= start + size) ::madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
  }

 private:
  static std::map<uintptr_t, uint64_t>& all() {
    static auto* mappings = new std::map<uintptr_t, uint64_t>;  // arrays may outlive static objects
    return *mappings;
  }
  static std::mutex& mutex() {
    static auto* m = new std::mutex;
    return *m;
  }
};

}  // namespace

void release_pages(const void* data, uint64_t n) { Mappings::release(reinterpret_cast<uintptr_t>(data), n); }

std::unique_ptr<Source> open_file(std::string_view op, const std::string& path) {
  Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (file.fd < 0) fail_errno(op, path, "cannot open", errno);
  struct stat info;
  if (::fstat(file.fd, &info) != 0) fail_errno(op, path, "cannot read", errno);
  if (S_ISDIR(info.st_mode)) fail(op, path, "is a folder, not a file");
  // Files of /proc are regular and claim to be empty.
  if (!S_ISREG(info.st_mode) || info.st_size == 0) return read_stream(file.fd, op, path);

  uint64_t size = static_cast<uint64_t>(info.st_size);
  if (size >= kMapFrom) {
    // Writable but private: whoever writes through data<T>() changes memory, never the file.
    void* mapped = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, file.fd, 0);
    if (mapped != MAP_FAILED) {
      Mappings::add(mapped, size);
      std::shared_ptr<std::byte> data(static_cast<std::byte*>(mapped), [size](std::byte* p) {
        Mappings::remove(p);
        ::munmap(p, size);
      });
      return open_memory(op, path, std::move(data), size);
    }
  }
  auto data = allocate_bytes(size);
  if (read_fully(file.fd, data.get(), size, op, path) != size) fail(op, path, "shrank while it was read");
  return open_memory(op, path, std::move(data), size);
}

std::unique_ptr<Source> open_reader(std::string_view op, std::shared_ptr<Reader> reader) {
  if (!reader || !reader->is_open() || !reader->good())
    fail(op, reader ? reader->label() : "stream", "is not open for reading");
  return std::make_unique<ReaderSource>(op, std::move(reader));
}

std::unique_ptr<Source> open_memory(std::string_view op, std::string name, std::shared_ptr<std::byte> data,
                                    uint64_t size) {
  return std::make_unique<MemorySource>(op, std::move(name), std::move(data), size);
}

}  // namespace lazuli::io
