#include "model/training/training_data.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status.h"

namespace bflow {
namespace {

// The channel with the gain and baseline that most of its frames have: segments with another one
// cannot train the same model. The first of equals wins.
absl::StatusOr<ChannelSpec> DescribeChannel(const std::vector<WaveformRecord>& records,
                                            const std::string& signal) {
  struct Scaling {
    const WaveformSignal* signal;
    int64_t frames;
  };
  std::vector<Scaling> scalings;
  for (const WaveformRecord& record : records) {
    for (const WaveformSegment& segment : record.segments) {
      const WaveformSignal* found = segment.Find(signal);
      if (found == nullptr) continue;
      auto same = std::find_if(scalings.begin(), scalings.end(), [&](const Scaling& s) {
        return SameGain(s.signal->gain, found->gain) &&
               SameBaseline(s.signal->baseline, found->baseline);
      });
      if (same == scalings.end()) same = scalings.insert(same, {found, 0});
      same->frames += segment.frames;
    }
  }
  if (scalings.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("signal ", signal, ": no record has it"));
  }
  const WaveformSignal& found =
      *std::max_element(scalings.begin(), scalings.end(), [](const Scaling& a, const Scaling& b) {
         return a.frames < b.frames;
       })->signal;
  ChannelSpec channel;
  channel.name = found.name;
  channel.unit = found.unit;
  channel.gain = found.gain;
  channel.baseline = found.baseline;
  channel.input_min = found.input_min;
  channel.input_max = found.input_max;
  return channel;
}

bool SameRate(double a, double b) { return std::abs(a - b) <= 1e-6 * b; }

double RateOfMostFrames(const std::vector<WaveformRecord>& records) {
  double best = 0;
  int64_t most = -1;
  for (const WaveformRecord& candidate : records) {
    int64_t frames = 0;
    for (const WaveformRecord& record : records) {
      if (SameRate(record.frames_per_second, candidate.frames_per_second)) frames += record.frames;
    }
    if (frames > most) {
      most = frames;
      best = candidate.frames_per_second;
    }
  }
  return best;
}

}  // namespace

absl::StatusOr<TrainingData> TrainingData::Create(std::vector<WaveformRecord> records,
                                                  const Request& request) {
  if (records.empty()) return absl::InvalidArgumentError("data: no record");
  TrainingData data;
  data.request_ = request;
  data.records_ = std::move(records);
  BFLOW_RETURN_IF_ERROR(data.SelectSignals());
  BFLOW_RETURN_IF_ERROR(data.Split());
  BFLOW_RETURN_IF_ERROR(data.FindExtremes());
  return data;
}

absl::Status TrainingData::SelectSignals() {
  frames_per_second_ = RateOfMostFrames(records_);
  std::vector<ChannelRequest> wanted;
  for (size_t c = 0; c < request_.signals.size(); ++c) {
    BFLOW_ASSIGN_OR_RETURN(ChannelSpec channel, DescribeChannel(records_, request_.signals[c]));
    if (!request_.step.empty()) {
      channel.step = request_.step.size() == 1 ? request_.step[0] : request_.step[c];
    }
    wanted.push_back({channel.name, true, channel.gain, channel.baseline});
    channels_.push_back(channel);
  }
  std::vector<WaveformRecord> usable;
  for (WaveformRecord& record : records_) {
    if (!SameRate(record.frames_per_second, frames_per_second_)) {
      rejected_.push_back(absl::StrCat("record ", record.name, ": ", record.frames_per_second,
                                       " frames per second, the data's are ", frames_per_second_));
      continue;
    }
    ChannelSelection selection = SelectChannels(record, wanted);
    if (selection.runs.empty()) {
      rejected_.push_back(absl::StrCat(
          "record ", record.name, ": ",
          selection.skipped.empty() ? "no valid sample" : selection.skipped[0].reason));
      continue;
    }
    for (const SkippedSegment& s : selection.skipped) {
      skipped_.push_back(absl::StrCat(s.segment, " (", record.name, "): ", s.reason));
    }
    selections_.push_back(std::move(selection));
    usable.push_back(std::move(record));
  }
  records_ = std::move(usable);
  return records_.empty() ? absl::InvalidArgumentError(rejected_[0]) : absl::OkStatus();
}

