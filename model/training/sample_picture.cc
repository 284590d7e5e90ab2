#include "model/training/sample_picture.h"

#include <vector>

#include "base/status.h"
#include "model/data/picture.h"
#include "model/scoring/draw_samples.h"

namespace bflow {

absl::Status WriteSamplePicture(Flow& flow, uint64_t seed, const std::string& path) {
  constexpr int64_t kColumns = 8;
  std::vector<uint8_t> pixels;
  for (const double temperature : {0.7, 0.8, 0.9, 1.0}) {
    SampleOptions options;
    options.rows = kColumns;
    options.seed = seed;
    options.temperature = temperature;
    BFLOW_ASSIGN_OR_RETURN(const SampleResult result, DrawSamples(flow, options, kColumns));
    for (const float code : result.samples) pixels.push_back(static_cast<uint8_t>(code));
  }
  const std::vector<int64_t>& shape = flow.spec().event_shape;
  BFLOW_ASSIGN_OR_RETURN(const Picture picture,
                         ImageGrid({shape[0], shape[1], shape[2]}, pixels, kColumns));
  return WritePng(path, picture);
}

}  // namespace bflow
