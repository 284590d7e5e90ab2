// The records of a run in memory: channels of the model, the four parts by time, windows and random
// training batches. Torch-free.
#ifndef BFLOW_MODEL_TRAINING_TRAINING_DATA_H_
#define BFLOW_MODEL_TRAINING_TRAINING_DATA_H_

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/checkpoint/flow_spec.h"
#include "model/data/waveform.h"
#include "model/data/windows.h"
#include "model/training/training_events.h"

namespace bflow {

// A window of one of the records.
struct RecordWindow {
  size_t record = 0;
  Window window;
};

// The parts follow each other in the order of the records. A boundary lies at the start of a window
// of the grid with hop = window: of n such windows (constant ones too) the first floor(f n) lie
// before the boundary of cumulated fraction f. A window of any grid belongs to the part in which it
// lies wholly.
class TrainingData : public TrainingEvents {
 public:
  struct Request {
    std::vector<std::string> signals;
    std::vector<double> step;  // empty: 1; else one for all, or one for each
    int64_t window = 1024;
    int64_t hop = 1024;
    SplitFractions fractions;
  };

  // Errors: InvalidArgument naming record and signal (no such signal, gain or baseline that differ
  // between records, no window, a channel that never changes).
  static absl::StatusOr<TrainingData> Create(std::vector<WaveformRecord> records,
                                             const Request& request);

  const std::vector<ChannelSpec>& channels() const override { return channels_; }
  std::vector<int64_t> event_shape() const override;
  std::string noun() const override { return "windows"; }
  double frames_per_second() const override { return frames_per_second_; }
  int64_t window() const { return request_.window; }
  int64_t event_size() const { return window() * static_cast<int64_t>(channels_.size()); }
  const std::vector<WaveformRecord>& records() const { return records_; }
  // "segment (record): reason" for each segment that could not be used.
  const std::vector<std::string>& skipped() const { return skipped_; }
  // Records that cannot be used, each with the reason; the others are.
  const std::vector<std::string>& rejected() const { return rejected_; }
  // Hours of signal in the training part.
  double training_hours() const;

  const std::vector<RecordWindow>& windows(DataPart part) const {
    return parts_[static_cast<size_t>(part)];
  }
  // Converter codes of a window, time-major [window, channels].
  void Codes(const RecordWindow& window, float* out) const;
  // True if a channel of the window never changes.
  bool IsConstant(const RecordWindow& window) const;
  int64_t Count(DataPart part) const override;
  std::vector<float> Gather(DataPart part, bool skip_constant, int64_t most,
                            int64_t* rows) const override;

  std::vector<std::vector<int64_t>> SeenCodes() const override;

  // Codes of a window at a random place of the training part, every place alike; windows with a
  // constant channel are drawn again. Errors: InvalidArgument (1,000 constant ones in a row).
  absl::Status DrawTrainingWindow(std::mt19937_64& generator, float* out) const;
  // Codes of `steps` steps, at most a window, at a random place of the training part, every place
  // alike; constant ones too.
  void DrawTrainingStretch(std::mt19937_64& generator, int64_t steps, float* out) const;
  // Windows of DrawTrainingWindow, whatever the row.
  absl::StatusOr<std::unique_ptr<TrainingDraws>> Draws(uint64_t seed, int64_t batch) const override;
  int64_t InitialisationRows() const override { return 0; }
  std::map<std::string, std::string> CardFields() const override;

 private:
  // A stretch of the training part that holds at least one window.
  struct TrainingRange {
    size_t record;
    size_t segment;
    int64_t begin;   // frame within the segment
    int64_t places;  // windows that start in it
  };
  // Frame `frame` of record `record`.
  struct Boundary {
    size_t record;
    int64_t frame;
  };

  TrainingData() = default;
  absl::Status SelectSignals();
  absl::Status Split();
  absl::Status FindExtremes();
  absl::Status CheckSteps() const;
  // The frames of a run that lie before the end of the training part.
  int64_t TrainingFrames(size_t record, const ValidRun& run) const;

  Request request_;
  std::vector<WaveformRecord> records_;
  std::vector<ChannelSelection> selections_;
  std::vector<ChannelSpec> channels_;
  std::vector<std::string> skipped_, rejected_;
  double frames_per_second_ = 0;
  std::array<std::vector<RecordWindow>, 4> parts_;
  Boundary train_end_{0, 0};
  std::vector<TrainingRange> ranges_;
  int64_t places_ = 0;
};

}  // namespace bflow

#endif  // BFLOW_MODEL_TRAINING_TRAINING_DATA_H_