absl::Status TrainingData::Split() {
  std::vector<RecordWindow> grid;  // hop = window: where the boundaries lie
  for (size_t r = 0; r < records_.size(); ++r) {
    for (const Window& w :
         CutWindows(records_[r], selections_[r], request_.window, request_.window)) {
      grid.push_back({r, w});
    }
  }
  if (grid.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("data: no run of ", request_.window,
                                                   " samples that are valid in all signals"));
  }
  const SplitFractions& f = request_.fractions;
  const std::array<double, 3> ends = {f.train, f.train + f.validation,
                                      f.train + f.validation + f.calibration};
  std::array<Boundary, 5> boundaries;
  boundaries[0] = {0, 0};
  for (size_t k = 0; k < ends.size(); ++k) {
    // 1e-9: 0.64 + 0.08 + 0.08 must count as 0.8 whatever its last bit.
    auto index = static_cast<size_t>(ends[k] * static_cast<double>(grid.size()) + 1e-9);
    boundaries[k + 1] = index >= grid.size()
                            ? Boundary{records_.size(), 0}
                            : Boundary{grid[index].record, grid[index].window.start_frame};
  }
  boundaries[4] = {records_.size(), 0};
  train_end_ = boundaries[1];
  auto before = [](size_t record, int64_t frame, const Boundary& b) {  // frame <= b
    return record < b.record || (record == b.record && frame <= b.frame);
  };
  for (size_t r = 0; r < records_.size(); ++r) {
    for (const Window& w : CutWindows(records_[r], selections_[r], request_.window, request_.hop)) {
      for (size_t k = 0; k < parts_.size(); ++k) {
        const Boundary& begin = boundaries[k];
        bool starts = r > begin.record || (r == begin.record && w.start_frame >= begin.frame);
        if (starts && before(r, w.start_frame + request_.window, boundaries[k + 1])) {
          parts_[k].push_back({r, w});
          break;
        }
      }
    }
  }
  return absl::OkStatus();
}

int64_t TrainingData::TrainingFrames(size_t record, const ValidRun& run) const {
  if (record != train_end_.record) return record < train_end_.record ? run.frames : 0;
  int64_t start = records_[record].segments[run.segment].start_frame + run.begin;
  return std::clamp<int64_t>(train_end_.frame - start, 0, run.frames);
}

// Noise of one step makes a density of codes only where no two codes are nearer.
absl::Status TrainingData::CheckSteps() const {
  constexpr double kRounding = 1e-6;
  for (size_t c = 0; c < channels_.size(); ++c) {
    const ChannelSpec& channel = channels_[c];
    for (const TrainingRange& range : ranges_) {
      const WaveformSegment& segment = records_[range.record].segments[range.segment];
      const std::vector<float>& codes =
          segment.signals[selections_[range.record].signal_index[range.segment][c]].codes;
      const int64_t end = range.begin + range.places + request_.window - 1;
      for (int64_t i = range.begin; i < end; ++i) {
        const double steps = (codes[static_cast<size_t>(i)] - channel.lo) / channel.step;
        if (std::abs(steps - std::round(steps)) <= kRounding) continue;
        return absl::InvalidArgumentError(
            absl::StrCat("signal ", channel.name,
                         ": its codes are no whole steps apart; leave --step out, or give it a "
                         "step that divides them"));
      }
    }
  }
  return absl::OkStatus();
}

absl::Status TrainingData::FindExtremes() {
  for (ChannelSpec& channel : channels_) {
    channel.lo = std::numeric_limits<double>::infinity();
    channel.hi = -channel.lo;
  }
  for (size_t r = 0; r < records_.size(); ++r) {
    for (const ValidRun& run : selections_[r].runs) {
      const int64_t frames = TrainingFrames(r, run);
      if (frames < request_.window) continue;
      ranges_.push_back({r, run.segment, run.begin, frames - request_.window + 1});
      places_ += ranges_.back().places;
      const WaveformSegment& segment = records_[r].segments[run.segment];
      for (size_t c = 0; c < channels_.size(); ++c) {
        const float* codes =
            segment.signals[selections_[r].signal_index[run.segment][c]].codes.data() + run.begin;
        auto [lo, hi] = std::minmax_element(codes, codes + frames);
        channels_[c].lo = std::min<double>(channels_[c].lo, *lo);
        channels_[c].hi = std::max<double>(channels_[c].hi, *hi);
      }
    }
  }
  if (ranges_.empty()) {
    return absl::InvalidArgumentError("data: the training part is shorter than one window");
  }
  BFLOW_RETURN_IF_ERROR(CheckSteps());
  for (const ChannelSpec& channel : channels_) {
    if (!(channel.lo < channel.hi)) {
      return absl::InvalidArgumentError(
          absl::StrCat("signal ", channel.name, ": never changes in the training part"));
    }
  }
  return absl::OkStatus();
}

