#include "lm/convert/text_file.h"

#include "lazuli/io/stream.h"

namespace lazuli::lm::conversion {

std::string read_text(const std::string& path) {
  io::FileReader reader(path);
  reader.seek(0, std::ios_base::end);
  std::string text(reader.tell(), '\0');
  reader.seek(0);
  if (!text.empty()) reader.read(text.data(), text.size());
  return text;
}

void write_text(const std::string& path, const std::string& text) {
  io::FileWriter writer(path);
  writer.open();
  if (!text.empty()) writer.write(text.data(), text.size());
}

}  // namespace lazuli::lm::conversion
