// One pass of rows through a flow, sliced so that memory stays bounded: log p, latents and the
// features of the anomaly score. The one code path behind the scorer of the server, the calibration
// of bflow-train and the self-test rows. Torch-free header: a Flow is only named.
#ifndef BFLOW_MODEL_SCORING_WINDOW_FEATURES_H_
#define BFLOW_MODEL_SCORING_WINDOW_FEATURES_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "model/scoring/anomaly.h"
#include "model/scoring/scorer.h"

namespace bflow {

class Flow;

// Rows that go through a flow together where up to `slice_rows` could. On the CPU an image goes
// alone: the library convolves a batch by another algorithm than one image, and 16 images by
// another than 8, which changes the last bits of a row; one at a time costs nothing where the nets
// are wide (hidden 512), up to 1.8 times where they are narrow (128).
int64_t RowsPerPass(const Flow& flow, int64_t slice_rows);

// What a pass produces besides log p.
struct PassOptions {
  bool want_latent = false;
  bool want_features = false;
  bool want_causes = false;  // of the attribution; costs a backward pass
  int64_t slice_rows = 128;
};

struct PassResult {
  std::vector<double> log_prob;   // rows; -infinity where the row is not kOk
  std::vector<float> latent;      // rows x D, only when wanted; 0 where the row is not kOk
  std::vector<double> features;   // rows x F, only when wanted; 0 where the row is not kOk
  std::vector<double> causes;     // rows x 3 x S x C, only when wanted; 0 where the row is not kOk
  std::vector<RowStatus> status;  // rows
};

// Rows of `x` (codes or scaled values, as the flow's spec says) under draw `draw` of `noise`. A
// row's result does not depend on the other rows, to the bit (images: on the CPU; elsewhere up to
// the rounding of the convolutions). Runs in inference mode unless a gradient is
// needed; the flow may be shared by threads if nobody changes its parameters. Errors:
// InvalidArgument (size of x, noise on a continuous model), ResourceExhausted, Internal.
absl::StatusOr<PassResult> RunPass(Flow& flow, const HostBatch& x, const Noise& noise,
                                   uint32_t draw, const PassOptions& options);

// Features, names and log p of rows under draw 0 of `noise`, for FitCalibration. Errors: as
// RunPass.
absl::StatusOr<WindowFeatures> ComputeFeatures(Flow& flow, const HostBatch& x, const Noise& noise,
                                               int64_t slice_rows = 128);

}  // namespace bflow

#endif  // BFLOW_MODEL_SCORING_WINDOW_FEATURES_H_
