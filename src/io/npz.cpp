#include <fmt/format.h>

#include <map>

#include "io/atomic_file.h"
#include "io/error.h"
#include "io/npy.h"
#include "io/zip.h"
#include "lazuli/io.h"

namespace lazuli {
namespace {

constexpr std::string_view kExtension = ".npy";

void save_archive(const char* op, std::string file, std::unordered_map<std::string, array> arrays,
                  bool compress) {
  std::map<std::string, array> sorted(arrays.begin(), arrays.end());
  for (auto& [name, a] : sorted) a.eval();
  io::AtomicFile out(op, io::with_extension(std::move(file), ".npz"));
  io::ZipWriter zip(out);
  for (auto& [name, a] : sorted) {
    std::string header = io::npy_header(a);
    std::vector<io::ZipWriter::Piece> pieces = {{header.data(), header.size()}};
    if (a.nbytes()) pieces.push_back({io::row_major_bytes(a), a.nbytes()});
    zip.add(name + std::string(kExtension), pieces, compress);
  }
  zip.finish();
  out.commit();
}

}  // namespace

std::unordered_map<std::string, array> load_npz(const std::string& file, StreamOrDevice) {
  auto archive = io::open_file("load_npz", file);
  std::unordered_map<std::string, array> out;
  for (const io::ZipMember& member : io::read_zip_directory(*archive)) {
    if (!member.name.ends_with(kExtension))
      archive->fail(fmt::format("member {} is not a .npy file", io::printable(member.name)));
    auto content = io::open_member(*archive, member);
    out.emplace(member.name.substr(0, member.name.size() - kExtension.size()), io::parse_npy(*content));
  }
  return out;
}

void savez(std::string file, std::unordered_map<std::string, array> arrays) {
  save_archive("savez", std::move(file), std::move(arrays), false);
}

void savez_compressed(std::string file, std::unordered_map<std::string, array> arrays) {
  save_archive("savez_compressed", std::move(file), std::move(arrays), true);
}

}  // namespace lazuli
