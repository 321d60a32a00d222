#include "backend/cuda/jit.h"

#include <nvrtc.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <unordered_map>

#include "backend/cuda/library.h"
#include "backend/cuda/runtime.h"
#include "lane_math_text.inc"  // generated: constexpr char kLaneMath[]

namespace lazuli::cuda {

namespace {

// NVRTC is looked for when it is first needed: programs run without it on machines without a GPU.
struct Nvrtc {
  decltype(&nvrtcCreateProgram) create;
  decltype(&nvrtcDestroyProgram) destroy;
  decltype(&nvrtcCompileProgram) compile;
  decltype(&nvrtcGetProgramLogSize) log_size;
  decltype(&nvrtcGetProgramLog) log;
  decltype(&nvrtcGetCUBINSize) size;
  decltype(&nvrtcGetCUBIN) cubin;
  decltype(&nvrtcGetErrorString) error;

  Nvrtc() {
    const Library library("libnvrtc.so.13", "compiles kernels");
    auto find = [&](auto& f, const char* name) { library.find(f, name); };
    find(create, "nvrtcCreateProgram");
    find(destroy, "nvrtcDestroyProgram");
    find(compile, "nvrtcCompileProgram");
    find(log_size, "nvrtcGetProgramLogSize");
    find(log, "nvrtcGetProgramLog");
    find(size, "nvrtcGetCUBINSize");
    find(cubin, "nvrtcGetCUBIN");
    find(error, "nvrtcGetErrorString");
  }
};

std::string cache_folder() {
  if (const char* given = std::getenv("LAZULI_KERNEL_CACHE")) return given;
  if (const char* cache = std::getenv("XDG_CACHE_HOME"); cache && *cache)
    return std::string(cache) + "/lazuli/kernels";
  if (const char* home = std::getenv("HOME"); home && *home)
    return std::string(home) + "/.cache/lazuli/kernels";
  return "";
}

uint64_t fingerprint(const std::string& text) {  // FNV-1a
  uint64_t h = 14695981039346656037u;
  for (unsigned char c : text) h = (h ^ c) * 1099511628211u;
  return h;
}

// What a cached file begins with: everything that its machine code depends on.
std::string header_of(const std::string& source, int capability) {
  return "lazuli kernel 1, sm_" + std::to_string(capability) + ", nvrtc " + std::to_string(CUDART_VERSION) +
         ", " + std::to_string(fingerprint(kLaneMath)) + ", " + std::to_string(source.size()) + "\n" +
         source + "\n";
}

std::string read_cached(const std::string& file, const std::string& header) {
  std::ifstream in(file, std::ios::binary);
  std::stringstream all;
  all << in.rdbuf();
  std::string text = std::move(all).str();
  return text.size() > header.size() && text.starts_with(header) ? text.substr(header.size()) : "";
}

// Failures are not errors: the kernel is compiled again next time.
void write_cached(const std::string& file, const std::string& header, const std::string& cubin) {
  std::error_code error;
  std::filesystem::create_directories(std::filesystem::path(file).parent_path(), error);
  const std::string temporary = file + "." + std::to_string(getpid());
  {
    std::ofstream out(temporary, std::ios::binary);
    out << header << cubin;
    if (!out.flush()) {
      std::filesystem::remove(temporary, error);
      return;
    }
  }
  std::filesystem::rename(temporary, file, error);
  if (error) std::filesystem::remove(temporary, error);
}

}  // namespace

std::string compile_to_cubin(const std::string& source, int capability) {
  static const Nvrtc nvrtc;
  auto require = [&](nvrtcResult r, const char* what) {
    if (r != NVRTC_SUCCESS) throw std::runtime_error(std::string("[cuda] ") + what + ": " + nvrtc.error(r));
  };
  nvrtcProgram program;
  const std::string text = std::string(kLaneMath) + source;
  require(nvrtc.create(&program, text.c_str(), "lazuli.cu", 0, nullptr, nullptr), "nvrtcCreateProgram");
  struct Guard {
    const Nvrtc& nvrtc;
    nvrtcProgram* program;
    ~Guard() { nvrtc.destroy(program); }
  } guard{nvrtc, &program};
  const std::string architecture = "--gpu-architecture=sm_" + std::to_string(capability);
  // No contraction: fused and unfused graphs give the same bits.
  const char* options[] = {architecture.c_str(), "--std=c++17", "--fmad=false",
                           "--device-as-default-execution-space"};
  if (nvrtc.compile(program, 4, options) != NVRTC_SUCCESS) {
    size_t size = 0;
    nvrtc.log_size(program, &size);
    std::string log(size, '\0');
    nvrtc.log(program, log.data());
    throw std::runtime_error("[cuda] a generated kernel does not compile; please report this:\n" + log +
                             source);
  }
  size_t size = 0;
  require(nvrtc.size(program, &size), "nvrtcGetCUBINSize");
  std::string cubin(size, '\0');
  require(nvrtc.cubin(program, cubin.data()), "nvrtcGetCUBIN");
  return cubin;
}

cudaKernel_t compile(const std::string& source, const char* name) {
  static std::unordered_map<std::string, cudaKernel_t>& known =
      *new std::unordered_map<std::string, cudaKernel_t>;
  if (auto it = known.find(source); it != known.end()) return it->second;
  const int capability = gpu().capability;
  const std::string header = header_of(source, capability), folder = cache_folder();
  char key[40];
  std::snprintf(key, sizeof key, "%016llx", static_cast<unsigned long long>(fingerprint(header)));
  const std::string file = folder.empty() ? "" : folder + "/" + key + ".kernel";
  std::string cubin = file.empty() ? "" : read_cached(file, header);
  if (cubin.empty()) {
    cubin = compile_to_cubin(source, capability);
    if (!file.empty()) write_cached(file, header, cubin);
  }
  cudaLibrary_t library;
  cudaKernel_t kernel;
  check(cudaLibraryLoadData(&library, cubin.data(), nullptr, nullptr, 0, nullptr, nullptr, 0),
        "cudaLibraryLoadData");
  check(cudaLibraryGetKernel(&kernel, library, name), "cudaLibraryGetKernel");
  return known.emplace(source, kernel).first->second;
}

}  // namespace lazuli::cuda
