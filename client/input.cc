#include "client/input.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status.h"
#include "model/data/images.h"
#include "model/data/npy.h"
#include "model/data/wfdb.h"
#include "model/data/windows.h"

namespace bflow::client {
namespace {

bool EndsWith(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

absl::Status Named(const std::string& record, const absl::Status& status) {
  const std::string text(status.message().data(), status.message().size());
  if (text.find(record) != std::string::npos) return status;  // the reader named it already
  return absl::Status(status.code(), absl::StrCat(record, ": ", text));
}

bool InTimeRange(const InputOptions& options, int64_t start, int64_t frames, double rate) {
  const double begin = static_cast<double>(start) / rate;
  const double end = static_cast<double>(start + frames) / rate;
  return (!options.from_s.has_value() || begin >= *options.from_s) &&
         (!options.to_s.has_value() || end <= *options.to_s);
}

absl::StatusOr<std::vector<ChannelRequest>> Channels(const PinnedModel& model,
                                                     const InputOptions& options) {
  std::vector<ChannelRequest> out;
  for (const auto& channel : model.info.channels()) {
    out.push_back({channel.name(), model.info.quantised(), channel.gain(), channel.baseline()});
  }
  if (options.signals.empty()) return out;
  if (options.signals.size() != out.size()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--signals: ", options.signals.size(), " names, the model has ", out.size(), " channels"));
  }
  for (size_t c = 0; c < out.size(); ++c) out[c].name = options.signals[c];
  return out;
}

absl::StatusOr<InputWindows> LoadNpy(const std::string& path, const PinnedModel& model,
                                     const InputOptions& options) {
  InputWindows out;
  out.frames_per_second = model.info.sampling_rate_hz();
  out.window_frames = model.info.event_shape(0);
  BFLOW_ASSIGN_OR_RETURN(const NpyArray array, ReadNpy(path));
  const int64_t hop = options.hop > 0 ? options.hop : out.window_frames;
  BFLOW_ASSIGN_OR_RETURN(NpyWindows windows,
                         WindowsOfNpy(array, out.window_frames, model.info.event_shape(1), hop));
  const bool timed = options.from_s.has_value() || options.to_s.has_value();
  if (timed && out.frames_per_second <= 0) {
    return absl::InvalidArgumentError("--from, --to: the model knows no sampling rate");
  }
  const int64_t values = model.EventValues();
  auto data = std::make_shared<std::vector<float>>(std::move(windows.values));
  auto kept = std::make_shared<std::vector<int64_t>>();
  for (int64_t i = 0; i < windows.count; ++i) {
    const int64_t start = windows.start_frame[static_cast<size_t>(i)];
    if (timed && !InTimeRange(options, start, out.window_frames, out.frames_per_second)) continue;
    const std::vector<bool> constant =
        ConstantChannels(data->data() + i * values, out.window_frames, model.info.event_shape(1));
    const bool any = std::find(constant.begin(), constant.end(), true) != constant.end();
    out.places.push_back({"", i, start, any});
    kept->push_back(i);
  }
  out.rows.real_valued = !windows.is_integer;
  out.rows.fill = [data, kept, values](int64_t first, int64_t count, float* to) {
    for (int64_t i = 0; i < count; ++i) {
      const float* from = data->data() + (*kept)[static_cast<size_t>(first + i)] * values;
      std::copy(from, from + values, to + i * values);
    }
  };
  return out;
}

// Whether a skipped segment has all the signals, so that its gain or baseline was what did not fit.
bool HasSignals(const WaveformRecord& record, const std::string& segment,
                const std::vector<ChannelRequest>& channels) {
  for (const WaveformSegment& s : record.segments) {
    if (s.name != segment) continue;
    return std::all_of(channels.begin(), channels.end(),
                       [&](const ChannelRequest& c) { return s.Find(c.name) != nullptr; });
  }
  return false;
}

absl::StatusOr<InputWindows> LoadRecord(const std::string& path, const PinnedModel& model,
                                        const InputOptions& options) {
  if (BaseName(path).empty()) {
    return absl::InvalidArgumentError("INPUT: a WFDB record or .npy file is needed, not a folder");
  }
  BFLOW_ASSIGN_OR_RETURN(const auto channels, Channels(model, options));
  BFLOW_ASSIGN_OR_RETURN(WaveformRecord read, ReadWfdbRecord(path));
  auto record = std::make_shared<const WaveformRecord>(std::move(read));
  const double rate = model.info.sampling_rate_hz();
  if (rate > 0 && std::abs(record->frames_per_second - rate) > 1e-6 * rate) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the sampling rate is ", record->frames_per_second, " Hz, the model takes ", rate, " Hz"));
  }
  InputWindows out;
  out.start_time = record->start_time;
  out.frames_per_second = record->frames_per_second;
  out.window_frames = model.info.event_shape(0);
  const int64_t length = out.window_frames;
  auto selection = std::make_shared<const ChannelSelection>(SelectChannels(*record, channels));
  for (const SkippedSegment& s : selection->skipped) {
    out.skipped.push_back(absl::StrCat("segment ", s.segment, ": ", s.reason));
    out.mismatch = out.mismatch || HasSignals(*record, s.segment, channels);
  }
  auto windows = std::make_shared<std::vector<Window>>();
  const auto all = CutWindows(*record, *selection, length, options.hop > 0 ? options.hop : length);
  const int64_t values = model.EventValues();
  std::vector<float> buffer(static_cast<size_t>(values));
  for (size_t i = 0; i < all.size(); ++i) {
    const Window& w = all[i];
    if (!InTimeRange(options, w.start_frame, length, out.frames_per_second)) continue;
    CopyWindow(*record, *selection, w.segment, w.begin, length, buffer.data());
    const std::vector<bool> constant =
        ConstantChannels(buffer.data(), length, model.info.event_shape(1));
    const bool any = std::find(constant.begin(), constant.end(), true) != constant.end();
    out.places.push_back(
        {record->segments[w.segment].name, static_cast<int64_t>(i), w.start_frame, any});
    windows->push_back(w);
  }
  out.rows.fill = [record, selection, windows, length, values](int64_t first, int64_t count,
                                                               float* to) {
    for (int64_t i = 0; i < count; ++i) {
      const Window& w = (*windows)[static_cast<size_t>(first + i)];
      CopyWindow(*record, *selection, w.segment, w.begin, length, to + i * values);
    }
  };
  // A continuous model takes no codes: its rows are real values as they are.
  out.rows.real_valued = !model.info.quantised();
  return out;
}

absl::StatusOr<InputWindows> LoadImages(const std::string& path, const PinnedModel& model) {
  BFLOW_ASSIGN_OR_RETURN(ImageSet read, ReadImages({path}));
  const auto images = std::make_shared<const ImageSet>(std::move(read));
  const ImageShape expected{model.info.event_shape(0), model.info.event_shape(1),
                            model.info.event_shape(2)};
  if (images->shape != expected) {
    return absl::InvalidArgumentError(
        absl::StrCat("images of ", images->shape.Text(), ", the model takes ", expected.Text()));
  }
  InputWindows out;
  for (int64_t i = 0; i < images->count; ++i) out.places.push_back({"", i, i, false});
  out.rows.fill = [images](int64_t first, int64_t count, float* to) {
    for (int64_t i = first; i < first + count; ++i) {
      const std::span<const uint8_t> pixels = images->Image(i);
      to = std::copy(pixels.begin(), pixels.end(), to);
    }
  };
  return out;
}

}  // namespace

absl::StatusOr<InputWindows> LoadInput(const std::string& path, const PinnedModel& model,
                                       const InputOptions& options) {
  const bool is_image = model.is_image();
  // A folder of images may end with a slash.
  std::string name(BaseName(is_image ? path.substr(0, path.find_last_not_of('/') + 1) : path));
  if (!is_image && EndsWith(name, ".hea")) name.resize(name.size() - 4);
  if (model.info.event_shape_size() != (is_image ? 3 : 2)) {
    return absl::InvalidArgumentError("MODEL: its event_shape is not of a kind known here");
  }
  absl::StatusOr<InputWindows> out = is_image                 ? LoadImages(path, model)
                                     : EndsWith(name, ".npy") ? LoadNpy(path, model, options)
                                                              : LoadRecord(path, model, options);
  if (!out.ok()) return Named(name, out.status());
  out->record = name;
  out->rows.rows = static_cast<int64_t>(out->places.size());
  if (out->places.empty()) {
    std::string text = absl::StrCat(name, ": no window of ", out->window_frames,
                                    " samples is valid in all channels");
    if (options.from_s.has_value() || options.to_s.has_value()) text += " between --from and --to";
    for (size_t i = 0; i < std::min<size_t>(out->skipped.size(), 8); ++i) {
      absl::StrAppend(&text, "; ", out->skipped[i]);
    }
    return absl::InvalidArgumentError(text);
  }
  return out;
}

}  // namespace bflow::client
