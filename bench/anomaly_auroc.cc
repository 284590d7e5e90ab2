// How well the anomaly score tells corrupted windows from normal ones, per corruption:
//
//   bflow_bench_anomaly MODEL_VERSION_FOLDER RECORD [OTHER_RECORD OTHER_SIGNALS]
//
// The model was trained on the first 80% of the windows. Of the other 20% the first half calibrates
// (even windows: half A, odd: half B), the second half is normal, and each corruption of it is a
// set of positives; one generator, seed 7. The windows of OTHER_RECORD (another patient; signals in
// the order of the model's channels), brought to the model's gain, are one more set.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_split.h"
#include "base/exit_code.h"
#include "base/status.h"
#include "bench/corruptions.h"
#include "bench/localisation.h"
#include "model/checkpoint/repository.h"
#include "model/data/wfdb.h"
#include "model/flow/flow.h"
#include "model/scoring/anomaly.h"
#include "model/scoring/attribution.h"
#include "model/scoring/flow_scorer.h"
#include "model/scoring/torch_guard.h"
#include "model/scoring/window_features.h"
#include "model/training/training_data.h"

namespace bflow {
namespace {

constexpr int64_t kAll = std::numeric_limits<int64_t>::max();

// The corruptions that have a place in the window.
struct LocalCorruption {
  const char* name;
  Extent extent;
};
constexpr LocalCorruption kLocal[] = {{"5 spikes", Extent::kSamples},
                                      {"lead-off saturation", Extent::kChannelStretch},
                                      {"flat line, half", Extent::kStretch}};

std::vector<ChannelStatistics> Statistics(const TrainingData& data) {
  int64_t rows = 0;
  std::vector<float> codes = data.Gather(DataPart::kTrain, false, kAll, &rows);
  std::vector<ChannelStatistics> statistics;
  const size_t channels = data.channels().size();
  for (size_t c = 0; c < channels; ++c) {
    std::vector<double> values;
    for (size_t i = c; i < codes.size(); i += channels) values.push_back(codes[i]);
    std::sort(values.begin(), values.end());
    ChannelStatistics s;
    s.median = SortedQuantile(values, 0.5);
    s.amplitude = std::max(4.0, SortedQuantile(values, 0.99) - SortedQuantile(values, 0.01));
    s.rail_low = data.channels()[c].input_min;
    s.rail_high = data.channels()[c].input_max;
    statistics.push_back(s);
  }
  return statistics;
}

class Evaluation {
 public:
  Evaluation(std::shared_ptr<Flow> flow, TrainingData data)
      : flow_(std::move(flow)), data_(std::move(data)), statistics_(Statistics(data_)) {}

  absl::Status Run(const TrainingData* other);

 private:
  absl::StatusOr<std::vector<double>> Scores(const std::vector<float>& codes);
  absl::StatusOr<std::vector<double>> Causes(const std::vector<float>& codes);
  absl::Status Measure(const std::string& name, const std::vector<float>& codes);
  absl::Status Localise(const LocalCorruption& local, const std::vector<float>& codes);
  std::vector<float> Apply(const Corruption& corruption, std::mt19937_64& generator) const;

