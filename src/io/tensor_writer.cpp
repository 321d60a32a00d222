#include "lazuli/io/tensor_writer.h"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

#include "io/atomic_file.h"
#include "io/error.h"
#include "io/npy.h"
#include "io/source.h"

namespace lazuli {

struct TensorWriter::File {
  io::AtomicFile out;
};

TensorWriter::TensorWriter(std::string op, const std::string& file, const std::string& header,
                           std::vector<Part> parts)
    : op_(std::move(op)), file_(new File{io::AtomicFile(op_, file)}), parts_(std::move(parts)) {
  file_->out.write(header.data(), header.size());
  skip_complete();
}
TensorWriter::~TensorWriter() = default;

void TensorWriter::skip_complete() {
  static const std::string zeros(1 << 12, '\0');
  while (at_ < parts_.size() && done_ == parts_[at_].bytes) {
    for (uint64_t left = parts_[at_].padding; left > 0;) {
      const uint64_t n = std::min<uint64_t>(left, zeros.size());
      file_->out.write(zeros.data(), n);
      left -= n;
    }
    ++at_;
    done_ = 0;
  }
}

void TensorWriter::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    if (at_ == parts_.size())
      throw std::invalid_argument(
          fmt::format("[{}] {} bytes more than the tensors announced", op_, bytes.size()));
    const uint64_t n = std::min<uint64_t>(bytes.size(), parts_[at_].bytes - done_);
    file_->out.write(reinterpret_cast<const char*>(bytes.data()), n);
    done_ += n;
    bytes = bytes.subspan(n);
    skip_complete();
  }
}

void TensorWriter::write(const array& values) {
  write({reinterpret_cast<const std::byte*>(io::row_major_bytes(values)), values.nbytes()});
}

void TensorWriter::commit() {
  if (at_ < parts_.size())
    throw std::invalid_argument(fmt::format("[{}] tensor {} has {} bytes, announced were {}", op_,
                                            io::printable(parts_[at_].name), done_, parts_[at_].bytes));
  file_->out.commit();
}

void release_pages(std::span<const std::byte> bytes) { io::release_pages(bytes.data(), bytes.size()); }

}  // namespace lazuli
