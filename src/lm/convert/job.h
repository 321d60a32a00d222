// What the parts of a conversion share.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "lazuli/io/model_files.h"
#include "lazuli/io/tensor_writer.h"
#include "lazuli/lm/convert.h"
#include "lm/weights.h"

namespace lazuli::lm::conversion {

class Job {
 public:
  Job(const ConvertOptions& options, ConvertReport& report) : options(options), report(report) {}

  const ConvertOptions& options;
  ConvertReport& report;

  void start(const std::vector<RawTensor>& tensors);
  // Calls f(rows) for the rows of a tensor in pieces, matrix by matrix, then gives its pages back.
  void each_piece(const RawTensor& t, const std::function<void(const array& rows)>& f);

 private:
  ConvertProgress progress_;
};

// Writes one GGUF file of `tensors`; `contents` has the metadata and further tensors. `traditional`: whether
// rows of q and k are to be in that order, `config` then says of which heads.
void write_gguf(Job& job, const std::string& file, Gguf contents, const std::vector<RawTensor>& tensors,
                const Config* config);

// Writes config.json and model*.safetensors into a folder that is there.
void write_folder(Job& job, const std::string& folder, const ModelFiles& files, const Weights& weights,
                  const std::vector<RawTensor>& tensors);

}  // namespace lazuli::lm::conversion
