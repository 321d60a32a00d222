#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <variant>

#include "commands.h"
#include "lazuli/device.h"

namespace lazuli::app {

namespace {

// "gpu  NVIDIA H100 80GB HBM3, sm_90, 85.0 GB, 84.5 GB free", or why there is none.
void show(const char* name, const Device& device) {
  try {
    const auto& info = device_info(device);
    auto text = [&](const char* key) { return std::get<std::string>(info.at(key)); };
    auto gigabytes = [&](const char* key) {
      return static_cast<double>(std::get<size_t>(info.at(key))) / 1e9;
    };
    std::string line = text("architecture");
    if (text("name") != name) line = text("name") + ", " + line;
    if (info.contains("threads")) line += fmt::format(", {} threads", std::get<size_t>(info.at("threads")));
    fmt::print("{}  {}, {:.1f} GB of memory, {:.1f} GB free{}\n", name, line, gigabytes("total_memory"),
               gigabytes("free_memory"), device == default_device() ? " (default)" : "");
  } catch (const std::invalid_argument& e) {
    const std::string why = e.what(), mark = "not available: ";
    const size_t at = why.find(mark);
    fmt::print("{}  {}\n", name, at == std::string::npos ? why : why.substr(at));
  }
}

}  // namespace

void add_devices(CLI::App& app) {
  CLI::App* c = app.add_subcommand("devices", "Lists what can compute, for --device of other commands");
  c->footer("Examples:\n  lazuli devices\n  LAZULI_DEVICE=gpu lazuli devices\n");
  c->callback([] {
    show("cpu", Device::cpu);
    show("gpu", Device::gpu);
  });
}

}  // namespace lazuli::app
