#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <random>
#include <stdexcept>
#include <system_error>

#include "lm/convert/job.h"
#include "lm/convert/text_file.h"
#include "lm/convert/tokenizer.h"

namespace lazuli::lm {

namespace conversion {

namespace {

namespace fs = std::filesystem;

constexpr int64_t kPiece = int64_t{1} << 24;  // weights that are converted at a time

[[noreturn]] void fail(const std::string& what) { throw std::runtime_error("[convert] " + what); }

// A folder that takes its name when it is complete.
class NewFolder {
 public:
  explicit NewFolder(const std::string& path) : target_(fs::absolute(path).lexically_normal()) {
    if (target_.filename().empty()) target_ = target_.parent_path();
    temporary_ = beside("tmp");
    std::error_code error;
    fs::create_directories(target_.parent_path(), error);
    if (!error) fs::create_directory(temporary_, error);
    if (error) fail(fmt::format("cannot create the folder {}: {}", path, error.message()));
  }
  ~NewFolder() {
    std::error_code ignored;
    if (!temporary_.empty()) fs::remove_all(temporary_, ignored);
  }
  NewFolder(const NewFolder&) = delete;

  std::string path() const { return temporary_.string(); }
  void commit() {
    std::error_code error;
    const bool replaces = fs::exists(target_);
    const fs::path old = beside("old");
    if (replaces) fs::rename(target_, old, error);
    if (!error) fs::rename(temporary_, target_, error);
    if (error) fail(fmt::format("cannot replace {}: {}", target_.string(), error.message()));
    temporary_.clear();
    if (replaces) fs::remove_all(old, error);
  }

 private:
  fs::path beside(const char* kind) const {
    return target_.parent_path() /
           fmt::format(".{:.200}.{:08x}.{}", target_.filename().string(), std::random_device()(), kind);
  }
  fs::path target_, temporary_;
};

void check_target(const ModelFiles& files, const std::string& to, bool to_gguf, bool force) {
  std::error_code error;
  if (!fs::exists(to, error)) return;
  if (fs::equivalent(files.path, to, error) || (!to_gguf && fs::equivalent(files.folder, to, error)))
    fail(fmt::format("the output would replace the model {}", files.path));
  if (!force) fail(fmt::format("{} exists; --force replaces it", to));
  if (to_gguf != !fs::is_directory(to))
    fail(fmt::format("{} is a {}, the output would be a {}", to, to_gguf ? "folder" : "file",
                     to_gguf ? "file" : "folder"));
  if (to_gguf) return;
  // What is removed is nothing but a model.
  if (!fs::exists(fs::path(to) / "config.json"))
    fail(fmt::format("{} is not replaced: it is not the folder of a model", to));
  for (const auto& entry : fs::directory_iterator(to))
    if (entry.is_directory()) fail(fmt::format("{} is not replaced: there are folders in it", to));
}

void check_options(const ConvertOptions& o, bool to_gguf) {
  auto no = [](const char* what) { throw std::invalid_argument(fmt::format("[convert] {}", what)); };
  if (to_gguf && o.quantization) no("a mode of quantization is for folders; GGUF files have types");
  if (to_gguf && o.dtype) no("a dtype is for folders; GGUF files have types");
  if (!to_gguf && (o.type || o.output_type || !o.rules.empty()))
    no("types are for GGUF files, whose names end in .gguf; folders have a dtype or a mode");
  if (o.dtype && *o.dtype != float32 && *o.dtype != float16 && *o.dtype != bfloat16)
    no("the dtype must be float32, float16 or bfloat16");
  if (o.shard_bytes < 1) no("shards must have at least one byte");
}

bool has_tokenizer(const ModelFiles& files) {
  for (const char* name :
       {"tokenizer.json", "tekken.json", "tokenizer.model", "tokenizer.model.v3", "spiece.model"})
    if (files.find_file(name)) return true;
  return false;
}

void to_gguf(Job& job, const ModelFiles& files, const std::string& to) {
  Gguf contents;
  if (files.gguf) {
    contents.metadata = files.gguf->metadata;
    write_gguf(job, to, std::move(contents), raw_tensors(*files.gguf), nullptr);
    return;
  }
  const auto weights = open_weights(files);
  const auto tensors = weights->raw(job.report.left_out);
  Config config = weights->config();
  for (const RawTensor& t : tensors)
    if (t.name == "token_embd.weight" && t.is_matrix()) config.vocabulary = t.shape[0];
  write_gguf_config(config, contents, job.report.left_out);
  contents.metadata.set("general.type", "model");
  const std::string name = fs::path(fs::absolute(files.folder)).lexically_normal().filename().string();
  contents.metadata.set("general.name", (config.name.empty() ? name : config.name).c_str());
  if (job.options.tokenizer && !has_tokenizer(files)) {
    job.report.left_out.push_back("a tokenizer: the folder has none");
  } else if (job.options.tokenizer) {
    write_metadata(tokenizer_of(files, job.options.pre_tokenizer, job.report.left_out), config.vocabulary,
                   contents.metadata, job.report.left_out);
    check_tokenizer(files, contents.metadata, job.report.left_out);
  }
  write_gguf(job, to, std::move(contents), tensors, &config);
}

void to_folder(Job& job, const ModelFiles& files, const std::string& to) {
  const auto weights = open_weights(files);
  const auto tensors = weights->raw(job.report.left_out);
  NewFolder folder(to);
  write_folder(job, folder.path(), files, *weights, tensors);
  if (job.options.tokenizer) write_tokenizer_files(files, folder.path(), job.report.left_out);
  folder.commit();
}

}  // namespace

void Job::start(const std::vector<RawTensor>& tensors) {
  progress_ = {};
  for (const RawTensor& t : tensors) {
    progress_.total += static_cast<double>(size_of(t.shape));
    report.bytes_before += t.bytes;
    report.weights += size_of(t.shape);
  }
}

void Job::each_piece(const RawTensor& t, const std::function<void(const array& rows)>& f) {
  progress_.tensor = t.name;
  if (options.progress) options.progress(progress_);
  if (!f) {
    progress_.done += static_cast<double>(size_of(t.shape));
  } else {
    const int64_t rows = t.row_count(),
                  step = std::max<int64_t>(1, kPiece / std::max<int64_t>(t.columns(), 1));
    for (int64_t m = 0; m < t.matrices(); ++m)
      for (int64_t begin = 0; begin < rows; begin += step) {
        const int64_t end = std::min(rows, begin + step);
        f(t.rows(m, begin, end));
        progress_.done += static_cast<double>((end - begin) * t.columns());
        if (options.progress) options.progress(progress_);
      }
  }
  t.release();
}

}  // namespace conversion

ConvertReport convert_model(const std::string& from, const std::string& to, const ConvertOptions& options) {
  const bool gguf = to.ends_with(".gguf");
  conversion::check_options(options, gguf);
  const ModelFiles files = load_model_files(from);
  conversion::check_target(files, to, gguf, options.force);
  ConvertReport report;
  conversion::Job job(options, report);
  if (gguf)
    conversion::to_gguf(job, files, to);
  else
    conversion::to_folder(job, files, to);
  std::sort(report.left_out.begin(), report.left_out.end());
  report.left_out.erase(std::unique(report.left_out.begin(), report.left_out.end()), report.left_out.end());
  return report;
}

}  // namespace lazuli::lm
