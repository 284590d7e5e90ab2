// What a person sees of a run, and the metrics file: a bar that redraws itself on a terminal, plain
// lines elsewhere, a CSV line per report.
#ifndef BFLOW_MODEL_TRAINING_PROGRESS_H_
#define BFLOW_MODEL_TRAINING_PROGRESS_H_

#include <cstdint>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace bflow {

// The state of a run after `step` updates. NLL in nats per dimension of the scaled unit; the same
// in nats per sample and converter step is `code_unit_offset` larger.
struct TrainingReport {
  int64_t step = 0;
  int64_t skipped_steps = 0;  // in all, because a loss or a gradient was not finite
  double learning_rate = 0;
  double train_nll = 0;      // mean since the last report
  double gradient_norm = 0;  // mean since the last report
  std::optional<double> validation_nll;
  double code_unit_offset = 0;    // mean over channels of log((hi - lo) / (2 step))
  bool is_image = false;          // a person reads bits per dimension then
  double windows_per_second = 0;  // or images
  double elapsed_seconds = 0;
};

// "step 100/3500 [###...] nll -3.21 nats/dim 0.98 nats/sample val 0.99 12000 windows/s 0:31 left",
// and "2 skipped" before the rate if steps were. Of images "nll -1.4 nats/dim 4.97 bits/dim ...
// images/s".
std::string FormatReport(const TrainingReport& report, int64_t total_steps);

class Progress {
 public:
  // Writes to `stream` (stderr in the program); `terminal`: one line that is redrawn.
  Progress(std::FILE* stream, bool terminal, int64_t total_steps);

  // Always drawn on a terminal; elsewhere a line every `validate_every` steps, decided by the
  // caller.
  void Show(const TrainingReport& report);
  // A line of its own that stays.
  void Note(const std::string& text);
  // Ends the redrawn line.
  void Finish();

  bool terminal() const { return terminal_; }

 private:
  std::FILE* stream_;
  bool terminal_;
  int64_t total_steps_;
  size_t drawn_ = 0;  // characters of the line on the terminal
};

// step,learning_rate,train_nats_per_dim,train_nats_per_sample_step_unit,validation_nats_per_dim,
// validation_nats_per_sample_step_unit,windows_per_second,elapsed_seconds,gradient_norm,skipped_steps,
// train_bits_per_dim,validation_bits_per_dim as docs/training.md describes them.
class MetricsCsv {
 public:
  // Truncates `path`, but keeps the lines up to step `through` of what it holds. Errors:
  // PermissionDenied, naming the flag.
  static absl::StatusOr<MetricsCsv> Create(const std::string& path, int64_t through = 0);

  // Appends and flushes a line. Errors: ResourceExhausted (disk full or file-size limit).
  absl::Status Write(const TrainingReport& report);

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  explicit MetricsCsv(std::FILE* file) : file_(file) {}

  std::unique_ptr<std::FILE, Close> file_;
};

}  // namespace bflow

#endif  // BFLOW_MODEL_TRAINING_PROGRESS_H_
