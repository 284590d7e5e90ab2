#include "base/philox.h"

#include <cmath>
#include <numbers>

namespace bflow {
namespace {

constexpr uint32_t kMultiplier0 = 0xD2511F53u, kMultiplier1 = 0xCD9E8D57u;
constexpr uint32_t kWeyl0 = 0x9E3779B9u, kWeyl1 = 0xBB67AE85u;

}  // namespace

std::array<uint32_t, 4> Philox4x32(std::array<uint32_t, 4> c, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    uint64_t p0 = static_cast<uint64_t>(kMultiplier0) * c[0];
    uint64_t p1 = static_cast<uint64_t>(kMultiplier1) * c[2];
    c = {static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ key[0], static_cast<uint32_t>(p1),
         static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ key[1], static_cast<uint32_t>(p0)};
    key[0] += kWeyl0;
    key[1] += kWeyl1;
  }
  return c;
}

std::array<uint32_t, 4> PhiloxBlock(uint64_t seed, uint64_t row, uint32_t block,
                                    RandomPurpose purpose, uint32_t draw) {
  return Philox4x32({static_cast<uint32_t>(row), static_cast<uint32_t>(row >> 32), block,
                     (static_cast<uint32_t>(purpose) << 24) + draw},
                    {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
}

void FillUniform(uint64_t seed, uint64_t row, uint32_t draw, int64_t n, float* out) {
  for (int64_t d = 0; d < n; d += 4) {
    std::array<uint32_t, 4> words =
        PhiloxBlock(seed, row, static_cast<uint32_t>(d / 4), RandomPurpose::kDequantization, draw);
    for (int64_t j = 0; j < 4 && d + j < n; ++j) out[d + j] = PhiloxUniform(words[j]);
  }
}

void FillNormal(uint64_t seed, uint64_t row, int64_t n, double* out) {
  for (int64_t d = 0; d < n; d += 4) {
    std::array<uint32_t, 4> words =
        PhiloxBlock(seed, row, static_cast<uint32_t>(d / 4), RandomPurpose::kLatent, 0);
    for (int64_t j = 0; j < 4 && d + j < n; ++j) {
      double a = words[j & ~1], b = words[j | 1];
      double radius = std::sqrt(-2.0 * std::log((a + 0.5) * 0x1p-32));
      double angle = 2.0 * std::numbers::pi * b * 0x1p-32;
      out[d + j] = radius * (j % 2 == 0 ? std::cos(angle) : std::sin(angle));
    }
  }
}

void FillStudentT(uint64_t seed, uint64_t row, int64_t n, const double* degrees, double* out) {
  for (int64_t d = 0; d < n; d += 2) {
    const std::array<uint32_t, 4> words =
        PhiloxBlock(seed, row, static_cast<uint32_t>(d / 2), RandomPurpose::kLatent, /*draw=*/1);
    for (int64_t j = 0; j < 2 && d + j < n; ++j) {
      const double a = words[2 * j], b = words[2 * j + 1];
      const double log_u = std::log((a + 0.5) * 0x1p-32);
      const double nu = degrees[d + j];
      // expm1 keeps the difference of a power close to 1, of large nu.
      const double square = std::isinf(nu) ? -2 * log_u : nu * std::expm1(-2 / nu * log_u);
      out[d + j] = std::sqrt(square) * std::cos(2.0 * std::numbers::pi * b * 0x1p-32);
    }
  }
}

void FillLogistic(uint64_t seed, uint64_t row, int64_t n, double* out) {
  for (int64_t d = 0; d < n; d += 4) {
    const std::array<uint32_t, 4> words =
        PhiloxBlock(seed, row, static_cast<uint32_t>(d / 4), RandomPurpose::kLatent, /*draw=*/2);
    for (int64_t j = 0; j < 4 && d + j < n; ++j) {
      const double u = (words[j] + 0.5) * 0x1p-32;
      out[d + j] = std::log(u) - std::log1p(-u);
    }
  }
}

}  // namespace bflow
