// Small flows and whole checkpoints in memory, freshly initialised, for tests that need a model
// that computes but not one that was trained.
#ifndef BFLOW_TESTS_SUPPORT_TINY_CHECKPOINT_H_
#define BFLOW_TESTS_SUPPORT_TINY_CHECKPOINT_H_

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "model/checkpoint/flow_spec.h"
#include "model/checkpoint/repository.h"
#include "model/flow/flow.h"
#include "model/scoring/scorer.h"

namespace bflow {

// Windows [16, 2], two levels of two blocks of all four layers. Quantised: channels II (codes
// -100..100 of which -60..80 were seen) and V (step 2); else both in the scaled unit.
FlowSpec TinySpec(bool quantised = true);

// Images [channels, 8, 8] of `bits` bits (as pixels 0..255): a permutation and a butterfly on the
// whole image, then two levels of all image layers, the first with a prior step.
FlowSpec TinyImageSpec(int64_t channels = 3, int bits = 8);

// TinySpec with whitening of order 3, convolutional couplings and a Student-t base.
FlowSpec TinyHeavySpec(bool quantised = true);

// Channels and windows of TinySpec behind a lattice that saw every second code of II and every code
// of V, with a small box layer and a logistic base.
FlowSpec TinyExactSpec();

// `spec` with variational dequantisation in front.
FlowSpec Dequantised(FlowSpec spec);

// A float32 flow of `spec` with freshly drawn parameters; a whitening that takes differences, and a
// dequantisation that is not the identity it starts as.
std::shared_ptr<Flow> TinyFlow(const FlowSpec& spec, uint64_t seed = 1);

// Rows that fit the spec: a random walk in codes within the training range, or in the scaled unit;
// of an image along its pixels.
HostBatch TinyRows(const FlowSpec& spec, int64_t rows, uint64_t seed = 1);

// A checkpoint of a flow; `calibration_rows` rows of TinyRows calibrate it (0: no calibration).
absl::StatusOr<Checkpoint> CheckpointOf(Flow& flow, int64_t calibration_rows);
// The same of TinyFlow(spec, seed).
absl::StatusOr<Checkpoint> TinyCheckpoint(const FlowSpec& spec, int64_t calibration_rows,
                                          uint64_t seed = 1);

}  // namespace bflow

#endif  // BFLOW_TESTS_SUPPORT_TINY_CHECKPOINT_H_
