#include <concepts>

#include "lazuli/lm/model.h"
#include "lm/tokenizer/pipeline.h"

namespace lazuli::lm {

std::optional<MetadataValue> metadata_value(const GgufMetadata& metadata, std::string_view key) {
  const GgufValue* value = metadata.find(key);
  if (!value) return std::nullopt;
  return std::visit(
      [&]<class T>(const T& v) -> std::optional<MetadataValue> {
        if constexpr (std::same_as<T, bool> || std::same_as<T, std::string>) {
          return v;
        } else if constexpr (std::integral<T>) {
          return static_cast<int64_t>(v);
        } else if constexpr (std::floating_point<T>) {
          return static_cast<double>(v);
        } else {
          if (std::holds_alternative<std::vector<std::string>>(v.values))
            return metadata.get<std::vector<std::string>>(key);
          if (std::holds_alternative<std::vector<float>>(v.values))
            return metadata.get<std::vector<float>>(key);
          return metadata.get<std::vector<int32_t>>(key);
        }
      },
      *value);
}

Tokenizer load_tokenizer(const ModelFiles& files) {
  if (!files.gguf) return Tokenizer::from_file(files.folder);
  return Tokenizer::from_metadata(
      [&](std::string_view key) { return metadata_value(files.gguf->metadata, key); });
}

}  // namespace lazuli::lm
