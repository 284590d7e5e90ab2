// BoxInverse: a row in the order of time, every activation that a later step needs kept in a ring.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "ATen/core/Tensor.h"
#include "ATen/ops/empty.h"
#include "ATen/ops/empty_like.h"
#include "model/ops/box.h"
#include "model/ops/checks.h"
#include "model/ops/cpu/box_cell.h"
#include "model/ops/cpu/box_context.h"
#include "model/ops/cpu/box_expert.h"
#include "model/ops/cpu/parallel.h"

namespace bflow::cpu {
namespace {

// u stays this far inside its cell: what rounding leaves beyond an edge belongs to the code, and on
// the edge itself v + u would round to the code before.
constexpr double kInset = 0x1p-28;

double Elu(double x) { return x > 0 ? x : std::expm1(x); }

// A convolution's weights as [tap][in][out], and its bias.
struct Convolution {
  Convolution(const at::Tensor& w, const at::Tensor& b)
      : inputs(w.size(1)),
        outputs(w.size(0)),
        taps(w.size(2)),
        weight(FlatValues<double>(w.permute({2, 1, 0}))),
        bias(FlatValues<double>(b)) {}
  // Adds what `x` gives at tap k.
  void Add(int64_t k, const double* x, double* y) const {
    const double* row = weight.data() + k * inputs * outputs;
    for (int64_t i = 0; i < inputs; ++i, row += outputs) {
      const double value = x[i];
      for (int64_t o = 0; o < outputs; ++o) y[o] += row[o] * value;
    }
  }
  void Start(double* y) const { std::copy(bias.begin(), bias.end(), y); }
  int64_t inputs, outputs, taps;
  std::vector<double> weight, bias;
};

// The last values of a stream of vectors; zeros before the first.
class Ring {
 public:
  Ring(int64_t length, int64_t width)
      : length_(length), width_(width), values_(static_cast<size_t>(length * width), 0.0) {}
  double* At(int64_t t) { return values_.data() + (t + length_) % length_ * width_; }
  void Clear() { std::fill(values_.begin(), values_.end(), 0.0); }

 private:
  int64_t length_, width_;
  std::vector<double> values_;
};

struct Net {
  Net(at::TensorList tensors, at::IntArrayRef steps) : dilations(steps.begin(), steps.end()) {
    for (size_t i = 0; 2 * i < tensors.size(); ++i) {
      layers.emplace_back(tensors[2 * i], tensors[2 * i + 1]);
    }
  }
  const Convolution& Head(int64_t c, int64_t layer) const {
    return layers[1 + 2 * dilations.size() + static_cast<size_t>(2 * c + layer)];
  }
  std::vector<int64_t> dilations;
  std::vector<Convolution> layers;
};

// One row's way back.
class RowDecoder {
 public:
  RowDecoder(const BoxContextMap& context, const Net& net)
      : context_(context),
        net_(net),
        width_(net.layers[0].outputs),
        features_(net.layers[0].taps, net.layers[0].inputs),
        learned_(context),
        experts_(static_cast<size_t>(context.adaptive() ? context.channels() : 0)),
        frame_(static_cast<size_t>(context.frame())),
        heads_(static_cast<size_t>(4 * context.channels())),
        input_(static_cast<size_t>(width_ + 2 * context.channels())),
        hidden_(static_cast<size_t>(width_)),
        stream_(static_cast<size_t>(width_)) {
    for (const int64_t dilation : net.dilations) rings_.emplace_back(2 * dilation + 1, width_);
  }

  double Decode(const double* z, int64_t steps, double* codes, double* u) {
    const int64_t channels = context_.channels();
    std::vector<double> values(static_cast<size_t>(steps * channels));
    features_.Clear();
    for (Ring& ring : rings_) ring.Clear();
    learned_.Clear();
    std::fill(experts_.begin(), experts_.end(), ExpertShare());
    double log_det = 0;
    for (int64_t t = 0; t < steps; ++t) {
      Trunk(t);
      for (int64_t c = 0; c < channels; ++c) {
        const int64_t i = t * channels + c;
        log_det += DecodeValue(z[i], values.data(), i, codes + i, u + i);
      }
      if (t + 1 < steps) context_.Features(values.data(), heads_.data(), t, features_.At(t + 1));
    }
    return log_det;
  }

