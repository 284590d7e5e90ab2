#include "base/names.h"

#include <algorithm>

namespace bflow {

bool IsValidModelName(std::string_view name) {
  auto lower_or_digit = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); };
  if (name.empty() || name.size() > 64 || !lower_or_digit(name.front())) return false;
  const bool plain = std::all_of(name.begin(), name.end(),
                                 [&](char c) { return lower_or_digit(c) || c == '_' || c == '-'; });
  return plain && name != "other" && !name.ends_with("-sampler");
}

bool IsValidLabel(std::string_view label) {
  if (label.empty() || label.size() > 32 || label[0] < 'a' || label[0] > 'z') return false;
  return std::all_of(label.begin(), label.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
  });
}

}  // namespace bflow
