// What a box layer knows of each code when it comes to it: one definition for whole rows and for
// the way back, which has the codes so far alone.
#ifndef BFLOW_MODEL_OPS_CPU_BOX_CONTEXT_H_
#define BFLOW_MODEL_OPS_CPU_BOX_CONTEXT_H_

#include <cmath>
#include <cstdint>
#include <vector>

#include "ATen/core/Tensor.h"
#include "model/ops/cpu/simd_dispatch.h"
#include "model/ops/cpu/whitening_map.h"

namespace bflow::cpu {

// `values` below: codes + .5 of a row, [T][C] flat, of which those before the one asked for are
// read.
class BoxContextMap {
 public:
  BoxContextMap(at::TensorList map, const at::Tensor& mean, const at::Tensor& log_deviation)
      : held_(map),
        predict_(CurrentKernels<double>().whiten_predict),
        mean_(FlatValues<double>(mean)),
        deviation_(Exponentials(FlatValues<double>(log_deviation))) {}

  int64_t channels() const { return held_.map.channels; }
  int64_t features() const { return 3 * channels() + 1; }

  // Of value i = t C + c: frame[1..3] and the two inputs of its head that do not need the code.
  void Before(const double* values, int64_t i, double* frame, double* head) const {
    const WhiteningMap<double>& map = held_.map;
    const int64_t c = i % channels();
    const double predicted = predict_(map, values, i);
    const double last = i < channels() ? mean_[c] : values[i - channels()];
    frame[1] = predicted;
    frame[2] = last;
    frame[3] = i < map.order * channels() ? map.head_scale[i] : map.scale[c];
    head[0] = std::asinh(2 * (predicted - last));
    head[1] = predicted - std::floor(predicted) - 0.5;
  }
  // Once values[i] is known: frame[0], and the two inputs of the heads of the channels after it.
  void After(const double* values, int64_t i, double* frame, double* head) const {
    frame[0] = values[i] - 0.5;
    head[2] = std::asinh(2 * (values[i] - frame[2]));
    head[3] = std::asinh((values[i] - frame[1]) / frame[3]);
  }
  // Of step t, for the net at the next one; heads: of step t, [C][4].
  void Features(const double* values, const double* heads, int64_t t, double* features) const {
    for (int64_t c = 0; c < channels(); ++c) {
      *features++ = t > 0 ? heads[4 * c + 2] : 0;
      *features++ = (values[t * channels() + c] - mean_[c]) / deviation_[c];
      *features++ = heads[4 * c + 3];
    }
    *features = 1;
  }

 private:
  HeldWhiteningMap<double> held_;
  double (*predict_)(const WhiteningMap<double>&, const double*, int64_t);
  std::vector<double> mean_, deviation_;
};

}  // namespace bflow::cpu

#endif  // BFLOW_MODEL_OPS_CPU_BOX_CONTEXT_H_