 private:
  // The first `width` inputs of the heads of step t.
  void Trunk(int64_t t) {
    const Convolution& first = net_.layers[0];
    first.Start(stream_.data());
    for (int64_t k = 0; k < first.taps; ++k) {
      first.Add(k, features_.At(t - (first.taps - 1 - k)), stream_.data());
    }
    for (double& value : stream_) value = Elu(value);
    for (size_t n = 0; n < rings_.size(); ++n) {
      const Convolution &dilated = net_.layers[1 + 2 * n], &one = net_.layers[2 + 2 * n];
      std::copy(stream_.begin(), stream_.end(), rings_[n].At(t));
      dilated.Start(hidden_.data());
      for (int64_t k = 0; k < dilated.taps; ++k) {
        const int64_t back = (dilated.taps - 1 - k) * net_.dilations[n];
        if (back <= t) dilated.Add(k, rings_[n].At(t - back), hidden_.data());
      }
      for (double& value : hidden_) value = Elu(value);
      for (size_t o = 0; o < stream_.size(); ++o) stream_[o] += one.bias[o];
      one.Add(0, hidden_.data(), stream_.data());
    }
    for (size_t o = 0; o < stream_.size(); ++o) input_[o] = Elu(stream_[o]);
  }

  double DecodeValue(double z, double* values, int64_t i, double* code, double* u) {
    const int64_t c = i % context_.channels();
    double *frame = frame_.data(), *head = heads_.data() + 4 * c;
    context_.Before(values, i, frame, head, &learned_);
    double* own = input_.data() + width_;
    own[0] = head[0];
    own[1] = head[1];
    if (c > 0) std::copy(head - 2, head, own + 2 * c);  // of the channel before
    const Convolution &first = net_.Head(c, 0), &second = net_.Head(c, 1);
    first.Start(hidden_.data());
    first.Add(0, input_.data(), hidden_.data());
    for (double& value : hidden_) value = Elu(value);
    double raw[kBoxOutputs];
    second.Start(raw);
    second.Add(0, hidden_.data(), raw);

    ExpertShare* const expert = experts_.empty() ? nullptr : &experts_[static_cast<size_t>(c)];
    const BoxMixture mixture(raw, frame, expert ? expert->value() : 0);
    *code = FindBoxCode(mixture, z, frame[1]);
    const BoxCell cell(mixture, *code);
    const double offset = BoxOffset(cell, z);
    *u = offset == offset ? std::clamp(offset, kInset, 1 - kInset) : offset;
    values[i] = *code + 0.5;
    context_.After(values, i, frame, head, &learned_);
    if (expert) expert->Update(cell.expert_posterior);
    return LogSigmoid(z) + LogSigmoid(-z) - cell.inside;
  }

  const BoxContextMap& context_;
  const Net& net_;
  int64_t width_;
  Ring features_;
  std::vector<Ring> rings_;  // of what each dilated convolution sees
  BoxContextMap::Row learned_;
  std::vector<ExpertShare> experts_;
  std::vector<double> frame_;  // of the value at hand
  std::vector<double> heads_, input_, hidden_, stream_;
};

}  // namespace
}  // namespace bflow::cpu

namespace bflow {

BoxCodes BoxInverse(const at::Tensor& z, const BoxFit& fit, at::TensorList net,
                    at::IntArrayRef dilations) {
  CheckWhitening(z, fit.map);
  const at::Tensor from = z.detach().contiguous();
  const cpu::BoxContextMap context(fit);
  const cpu::Net layers(net, dilations);
  const int64_t rows = z.size(0), steps = z.size(1), size = steps * z.size(2);
  BoxCodes made = {at::empty_like(from), at::empty_like(from), at::empty({rows}, z.options())};
  const double* latents = from.const_data_ptr<double>();
  double *codes = made.codes.data_ptr<double>(), *u = made.u.data_ptr<double>();
  double* log_det = made.log_det.data_ptr<double>();
  cpu::ForRows(rows, size * 10000, [&](int64_t begin, int64_t end) {
    cpu::RowDecoder decoder(context, layers);
    for (int64_t r = begin; r < end; ++r) {
      log_det[r] = decoder.Decode(latents + r * size, steps, codes + r * size, u + r * size);
    }
  });
  return made;
}

}  // namespace bflow
