#include "commands.h"

namespace lazuli::app {
void add_chat(CLI::App&) {}
}  // namespace lazuli::app
