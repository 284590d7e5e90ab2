// Integer arithmetic on sizes that come from outside: overflow is a value, never wrap-around.
#ifndef BFLOW_BASE_CHECKED_MATH_H_
#define BFLOW_BASE_CHECKED_MATH_H_

#include <cstdint>
#include <optional>
#include <span>

namespace bflow {

inline std::optional<int64_t> CheckedMultiply(int64_t a, int64_t b) {
  int64_t product;
  if (__builtin_mul_overflow(a, b, &product)) return std::nullopt;
  return product;
}

inline std::optional<int64_t> CheckedAdd(int64_t a, int64_t b) {
  int64_t sum;
  if (__builtin_add_overflow(a, b, &sum)) return std::nullopt;
  return sum;
}

// Product of all dimensions (1 for none); nullopt on overflow or a negative dimension.
inline std::optional<int64_t> CheckedProduct(std::span<const int64_t> dims) {
  int64_t product = 1;
  for (int64_t d : dims) {
    if (d < 0 || __builtin_mul_overflow(product, d, &product)) return std::nullopt;
  }
  return product;
}

}  // namespace bflow

#endif  // BFLOW_BASE_CHECKED_MATH_H_
