// Macros for absl::Status and absl::StatusOr, the error type of every boundary in this tree.
#ifndef BFLOW_BASE_STATUS_H_
#define BFLOW_BASE_STATUS_H_

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define BFLOW_STATUS_CONCAT_INNER_(a, b) a##b
#define BFLOW_STATUS_CONCAT_(a, b) BFLOW_STATUS_CONCAT_INNER_(a, b)

// Returns the status of `expr` from the enclosing function unless it is OK.
#define BFLOW_RETURN_IF_ERROR(expr)                \
  do {                                             \
    absl::Status bflow_status_ = (expr);           \
    if (!bflow_status_.ok()) return bflow_status_; \
  } while (false)

// BFLOW_ASSIGN_OR_RETURN(auto x, F()): assigns the value or returns the error.
#define BFLOW_ASSIGN_OR_RETURN(lhs, expr) \
  BFLOW_ASSIGN_OR_RETURN_IMPL_(BFLOW_STATUS_CONCAT_(bflow_or_, __LINE__), lhs, expr)
#define BFLOW_ASSIGN_OR_RETURN_IMPL_(var, lhs, expr) \
  auto var = (expr);                                 \
  if (!var.ok()) return std::move(var).status();     \
  lhs = *std::move(var)

#endif  // BFLOW_BASE_STATUS_H_
