// Rows over the compute threads, and sums over rows whose order depends on the number of rows
// alone.
#ifndef BFLOW_MODEL_OPS_CPU_PARALLEL_H_
#define BFLOW_MODEL_OPS_CPU_PARALLEL_H_

#include <algorithm>
#include <cstdint>
#include <vector>

#include "ATen/Parallel.h"
#include "ATen/core/Tensor.h"
#include "ATen/ops/empty.h"

namespace bflow::cpu {

// Calls body(begin, end) over parts of [0, rows), each worth about 20 us at the least.
// row_cost: about how many multiply-adds a row takes.
template <typename Body>
void ForRows(int64_t rows, int64_t row_cost, const Body& body) {
  at::parallel_for(0, rows, std::max<int64_t>(1, 200'000 / std::max<int64_t>(1, row_cost)), body);
}

// Rows are cut into chunks by their number alone, never by the number of threads; each chunk has
// its own partial sums, and the partial sums are added up in the order of the chunks.
class Chunks {
 public:
  explicit Chunks(int64_t rows)
      : rows_(rows),
        size_(std::max<int64_t>(8, (rows + 31) / 32)),
        count_((rows + size_ - 1) / size_) {}
  int64_t count() const { return count_; }
  // body(chunk, first row, number of rows)
  template <typename Body>
  void Run(const Body& body) const {
    at::parallel_for(0, count_, 1, [&](int64_t begin, int64_t end) {
      for (int64_t chunk = begin; chunk < end; ++chunk) {
        const int64_t first = chunk * size_;
        body(chunk, first, std::min(size_, rows_ - first));
      }
    });
  }

 private:
  int64_t rows_, size_, count_;
};

// sums[chunk][i] added up over the chunks.
template <typename T>
std::vector<double> SumChunks(const std::vector<T>& sums, int64_t chunks, int64_t size) {
  std::vector<double> total(size, 0.0);
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    for (int64_t i = 0; i < size; ++i) total[i] += sums[chunk * size + i];
  }
  return total;
}

// A tensor of `like`'s shape and type, rounded once from float64.
template <typename T>
at::Tensor Rounded(const double* values, const at::Tensor& like) {
  at::Tensor out = at::empty(like.sizes(), like.options());
  T* to = out.data_ptr<T>();
  for (int64_t i = 0; i < out.numel(); ++i) to[i] = static_cast<T>(values[i]);
  return out;
}

template <typename T>
at::Tensor Scalar(double value, const at::Tensor& like) {
  at::Tensor out = at::empty({}, like.options());
  *out.data_ptr<T>() = static_cast<T>(value);
  return out;
}

}  // namespace bflow::cpu

#endif  // BFLOW_MODEL_OPS_CPU_PARALLEL_H_