std::vector<std::vector<int64_t>> TrainingData::SeenCodes() const {
  std::vector<std::vector<int64_t>> seen;
  for (size_t c = 0; c < channels_.size(); ++c) {
    std::set<int64_t> indices;
    for (const TrainingRange& range : ranges_) {
      const WaveformSegment& segment = records_[range.record].segments[range.segment];
      const float* codes =
          segment.signals[selections_[range.record].signal_index[range.segment][c]].codes.data() +
          range.begin;
      const int64_t frames = range.places + request_.window - 1;
      for (int64_t i = 0; i < frames; ++i) {
        if (i == 0 || codes[i] != codes[i - 1]) indices.insert(GridIndex(channels_[c], codes[i]));
      }
    }
    seen.emplace_back(indices.begin(), indices.end());
  }
  return seen;
}

double TrainingData::training_hours() const {
  double frames = 0;
  for (const TrainingRange& range : ranges_) {
    frames += static_cast<double>(range.places + request_.window - 1);
  }
  return frames / frames_per_second_ / 3600;
}

std::vector<int64_t> TrainingData::event_shape() const {
  return {window(), static_cast<int64_t>(channels_.size())};
}

int64_t TrainingData::Count(DataPart part) const {
  return static_cast<int64_t>(windows(part).size());
}

std::map<std::string, std::string> TrainingData::CardFields() const {
  std::string names, signals;
  for (const WaveformRecord& record : records_) {
    absl::StrAppend(&names, names.empty() ? "" : ", ", record.name);
  }
  for (const ChannelSpec& channel : channels_) {
    absl::StrAppend(&signals, signals.empty() ? "" : ", ", channel.name);
  }
  return {{"trained_on", names},
          {"signals", signals},
          {"hours", absl::StrFormat("%.2f", training_hours())},
          {"windows", absl::StrCat(Count(DataPart::kTrain))}};
}

void TrainingData::Codes(const RecordWindow& w, float* out) const {
  CopyWindow(records_[w.record], selections_[w.record], w.window.segment, w.window.begin,
             request_.window, out);
}

bool TrainingData::IsConstant(const RecordWindow& w) const {
  std::vector<float> codes(static_cast<size_t>(event_size()));
  Codes(w, codes.data());
  std::vector<bool> constant =
      ConstantChannels(codes.data(), request_.window, static_cast<int64_t>(channels_.size()));
  return std::find(constant.begin(), constant.end(), true) != constant.end();
}

std::vector<float> TrainingData::Gather(DataPart part, bool skip_constant, int64_t most,
                                        int64_t* rows) const {
  std::vector<const RecordWindow*> chosen;
  for (const RecordWindow& w : windows(part)) {
    if (!skip_constant || !IsConstant(w)) chosen.push_back(&w);
  }
  const int64_t available = static_cast<int64_t>(chosen.size());
  *rows = std::min(available, most);
  std::vector<float> codes(static_cast<size_t>(*rows * event_size()));
  for (int64_t i = 0; i < *rows; ++i) {
    Codes(*chosen[static_cast<size_t>(i * available / *rows)], codes.data() + i * event_size());
  }
  return codes;
}

void TrainingData::DrawTrainingStretch(std::mt19937_64& generator, int64_t steps,
                                       float* out) const {
  const int64_t more = request_.window - steps;  // places of a stretch in each range
  const int64_t places = places_ + more * static_cast<int64_t>(ranges_.size());
  // The bias of the remainder is below places / 2^64.
  int64_t place = static_cast<int64_t>(generator() % static_cast<uint64_t>(places));
  size_t k = 0;
  while (place >= ranges_[k].places + more) place -= ranges_[k++].places + more;
  const TrainingRange& range = ranges_[k];
  CopyWindow(records_[range.record], selections_[range.record], range.segment, range.begin + place,
             steps, out);
}

absl::Status TrainingData::DrawTrainingWindow(std::mt19937_64& generator, float* out) const {
  constexpr int kAttempts = 1000;
  const int64_t channels = static_cast<int64_t>(channels_.size());
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    DrawTrainingStretch(generator, request_.window, out);
    std::vector<bool> constant = ConstantChannels(out, request_.window, channels);
    if (std::find(constant.begin(), constant.end(), true) == constant.end()) {
      return absl::OkStatus();
    }
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "data: ", kAttempts, " random training windows in a row had a constant channel"));
}

absl::StatusOr<std::unique_ptr<TrainingDraws>> TrainingData::Draws(uint64_t /*seed*/,
                                                                   int64_t /*batch*/) const {
  class RandomPlaces : public TrainingDraws {
   public:
    explicit RandomPlaces(const TrainingData& data) : data_(data) {}
    absl::Status Draw(uint64_t /*row*/, std::mt19937_64& generator, float* codes) override {
      return data_.DrawTrainingWindow(generator, codes);
    }

   private:
    const TrainingData& data_;
  };
  return std::make_unique<RandomPlaces>(*this);
}

}  // namespace bflow
