// The paper's image flows as presets: Glow with butterfly layers (Meng et al. 2022; the authors'
// program). Torch-free.
#ifndef BFLOW_MODEL_TRAINING_IMAGE_PRESETS_H_
#define BFLOW_MODEL_TRAINING_IMAGE_PRESETS_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "model/checkpoint/flow_spec.h"
#include "model/training/image_data.h"
#include "model/training/presets.h"

namespace bflow {

// mnist, cifar10, cifar10-permuted, imagenet32, galaxy.
std::vector<Preset> ImagePresets();

// pre and levels of `architecture` for events of `event_shape` [C, H, W]; the rest of the spec is
// as FlowSpec has it. Each level: squeeze, blocks of [act_norm, conv1x1, butterfly,
// conv2d_coupling], and on all levels but the last a prior step of the same four and a split. A
// level's butterfly has one factor fewer than the level's before, at most as many as the level's
// size allows, and is left out at 0.
FlowSpec ImageFlowSpec(const ImageArchitecture& architecture,
                       const std::vector<int64_t>& event_shape);

}  // namespace bflow

#endif  // BFLOW_MODEL_TRAINING_IMAGE_PRESETS_H_
