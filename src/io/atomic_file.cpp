#include "io/atomic_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <random>
#include <utility>

#include "io/error.h"

namespace lazuli::io {
namespace {
constexpr size_t kPending = 1 << 16;
constexpr size_t kLargestCall = 1 << 30;

// Makes the rename itself durable. Some file systems cannot, and then say EINVAL.
void sync_folder(const std::filesystem::path& folder) {
  int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;
  ::fsync(fd);
  ::close(fd);
}
}  // namespace

AtomicFile::AtomicFile(std::string_view op, const std::string& path) : op_(op), path_(path), target_(path) {
  namespace fs = std::filesystem;
  struct stat info;
  bool exists = ::stat(path.c_str(), &info) == 0;
  if (exists && S_ISDIR(info.st_mode)) fail(op_, path_, "is a folder, not a file");
  if (exists && ::access(path.c_str(), W_OK) != 0) fail_errno(op_, path_, "cannot write", errno);
  if (exists && !S_ISREG(info.st_mode)) {
    fd_ = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
    if (fd_ < 0) fail_errno(op_, path_, "cannot write", errno);
    return;
  }
  // A link stays a link: the file it points at is replaced.
  std::error_code ignored;
  if (exists)
    if (auto real = fs::canonical(path, ignored); !ignored) target_ = real.string();

  fs::path target(target_);
  std::random_device random;
  for (int attempt = 0; fd_ < 0; ++attempt) {
    std::string name = fmt::format(".{:.200}.{:08x}.tmp", target.filename().string(), random());
    temporary_ = (target.parent_path() / name).string();
    fd_ = ::open(temporary_.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0666);
    if (fd_ < 0 && (errno != EEXIST || attempt == 100)) fail_errno(op_, path_, "cannot create", errno);
  }
  if (exists) ::fchmod(fd_, info.st_mode & 07777);
}

AtomicFile::~AtomicFile() {
  if (fd_ >= 0) ::close(fd_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFile::seek(int64_t, std::ios_base::seekdir) { fail(op_, path_, "is written front to back only"); }

void AtomicFile::write(const char* data, size_t n) {
  written_ += n;
  if (pending_.size() + n > kPending) flush();
  if (n >= kPending)
    write_now(data, n);
  else
    pending_.insert(pending_.end(), data, data + n);
}

void AtomicFile::flush() {
  write_now(pending_.data(), pending_.size());
  pending_.clear();
}

void AtomicFile::write_now(const char* data, size_t n) {
  while (n > 0) {
    ssize_t put = ::write(fd_, data, std::min(n, kLargestCall));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) fail_errno(op_, path_, "cannot write", errno);
    data += put;
    n -= static_cast<size_t>(put);
  }
}

void AtomicFile::commit() {
  flush();
  bool direct = temporary_.empty();
  if (!direct && ::fsync(fd_) != 0) fail_errno(op_, path_, "cannot write", errno);
  if (::close(std::exchange(fd_, -1)) != 0) fail_errno(op_, path_, "cannot write", errno);
  if (direct) return;
  if (::rename(temporary_.c_str(), target_.c_str()) != 0) fail_errno(op_, path_, "cannot replace", errno);
  temporary_.clear();
  auto folder = std::filesystem::path(target_).parent_path();
  sync_folder(folder.empty() ? "." : folder);
}

}  // namespace lazuli::io
