// The rows of the GPU benchmark in Lazuli, as a user would write them with the public API.
//
//     build/release/benchmarks/gpu/lazuli_gpu_bench --rows exp,softmax
//
// Prints a line of JSON for each; run.py makes the table of them.
#include <cstdio>
#include <iostream>
#include <string>
#include <string_view>

#include "lazuli/lazuli.h"
#include "measure.h"

namespace {

using gpu_bench::Row;

constexpr const char* kHelp =
    "Measures Lazuli on the GPU: one line of JSON for each row.\n\n"
    "  --rows NAMES      names or beginnings of names, with commas between (default: all)\n"
    "  --list            print the names and what they stand for\n"
    "  --serve           run the rows named on standard input, one a line (what run.py does)\n"
    "  --device cpu|gpu  where to run (default: gpu)\n"
    "  --help            this text\n\n"
    "Examples:\n"
    "  lazuli_gpu_bench --rows matmul,attention\n"
    "  lazuli_gpu_bench --rows decode_q4\n";

std::vector<Row> all_rows() {
  std::vector<Row> rows;
  for (auto part : {gpu_bench::elementwise_rows(), gpu_bench::array_rows(), gpu_bench::product_rows(),
                    gpu_bench::training_rows(), gpu_bench::decode_rows()})
    rows.insert(rows.end(), part.begin(), part.end());
  return rows;
}

bool wanted(const std::string& name, std::string_view list) {
  if (list.empty()) return true;
  for (size_t begin = 0; begin <= list.size();) {
    const size_t end = std::min(list.find(',', begin), list.size());
    if (end > begin && name.starts_with(list.substr(begin, end - begin))) return true;
    begin = end + 1;
  }
  return false;
}

int fail(const std::string& message) {
  std::fprintf(stderr, "lazuli_gpu_bench: %s\n", message.c_str());
  return 1;
}

int run(int argc, char** argv) {
  std::string list, device = "gpu";
  bool serve = false, show = false;
  for (int i = 1; i < argc; ++i) {
    const std::string_view option = argv[i];
    if (option == "--help" || option == "-h") {
      std::fputs(kHelp, stdout);
      return 0;
    }
    if (option == "--list") {
      show = true;
    } else if (option == "--serve") {
      serve = true;
    } else if ((option == "--rows" || option == "--device") && i + 1 < argc) {
      (option == "--rows" ? list : device) = argv[++i];
    } else {
      return fail("there is no option " + std::string(option) + ", or it needs a value; see --help");
    }
  }
  const std::vector<Row> rows = all_rows();
  if (show) {
    for (const Row& row : rows) std::printf("%-20s %s\n", row.name.c_str(), row.what.c_str());
    return 0;
  }
  if (device != "gpu" && device != "cpu") return fail("--device is cpu or gpu, not " + device);
  lazuli::set_default_device(device == "gpu" ? lazuli::Device::gpu : lazuli::Device::cpu);
  lazuli::random::seed(1);
  if (serve) {
    for (std::string name; std::getline(std::cin, name);) {
      const Row* found = nullptr;
      for (const Row& row : rows)
        if (row.name == name) found = &row;
      if (found) {
        gpu_bench::print_result(*found);
      } else {
        std::printf("{\"row\": \"%s\", \"missing\": true}\n", name.c_str());
        std::fflush(stdout);
      }
    }
    return 0;
  }
  bool any = false;
  for (const Row& row : rows) {
    if (!wanted(row.name, list)) continue;
    any = true;
    gpu_bench::print_result(row);
  }
  return any ? 0 : fail("no row begins with " + list + "; --list names them");
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& e) {
    return fail(e.what());
  }
}
