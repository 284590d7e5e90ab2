// Inputs of the scoring commands: a WFDB record or a .npy file becomes a list of windows of the
// model's shape; for a model of images, whatever ReadImages takes becomes a list of images. The
// channels of a record are matched by name; what does not fit the model is left out with a reason
// and never rescaled.
#ifndef BFLOW_CLIENT_INPUT_H_
#define BFLOW_CLIENT_INPUT_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/flow_client.h"
#include "client/spans.h"

namespace bflow::client {

struct InputOptions {
  int64_t hop = 0;                   // frames; 0 = the window
  std::vector<std::string> signals;  // names in the record, in the order of the model's channels
  std::optional<double> from_s;      // only windows that lie wholly in [from, to) of the record
  std::optional<double> to_s;
};

struct InputWindows {
  std::string record;
  std::optional<std::string> start_time;
  double frames_per_second = 0;  // 0 if unknown
  int64_t window_frames = 0;     // 0 of images: each stands alone, its place is its number
  std::vector<WindowPlace> places;
  RowSource rows;                    // rows.rows == places.size(); shares the data with nobody else
  std::vector<std::string> skipped;  // "segment 3234460_0002: no signal ABP"
  bool mismatch = false;             // a segment has the signals, but at another gain or baseline
};

// Errors name the record; those of a reader also its file's line. InvalidArgument if nothing fits.
absl::StatusOr<InputWindows> LoadInput(const std::string& path, const PinnedModel& model,
                                       const InputOptions& options);

}  // namespace bflow::client

#endif  // BFLOW_CLIENT_INPUT_H_
