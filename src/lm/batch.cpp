#include "lazuli/lm/batch.h"

#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <stdexcept>

#include "lazuli/ops.h"
#include "lazuli/transforms.h"
#include "lm/batch_cache.h"
#include "lm/text.h"

namespace lazuli::lm {

namespace {

using Clock = std::chrono::steady_clock;

struct Request {
  Request(const Tokenizer& tokenizer, std::span<const int32_t> prompt, const GenerateOptions& options,
          int64_t vocabulary)
      : text(tokenizer, prompt, options, vocabulary) {}

  Text text;
  bool ended = false;
  Clock::time_point start;  // of its generation
};

Cache batch_cache(const ModelInfo& model, const CacheOptions& options) {
  if (options.max_positions != 0)
    throw std::invalid_argument("[BatchGenerator] texts of a batch remember all: max_positions must be 0");
  std::vector<std::unique_ptr<KVCache>> all;
  for (int64_t i = 0; i < model.layers; ++i)
    all.push_back(std::make_unique<BatchCache>(resolved(options, model.activations)));
  return Cache(std::move(all));
}
BatchCache& layer(Cache& cache, size_t i) { return static_cast<BatchCache&>(cache[i]); }

}  // namespace

struct BatchGenerator::State {
  const Model model;
  const Tokenizer tokenizer;
  const BatchOptions options;
  std::vector<std::unique_ptr<Request>> requests;  // by id
  std::deque<int64_t> waiting;
  std::vector<int64_t> rows;  // ids, as the rows of the cache
  Cache cache;

  // Reads a prompt and gives its first token; then it is a row.
  void start(int64_t id, const OnStep& on_step) {
    Request& r = *requests[static_cast<size_t>(id)];
    const auto begin = Clock::now();
    const std::span<const int32_t> prompt = r.text.history();
    const GenerateOptions& o = r.text.options();
    Cache own = batch_cache(model.info(), options.cache);
    std::optional<Scores> scores;
    for (int64_t done = 0, n = std::ssize(prompt); done < n;) {
      const int64_t count = std::min(o.prefill_step, n - done);
      array logits = model(array(prompt.data() + done, {1, count}, int32), own);
      done += count;
      if (done == n) {
        scores.emplace(logits);
        scores->wait();
      } else {
        eval(own.arrays());
      }
      if (o.prompt_progress) o.prompt_progress(done, n);
    }
    r.start = Clock::now();
    r.text.result().prompt_time = r.start - begin;
    if (r.text.complete()) {
      r.ended = true;
      return;
    }
    give(id, *scores, 0, on_step);
    if (r.ended) return;
    for (size_t i = 0; i < own.layers(); ++i) layer(cache, i).join(layer(own, i));
    rows.push_back(id);
    eval(cache.arrays());
  }

  void give(int64_t id, const Scores& scores, size_t row, const OnStep& on_step) {
    Request& r = *requests[static_cast<size_t>(id)];
    Step step = r.text.choose(scores, row);
    r.ended = !r.text.give(step);
    r.text.result().generation_time = Clock::now() - r.start;
    if (on_step && !on_step(id, step) && !r.ended) {
      r.text.result().finish = Finish::callback;
      r.ended = true;
    }
    if (r.ended || !r.text.complete()) return;
    r.ended = true;
    if (auto rest = r.text.give_rest(); rest && on_step) on_step(id, *rest);
  }

  void drop_ended() {
    std::vector<int64_t> kept, ids;
    for (size_t i = 0; i < rows.size(); ++i)
      if (!requests[static_cast<size_t>(rows[i])]->ended) {
        kept.push_back(static_cast<int64_t>(i));
        ids.push_back(rows[i]);
      }
    if (ids.size() == rows.size()) return;
    for (size_t i = 0; i < cache.layers(); ++i) layer(cache, i).keep(kept);
    rows = std::move(ids);
  }

  Request& at(int64_t id) const {
    if (id < 0 || id >= std::ssize(requests))
      throw std::out_of_range(
          fmt::format("[BatchGenerator] there is no text {} among {}", id, requests.size()));
    return *requests[static_cast<size_t>(id)];
  }
};

BatchGenerator::BatchGenerator(const Model& model, const Tokenizer& tokenizer, const BatchOptions& options)
    : state_(new State{model, tokenizer, options, {}, {}, {}, batch_cache(model.info(), options.cache)}) {
  if (options.max_rows < 1)
    throw std::invalid_argument(
        fmt::format("[BatchGenerator] max_rows must be 1 or more, not {}", options.max_rows));
}
BatchGenerator::BatchGenerator(BatchGenerator&&) noexcept = default;
BatchGenerator::~BatchGenerator() = default;

int64_t BatchGenerator::add(std::span<const int32_t> prompt, const GenerateOptions& options) {
  State& s = *state_;
  if (options.draft || options.prompt_lookup)
    throw std::invalid_argument("[BatchGenerator] speculation is for one text at a time");
  s.requests.push_back(std::make_unique<Request>(s.tokenizer, prompt, options, s.model.info().vocabulary));
  s.waiting.push_back(std::ssize(s.requests) - 1);
  return s.waiting.back();
}

bool BatchGenerator::step(const OnStep& on_step) {
  State& s = *state_;
  s.drop_ended();
  if (!s.waiting.empty() && std::ssize(s.rows) < s.options.max_rows) {
    const int64_t id = s.waiting.front();
    s.waiting.pop_front();
    s.start(id, on_step);
  }
  if (!s.rows.empty()) {
    std::vector<int32_t> tokens;
    for (int64_t id : s.rows) tokens.push_back(s.requests[static_cast<size_t>(id)]->text.history().back());
    Scores scores(s.model(array(tokens.data(), {std::ssize(tokens), 1}, int32), s.cache));
    scores.wait();
    for (size_t i = 0; i < s.rows.size(); ++i) s.give(s.rows[i], scores, i, on_step);
  }
  s.drop_ended();
  return !s.rows.empty() || !s.waiting.empty();
}

void BatchGenerator::run(const OnStep& on_step) {
  while (step(on_step)) {}
}

void BatchGenerator::cancel(int64_t id) {
  Request& r = state_->at(id);
  if (r.ended) return;
  r.text.result().finish = Finish::callback;
  r.ended = true;
  std::erase(state_->waiting, id);
}

int64_t BatchGenerator::active() const { return std::ssize(state_->rows); }
int64_t BatchGenerator::waiting() const { return std::ssize(state_->waiting); }
bool BatchGenerator::ended(int64_t id) const { return state_->at(id).ended; }
const Result& BatchGenerator::result(int64_t id) const { return state_->at(id).text.result(); }

std::vector<Result> generate_batch(const Model& model, const Tokenizer& tokenizer,
                                   const std::vector<std::vector<int32_t>>& prompts,
                                   const GenerateOptions& options, const BatchOptions& batch) {
  BatchGenerator generator(model, tokenizer, batch);
  for (const auto& p : prompts) generator.add(p, options);
  generator.run();
  std::vector<Result> all;
  for (int64_t i = 0; i < std::ssize(prompts); ++i) all.push_back(generator.result(i));
  return all;
}

}  // namespace lazuli::lm
