// Where the samples of `bflow sample` go as they arrive, chunk after chunk: a .npy file, a picture,
// CSV on stdout or, for --json without --out, memory. No more than a chunk and what the picture
// shows is held otherwise.
#ifndef BFLOW_CLIENT_CLI_SAMPLE_OUTPUT_H_
#define BFLOW_CLIENT_CLI_SAMPLE_OUTPUT_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "base/file.h"
#include "client/flow_client.h"

namespace bflow::client {

// Samples in a picture: what a person can look at.
inline constexpr uint64_t kPictureSamples = 1024;

struct SampleTarget {
  uint64_t samples = 0;  // in all
  std::string npy;       // file, may be empty
  std::string png;       // file, may be empty: images only
  bool keep = false;     // in memory, for JSON
};

class SampleOutput {
 public:
  SampleOutput(const PinnedModel& model, const SampleTarget& target)
      : model_(model), target_(target) {}

  // Consecutive samples, in order. Errors: Internal (a reply unlike those before it),
  // InvalidArgument (no picture can be made of such values); else of a file: `write_failed` then.
  absl::Status Add(const butterflyflow::v1::Tensor& samples);
  // Completes the files.
  absl::Status Finish();

  bool write_failed() const { return write_failed_; }
  bool codes() const { return dtype_ != butterflyflow::v1::DATA_TYPE_FP32; }
  const std::vector<float>& kept() const { return kept_; }

 private:
  absl::Status Begin(butterflyflow::v1::DataType dtype);
  absl::Status WriteFailed(const char* flag, const absl::Status& status);
  void PrintCsv(const std::vector<float>& values);

  const PinnedModel& model_;
  const SampleTarget target_;
  butterflyflow::v1::DataType dtype_ = butterflyflow::v1::DATA_TYPE_UNSPECIFIED;
  std::unique_ptr<FileWriter> npy_;
  std::string pixels_;  // of the picture
  std::vector<float> kept_;
  int64_t csv_rows_ = 0;
  bool write_failed_ = false;
};

}  // namespace bflow::client

#endif  // BFLOW_CLIENT_CLI_SAMPLE_OUTPUT_H_
