// The syntax of names that people give to models and to versions.
#ifndef BFLOW_BASE_NAMES_H_
#define BFLOW_BASE_NAMES_H_

#include <string_view>

namespace bflow {

// What an error tells of the names that are taken, after the field and a colon.
inline constexpr char kModelNameSyntax[] =
    "takes [a-z0-9][a-z0-9_-]{0,63}, not \"other\", not ending in \"-sampler\"";
bool IsValidModelName(std::string_view name);

// [a-z][a-z0-9_-]{0,31}
bool IsValidLabel(std::string_view label);

}  // namespace bflow

#endif  // BFLOW_BASE_NAMES_H_
