// What a box layer knows of each code when it comes to it: one definition for whole rows and for
// the way back, which has the codes so far alone.
#ifndef BFLOW_MODEL_OPS_CPU_BOX_CONTEXT_H_
#define BFLOW_MODEL_OPS_CPU_BOX_CONTEXT_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <vector>

#include "ATen/core/Tensor.h"
#include "model/ops/box.h"
#include "model/ops/cpu/box_expert.h"
#include "model/ops/cpu/simd_dispatch.h"
#include "model/ops/cpu/whitening_map.h"

namespace bflow::cpu {

// `values` below: codes + .5 of a row, [T][C] flat, of which those before the one asked for are
// read.
class BoxContextMap {
 public:
  explicit BoxContextMap(const BoxFit& fit)
      : held_(fit.map),
        predict_(CurrentKernels<double>().whiten_predict),
        mean_(FlatValues<double>(fit.mean)),
        deviation_(Exponentials(FlatValues<double>(fit.log_deviation))),
        adaptive_(fit.adaptive) {}

  int64_t channels() const { return held_.map.channels; }
  int64_t features() const { return 3 * channels() + 1; }
  bool adaptive() const { return adaptive_; }
  // Numbers of a value's frame.
  int64_t frame() const { return adaptive_ ? kAdaptiveBoxFrame : kBoxFrame; }

  // What has been learned of a row, in the order of its values. Of no use, and nothing, unless
  // adaptive().
  class Row {
   public:
    explicit Row(const BoxContextMap& context)
        : residuals_(static_cast<size_t>(context.channels())) {
      if (context.adaptive()) predictor_.emplace(context.channels());
    }
    void Clear() {
      if (predictor_) predictor_->Clear();
    }

   private:
    friend class BoxContextMap;
    std::optional<ResidualPredictor> predictor_;
    std::vector<double> residuals_;
  };

  // Of value i = t C + c: frame but for frame[0], and the two inputs of its head that do not need
  // the code.
  void Before(const double* values, int64_t i, double* frame, double* head, Row* row) const {
    const WhiteningMap<double>& map = held_.map;
    const int64_t c = i % channels();
    const double predicted = predict_(map, values, i);
    const double last = i < channels() ? mean_[c] : values[i - channels()];
    frame[1] = predicted;
    frame[2] = last;
    frame[3] = i < map.order * channels() ? map.head_scale[i] : map.scale[c];
    head[0] = std::asinh(2 * (predicted - last));
    head[1] = predicted - std::floor(predicted) - 0.5;
    if (!adaptive_) return;
    frame[4] = predicted + frame[3] * row->predictor_->Predict(c);
    frame[5] = std::max(frame[3] * row->predictor_->deviation(c) / kMeanOfScale, kLeastScale);
  }
  // Once values[i] is known: frame[0], and the two inputs of the heads of the channels after it.
  void After(const double* values, int64_t i, double* frame, double* head, Row* row) const {
    const int64_t c = i % channels();
    const double residual = (values[i] - frame[1]) / frame[3];
    frame[0] = values[i] - 0.5;
    head[2] = std::asinh(2 * (values[i] - frame[2]));
    head[3] = std::asinh(residual);
    if (!adaptive_) return;
    row->residuals_[static_cast<size_t>(c)] = residual;
    if (c + 1 == channels()) row->predictor_->Update(row->residuals_.data());
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
  bool adaptive_;
};

}  // namespace bflow::cpu

#endif  // BFLOW_MODEL_OPS_CPU_BOX_CONTEXT_H_
