#include "model/training/progress.h"

#include <cerrno>
#include <cmath>
#include <cstring>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "base/status.h"

namespace bflow {
namespace {

// Of a code: log 2 nats are a bit.
double BitsPerDim(const TrainingReport& report, double nll) {
  return (nll + report.code_unit_offset) / std::log(2);
}

}  // namespace

std::string FormatReport(const TrainingReport& report, int64_t total_steps) {
  constexpr int64_t kWidth = 20;
  int64_t filled = total_steps > 0 ? kWidth * report.step / total_steps : 0;
  const auto in_codes = [&report](double nll) {
    return report.is_image ? BitsPerDim(report, nll) : nll + report.code_unit_offset;
  };
  std::string line =
      absl::StrFormat("step %d/%d [%s%s] nll %.4f nats/dim %.4f %s", report.step, total_steps,
                      std::string(static_cast<size_t>(filled), '#'),
                      std::string(static_cast<size_t>(kWidth - filled), '.'), report.train_nll,
                      in_codes(report.train_nll), report.is_image ? "bits/dim" : "nats/sample");
  if (report.validation_nll) {
    absl::StrAppendFormat(&line, " val %.4f %.4f", *report.validation_nll,
                          in_codes(*report.validation_nll));
  }
  if (report.skipped_steps > 0) absl::StrAppendFormat(&line, " %d skipped", report.skipped_steps);
  absl::StrAppendFormat(&line, " %.*f %s/s", report.is_image ? 1 : 0, report.windows_per_second,
                        report.is_image ? "images" : "windows");
  if (report.step > 0) {
    double left = report.elapsed_seconds / static_cast<double>(report.step) *
                  static_cast<double>(total_steps - report.step);
    int64_t seconds = static_cast<int64_t>(left + 0.5);
    absl::StrAppendFormat(&line, " %d:%02d left", seconds / 60, seconds % 60);
  }
  return line;
}

Progress::Progress(std::FILE* stream, bool terminal, int64_t total_steps)
    : stream_(stream), terminal_(terminal), total_steps_(total_steps) {}

void Progress::Show(const TrainingReport& report) {
  std::string line = FormatReport(report, total_steps_);
  if (terminal_) {
    size_t length = line.size();
    if (length < drawn_) line.append(drawn_ - length, ' ');
    std::fprintf(stream_, "\r%s", line.c_str());
    drawn_ = length;
  } else {
    std::fprintf(stream_, "%s\n", line.c_str());
  }
  std::fflush(stream_);
}

void Progress::Note(const std::string& text) {
  Finish();
  std::fprintf(stream_, "%s\n", text.c_str());
  std::fflush(stream_);
}

void Progress::Finish() {
  if (drawn_ > 0) std::fputc('\n', stream_);
  drawn_ = 0;
}

// Of an old metrics file that a resumed run continues.
constexpr int64_t kMaxCsvBytes = int64_t{1} << 30;
constexpr char kCsvHeader[] =
    "step,learning_rate,train_nats_per_dim,train_nats_per_sample_step_unit,validation_nats_per_dim,"
    "validation_nats_per_sample_step_unit,windows_per_second,elapsed_seconds,gradient_norm,"
    "skipped_steps,train_bits_per_dim,validation_bits_per_dim\n";

absl::StatusOr<MetricsCsv> MetricsCsv::Create(const std::string& path, int64_t through) {
  std::string kept;
  if (through > 0) {
    const absl::StatusOr<std::string> old = ReadUserFile(path, kMaxCsvBytes);
    for (absl::string_view line : absl::StrSplit(old.ok() ? *old : "", '\n')) {
      const std::pair<absl::string_view, absl::string_view> cells =
          absl::StrSplit(line, absl::MaxSplits(',', 1));
      int64_t step = 0;
      if (absl::SimpleAtoi(cells.first, &step) && step <= through) {
        absl::StrAppend(&kept, line, "\n");
      }
    }
  }
  // Whole or not at all: a kill here must not cost the lines of the run so far.
  const absl::Status written = WriteUserFile(path, absl::StrCat(kCsvHeader, kept));
  if (!written.ok()) {
    return absl::PermissionDeniedError(absl::StrCat("--metrics_csv: ", written.message()));
  }
  std::FILE* file = std::fopen(path.c_str(), "ae");
  if (file == nullptr) {
    return absl::PermissionDeniedError(
        absl::StrCat("--metrics_csv: cannot open the file: ", strerror(errno)));
  }
  return MetricsCsv(file);
}

absl::Status MetricsCsv::Write(const TrainingReport& r) {
  std::string validation = ",", validation_bits;
  if (r.validation_nll) {
    validation_bits = absl::StrFormat("%.9g", BitsPerDim(r, *r.validation_nll));
    validation =
        absl::StrFormat("%.9g,%.9g", *r.validation_nll, *r.validation_nll + r.code_unit_offset);
  }
  const std::string line = absl::StrFormat(
      "%d,%.9g,%.9g,%.9g,%s,%.1f,%.3f,%.9g,%d,%.9g,%s\n", r.step, r.learning_rate, r.train_nll,
      r.train_nll + r.code_unit_offset, validation, r.windows_per_second, r.elapsed_seconds,
      r.gradient_norm, r.skipped_steps, BitsPerDim(r, r.train_nll), validation_bits);
  if (std::fputs(line.c_str(), file_.get()) < 0 || std::fflush(file_.get()) != 0) {
    return absl::ResourceExhaustedError(absl::StrCat("--metrics_csv: ", strerror(errno)));
  }
  return absl::OkStatus();
}

}  // namespace bflow
