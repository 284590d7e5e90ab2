// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): a
// counter-based generator, so that the number of row r, dimension d and draw k is the same for any
// batching, chunking or device. The key is the seed; the counter words are
//   (row low, row high, floor(d / 4), purpose * 2^24 + draw),
// and one block of four words serves the dimensions 4b .. 4b + 3.
#ifndef BFLOW_BASE_PHILOX_H_
#define BFLOW_BASE_PHILOX_H_

#include <array>
#include <cstdint>

namespace bflow {

enum class RandomPurpose : uint32_t { kLatent = 0, kDequantization = 1 };

// One block of the generator: 10 rounds of counter under key.
std::array<uint32_t, 4> Philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

// The words for dimensions 4 * block .. 4 * block + 3 of a row. draw < 2^24.
std::array<uint32_t, 4> PhiloxBlock(uint64_t seed, uint64_t row, uint32_t block,
                                    RandomPurpose purpose, uint32_t draw);

// Uniform in [0, 1): (word >> 8) * 2^-24.
inline float PhiloxUniform(uint32_t word) { return static_cast<float>(word >> 8) * 0x1p-24f; }

// out[d] for d < n: uniforms in [0, 1) of row `row` and draw `draw`, purpose kDequantization.
void FillUniform(uint64_t seed, uint64_t row, uint32_t draw, int64_t n, float* out);

// out[d] for d < n: standard normals of row `row`, purpose kLatent, draw 0. Pairs (a, b) of words
// give r = sqrt(-2 ln((a + 0.5) 2^-32)), t = 2 pi b 2^-32; even dimension r cos t, odd r sin t
// (Box-Muller), computed in float64.
void FillNormal(uint64_t seed, uint64_t row, int64_t n, double* out);

// out[d] for d < n: Student's t with degrees[d] > 0 degrees of freedom of row `row`, purpose
// kLatent, draw 1; the words of dimensions 2b and 2b + 1 are those of block b. A pair (a, b) of
// words gives u = (a + 0.5) 2^-32 and t = sqrt(nu (u^(-2/nu) - 1)) cos(2 pi b 2^-32) (Bailey,
// "Polar generation of random variates with the t-distribution", 1994), computed in float64; for
// infinite nu that is the first normal of Box-Muller.
void FillStudentT(uint64_t seed, uint64_t row, int64_t n, const double* degrees, double* out);

// out[d] for d < n: standard logistic values of row `row`, purpose kLatent, draw 2: log u - log(1 -
// u) with u = (a + 0.5) 2^-32 of the dimension's word a, computed in float64.
void FillLogistic(uint64_t seed, uint64_t row, int64_t n, double* out);

}  // namespace bflow

#endif  // BFLOW_BASE_PHILOX_H_