  std::shared_ptr<Flow> flow_;
  TrainingData data_;
  std::vector<ChannelStatistics> statistics_;
  std::vector<float> normal_;  // codes, window after window
  std::unique_ptr<AnomalyModel> model_;
  AttributionTables tables_;
  std::vector<double> normal_scores_;
  std::vector<double> aurocs_;
};

absl::StatusOr<std::vector<double>> Evaluation::Scores(const std::vector<float>& codes) {
  const int64_t size = data_.event_size();
  HostBatch batch{static_cast<int64_t>(codes.size()) / size, codes};
  BFLOW_ASSIGN_OR_RETURN(WindowFeatures features,
                         ComputeFeatures(*flow_, batch, CalibrationNoise(flow_->spec())));
  std::vector<double> scores;
  for (int64_t i = 0; i < features.rows; ++i) {
    const size_t k = static_cast<size_t>(i);
    const double nll = -features.log_prob[k] / static_cast<double>(size);
    scores.push_back(features.status[k] == RowStatus::kOk
                         ? model_->Score(features.row(i), nll, nullptr).score
                         : model_->FailSafe().score);
  }
  return scores;
}

absl::Status Evaluation::Measure(const std::string& name, const std::vector<float>& codes) {
  BFLOW_ASSIGN_OR_RETURN(std::vector<double> scores, Scores(codes));
  aurocs_.push_back(Auroc(normal_scores_, scores));
  std::printf("%-22s %4d windows  AUROC %.4f\n", name.c_str(), static_cast<int>(scores.size()),
              aurocs_.back());
  return absl::OkStatus();
}

absl::StatusOr<std::vector<double>> Evaluation::Causes(const std::vector<float>& codes) {
  HostBatch batch{static_cast<int64_t>(codes.size()) / data_.event_size(), codes};
  PassOptions options;
  options.want_causes = true;
  BFLOW_ASSIGN_OR_RETURN(PassResult pass,
                         RunPass(*flow_, batch, CalibrationNoise(flow_->spec()), 0, options));
  return std::move(pass.causes);
}

absl::Status Evaluation::Localise(const LocalCorruption& local, const std::vector<float>& codes) {
  BFLOW_ASSIGN_OR_RETURN(std::vector<double> causes, Causes(codes));
  const int64_t channels = static_cast<int64_t>(data_.channels().size());
  const size_t entries = static_cast<size_t>(AttributionEntries(data_.window(), channels));
  const std::vector<bool> changed =
      ChangedEntries(normal_, codes, data_.window(), channels, local.extent);
  std::vector<double> inside, outside;
  std::vector<float> z(entries);
  std::vector<AttributionCause> cause(entries);
  for (size_t w = 0; w * entries < changed.size(); ++w) {
    Attribute(tables_,
              {causes.data() + w * kAttributionCauses * entries, kAttributionCauses * entries},
              z.data(), cause.data());
    for (size_t i = 0; i < entries; ++i) {
      (changed[w * entries + i] ? inside : outside).push_back(z[i]);
    }
  }
  std::printf("where: %-22s %d entries of %d  AUROC %.4f\n", local.name,
              static_cast<int>(inside.size()), static_cast<int>(changed.size()),
              Auroc(outside, inside));
  return absl::OkStatus();
}

std::vector<float> Evaluation::Apply(const Corruption& corruption,
                                     std::mt19937_64& generator) const {
  const size_t size = static_cast<size_t>(data_.event_size());
  std::vector<float> codes;
  // The last window has no next one.
  const size_t end = corruption.needs_next ? normal_.size() - size : normal_.size();
  for (size_t at = 0; at < end; at += size) {
    CorruptionInput in{normal_.data() + at, normal_.data() + at + size, data_.window(), statistics_,
                       data_.frames_per_second()};
    std::vector<float> corrupted = ToCodes(corruption.apply(in, generator), statistics_);
    codes.insert(codes.end(), corrupted.begin(), corrupted.end());
  }
  return codes;
}

absl::Status Evaluation::Run(const TrainingData* other) {
  int64_t rows = 0;
  std::vector<float> test = data_.Gather(DataPart::kTest, false, kAll, &rows);
  const int64_t half = rows / 2;
  if (half < 4) return absl::InvalidArgumentError("the test part has fewer than 8 windows");
  auto middle = test.begin() + half * data_.event_size();
  normal_.assign(middle, test.end());

  HostBatch calibration{half, std::vector<float>(test.begin(), middle)};
  const Noise noise = CalibrationNoise(flow_->spec());
  BFLOW_ASSIGN_OR_RETURN(WindowFeatures features, ComputeFeatures(*flow_, calibration, noise));
  BFLOW_ASSIGN_OR_RETURN(Calibration fitted,
                         FitCalibration(features, data_.event_size(),
                                        noise.kind == NoiseKind::kCenter ? "center" : "none"));
  BFLOW_ASSIGN_OR_RETURN(AnomalyModel model,
                         AnomalyModel::Create(fitted, FeatureNames(flow_->spec())));
  model_ = std::make_unique<AnomalyModel>(std::move(model));
  BFLOW_ASSIGN_OR_RETURN(normal_scores_, Scores(normal_));
  std::printf("%d windows calibrate, %d are normal\n", static_cast<int>(half),
              static_cast<int>(normal_scores_.size()));

  std::vector<float> half_a;
  for (int64_t row = 0; row < half; row += 2) {
    const auto begin = test.begin() + row * data_.event_size();
    half_a.insert(half_a.end(), begin, begin + data_.event_size());
  }
  std::vector<double> steps;
  for (const ChannelSpec& channel : data_.channels()) steps.push_back(channel.step);
  BFLOW_ASSIGN_OR_RETURN(std::vector<double> causes, Causes(half_a));
  BFLOW_ASSIGN_OR_RETURN(tables_, FitAttribution(causes, data_.window(), steps));

  std::mt19937_64 generator(7);
  std::map<std::string, std::vector<float>> corrupted;
  for (const Corruption& corruption : AllCorruptions()) {
    corrupted[corruption.name] = Apply(corruption, generator);
    BFLOW_RETURN_IF_ERROR(Measure(corruption.name, corrupted[corruption.name]));
  }
  if (other != nullptr) {
    std::vector<float> codes = other->Gather(DataPart::kTrain, true, kAll, &rows);
    std::vector<double> rescaled(codes.begin(), codes.end());
    const size_t channels = data_.channels().size();
    for (size_t i = 0; i < rescaled.size(); ++i) {
      const ChannelSpec& from = other->channels()[i % channels];
      const ChannelSpec& to = data_.channels()[i % channels];
      rescaled[i] = (rescaled[i] - from.baseline) * to.gain / from.gain + to.baseline;
    }
    BFLOW_RETURN_IF_ERROR(Measure("another patient", ToCodes(rescaled, statistics_)));
  }
  double sum = 0;
  for (double auroc : aurocs_) sum += auroc;
  std::printf("%-22s %4d sets     mean %.4f  worst %.4f\n", "all", static_cast<int>(aurocs_.size()),
              sum / static_cast<double>(aurocs_.size()),
              *std::min_element(aurocs_.begin(), aurocs_.end()));
  for (const LocalCorruption& local : kLocal) {
    BFLOW_RETURN_IF_ERROR(Localise(local, corrupted.at(local.name)));
  }
  return absl::OkStatus();
}

absl::StatusOr<TrainingData> Load(const std::string& record, std::vector<std::string> signals,
                                  int64_t window, double train_fraction) {
  BFLOW_ASSIGN_OR_RETURN(WaveformRecord waveform, ReadWfdbRecord(record));
  TrainingData::Request request;
  request.signals = std::move(signals);
  request.window = request.hop = window;
  request.fractions = {train_fraction, 0, 0};
  std::vector<WaveformRecord> records;
  records.push_back(std::move(waveform));
  return TrainingData::Create(std::move(records), request);
}

absl::Status Main(const std::vector<std::string>& arguments) {
  BFLOW_ASSIGN_OR_RETURN(Checkpoint checkpoint, ReadCheckpoint(arguments[0]));
  const FlowSpec& spec = checkpoint.spec;
  std::vector<std::string> signals;
  for (const ChannelSpec& channel : spec.channels) signals.push_back(channel.name);
  BFLOW_ASSIGN_OR_RETURN(TrainingData data, Load(arguments[1], signals, spec.time_steps(), 0.8));
  std::unique_ptr<TrainingData> other;
  if (arguments.size() == 4) {
    std::vector<std::string> other_signals = absl::StrSplit(arguments[3], ',');
    if (other_signals.size() != signals.size()) {
      return absl::InvalidArgumentError("OTHER_SIGNALS: expected one for each channel");
    }
    BFLOW_ASSIGN_OR_RETURN(TrainingData loaded,
                           Load(arguments[2], other_signals, spec.time_steps(), 1));
    other = std::make_unique<TrainingData>(std::move(loaded));
  }
  BFLOW_ASSIGN_OR_RETURN(std::shared_ptr<Flow> flow,
                         Flow::Load(spec, checkpoint.tensors, at::kFloat));
  flow->Freeze();
  return Evaluation(flow, std::move(data)).Run(other.get());
}

}  // namespace
}  // namespace bflow

int main(int argc, char** argv) {
  std::vector<std::string> arguments(argv + 1, argv + argc);
  if (arguments.size() != 2 && arguments.size() != 4) {
    std::fprintf(stderr,
                 "usage: bflow_bench_anomaly MODEL_VERSION_FOLDER RECORD [OTHER_RECORD SIGNALS]\n");
    return bflow::kExitUsage;
  }
  absl::Status status =
      bflow::GuardTorch("bflow_bench_anomaly", [&] { return bflow::Main(arguments); });
  if (status.ok()) return bflow::kExitOk;
  std::fprintf(stderr, "bflow_bench_anomaly: %s\n", std::string(status.message()).c_str());
  return bflow::kExitBadInput;
}
