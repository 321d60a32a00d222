#include "lazuli/io/stream.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "io/error.h"

namespace lazuli::io {
namespace {
constexpr size_t kLargestCall = 1 << 30;

int whence(std::ios_base::seekdir way) {
  if (way == std::ios_base::beg) return SEEK_SET;
  return way == std::ios_base::end ? SEEK_END : SEEK_CUR;
}

off_t seek_or_fail(int fd, int64_t offset, int way, const std::string& path) {
  off_t at = ::lseek(fd, offset, way);
  if (at < 0) fail_errno("io", path, "cannot seek", errno);
  return at;
}
}  // namespace

FileReader::FileReader(std::string path)
    : path_(std::move(path)), fd_(::open(path_.c_str(), O_RDONLY | O_CLOEXEC)) {}

FileReader::~FileReader() {
  if (fd_ >= 0) ::close(fd_);
}

size_t FileReader::tell() { return static_cast<size_t>(seek_or_fail(fd_, 0, SEEK_CUR, path_)); }

void FileReader::seek(int64_t offset, std::ios_base::seekdir way) {
  seek_or_fail(fd_, offset, whence(way), path_);
}

void FileReader::read(char* data, size_t n) {
  size_t at = tell();
  read(data, n, at);
  seek(static_cast<int64_t>(at + n));
}

void FileReader::read(char* data, size_t n, size_t offset) {
  while (n > 0) {
    ssize_t got = ::pread(fd_, data, std::min(n, kLargestCall), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail_errno("read", path_, "cannot read", errno);
    if (got == 0) fail("read", path_, fmt::format("the file ends {} bytes too early", n));
    data += got;
    offset += static_cast<size_t>(got);
    n -= static_cast<size_t>(got);
  }
}

FileWriter::~FileWriter() {
  if (fd_ >= 0) ::close(fd_);
}

void FileWriter::open() {
  if (fd_ >= 0) return;
  fd_ = ::open(path_.c_str(), O_CREAT | O_WRONLY | O_TRUNC | O_CLOEXEC, 0666);
  if (fd_ < 0) fail_errno("save", path_, "cannot create", errno);
}

size_t FileWriter::tell() { return static_cast<size_t>(seek_or_fail(fd_, 0, SEEK_CUR, path_)); }

void FileWriter::seek(int64_t offset, std::ios_base::seekdir way) {
  seek_or_fail(fd_, offset, whence(way), path_);
}

void FileWriter::write(const char* data, size_t n) {
  while (n > 0) {
    ssize_t put = ::write(fd_, data, std::min(n, kLargestCall));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) fail_errno("save", path_, "cannot write", errno);
    data += put;
    n -= static_cast<size_t>(put);
  }
}

}  // namespace lazuli::io
