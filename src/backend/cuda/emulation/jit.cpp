// Generated kernels on the emulated GPU: g++ takes NVRTC's place. That takes about a fifth of a second for
// each, and tests have thousands, so the CPU's fused kernels run instead unless LAZULI_EMULATED_JIT=1
// (fused.cpp). What was compiled is kept, in LAZULI_KERNEL_CACHE or ~/.cache/lazuli/emulated.
#include "backend/cuda/jit.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <sstream>
#include <stdexcept>
#include <unordered_map>

#include "backend/cuda/emulation/machine.h"

namespace lazuli::cuda {

namespace {

namespace fs = std::filesystem;

fs::path folder() {
  if (const char* given = std::getenv("LAZULI_KERNEL_CACHE"); given && *given) return fs::path(given);
  if (const char* home = std::getenv("HOME"); home && *home) return fs::path(home) / ".cache/lazuli/emulated";
  return fs::temp_directory_path() / "lazuli_emulated";
}

uint64_t fingerprint(const std::string& text) {  // FNV-1a
  uint64_t h = 14695981039346656037u;
  for (unsigned char c : text) h = (h ^ c) * 1099511628211u;
  return h;
}
std::string contents(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  std::stringstream all;
  all << in.rdbuf();
  return std::move(all).str();
}
void run_compiler(const std::string& arguments, const fs::path& result) {
  const fs::path temporary = result.string() + "." + std::to_string(getpid());
  const std::string command =
      std::string(LAZULI_EMULATED_COMPILER " -std=c++20 -O1 -fPIC -w -ffp-contract=off -fno-gnu-unique ") +
      "-DLAZULI_EMULATED=1 " LAZULI_EMULATED_FLAGS " -o '" + temporary.string() + "' " + arguments;
  if (std::system(command.c_str()) != 0)
    throw std::runtime_error("[emulated GPU] a generated kernel does not compile: " + command);
  fs::rename(temporary, result);
}

// What every kernel begins with, compiled once.
std::string prelude() {
  static const std::string header = [] {
    const fs::path source(LAZULI_EMULATED_SOURCE);
    std::string key = LAZULI_EMULATED_FLAGS;
    for (const char* file : {"emulation/device.h", "emulation/machine.h",
                             "emulation/include/cuda_runtime_api.h", "lane_math.cuh"})
      key += contents(source / "backend/cuda" / file);
    const fs::path made = folder() / ("prelude_" + std::to_string(fingerprint(key)) + ".h");
    fs::create_directories(folder());
    if (!fs::exists(made.string() + ".gch")) {
      std::ofstream(made) << "#include \"backend/cuda/emulation/device.h\"\n"
                             "#include \"backend/cuda/lane_math.cuh\"\n";
      run_compiler("-x c++-header '" + made.string() + "'", made.string() + ".gch");
    }
    return made.string();
  }();
  return header;
}

}  // namespace

std::string compile_to_cubin(const std::string&, int) {
  throw std::runtime_error("[emulated GPU] NVRTC was not found: this build is without it");
}

cudaKernel_t compile(const std::string& source, const char* name) {
  static std::mutex mutex;
  static auto& known = *new std::unordered_map<std::string, cudaKernel_t>;
  std::lock_guard lock(mutex);
  if (auto it = known.find(source); it != known.end()) return it->second;
  // The kernel by its name, with one structure of parameters.
  const std::string text = source +
                           "template <class P> constexpr size_t size_of(void (*)(P)) { return sizeof(P); }\n"
                           "template <class P> void call(void (*f)(P), void* p) { f(*static_cast<P*>(p)); }\n"
                           "extern \"C\" const size_t lazuli_size = size_of(&lane::" +
                           name +
                           ");\n"
                           "extern \"C\" void lazuli_call(const void*, void* const* p) { call(&lane::" +
                           name + ", p[0]); }\n";
  const std::string begin = prelude();
  const fs::path made = folder() / ("k" + std::to_string(fingerprint(begin + text)) + ".so");
  if (!fs::exists(made)) {
    const fs::path file = made.string() + "." + std::to_string(getpid()) + ".cpp";
    std::ofstream(file) << text;
    run_compiler("-shared -include '" + begin + "' '" + file.string() + "'", made);
    fs::remove(file);
  }
  void* library = dlopen(made.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) throw std::runtime_error(std::string("[emulated GPU] ") + dlerror());
  void* const kernel = dlsym(library, name);
  auto* size = static_cast<const size_t*>(dlsym(library, "lazuli_size"));
  auto call = reinterpret_cast<emulation::Call>(dlsym(library, "lazuli_call"));
  if (!kernel || !size || !call) throw std::runtime_error("[emulated GPU] a generated kernel lacks a symbol");
  emulation::introduce(kernel, call, std::span(size, 1), "generated", false);
  return known.emplace(source, static_cast<cudaKernel_t>(kernel)).first->second;
}

}  // namespace lazuli::cuda
