// Flows of bflow-train's presets for the benchmarks, without data.
#ifndef BFLOW_BENCH_MICRO_PRESET_FLOW_H_
#define BFLOW_BENCH_MICRO_PRESET_FLOW_H_

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <utility>
#include <vector>

#include "ATen/ops/rand.h"
#include "absl/strings/str_cat.h"
#include "base/exit_code.h"
#include "model/flow/flow.h"
#include "model/training/image_presets.h"
#include "model/training/presets.h"

namespace bflow::bench {

// The preset's flow for events of this shape, [time, channels] or [channels, height, width], and a
// batch of noise that it was initialised from.
struct PresetFlow {
  PresetFlow(const Preset& preset, const std::vector<int64_t>& event_shape, int64_t rows,
             const at::Device& device) {
    FlowSpec spec;
    if (preset.image) spec = ImageFlowSpec(*preset.image, event_shape);
    spec.event_shape = event_shape;
    spec.dequantization = SpecDequantization::kNone;
    if (!preset.image) {
      spec.sampling_rate_hz = 125;
      WriteArchitecture(preset, event_shape[0], event_shape[1], &spec);
    }
    for (int64_t i = 0; i < (preset.image ? event_shape[0] : event_shape[1]); ++i) {
      ChannelSpec& channel = spec.channels.emplace_back();
      channel.name = absl::StrCat("c", i);
      channel.input_min = -1;
      channel.input_max = 1;
    }
    auto made = Flow::Create(spec, 1, at::kFloat);
    if (!made.ok()) {
      std::fprintf(stderr, "%s\n", made.status().ToString().c_str());
      std::exit(kExitInternal);
    }
    flow = *std::move(made);
    flow->MoveTo(device);
    x = (at::rand(Batched(rows, event_shape)) * 2 - 1).to(device, flow->input_dtype());
    flow->InitialiseFrom(x);
  }

  std::shared_ptr<Flow> flow;
  at::Tensor x;
};

}  // namespace bflow::bench

#endif  // BFLOW_BENCH_MICRO_PRESET_FLOW_H_
