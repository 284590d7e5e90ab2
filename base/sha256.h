// SHA-256 (FIPS 180-4) of a byte string, by OpenSSL.
#ifndef BFLOW_BASE_SHA256_H_
#define BFLOW_BASE_SHA256_H_

#include <string>
#include <string_view>

namespace bflow {

// 64 lower-case hexadecimal digits.
std::string Sha256Hex(std::string_view bytes);

}  // namespace bflow

#endif  // BFLOW_BASE_SHA256_H_
