// Replays corpus/*.safetensors (made by make_corpus.py): each is refused with the message that the
// index names, and the unbroken file the others derive from is accepted.
#include <set>

#include "base/file.h"
#include "base/json.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/checkpoint/checkpoint_files.h"
#include "tests/model/checkpoint/small_checkpoint.h"

namespace bflow {
namespace {

constexpr char kCorpus[] = "tests/model/checkpoint/corpus";

// What ReadCheckpoint does with the bytes of a model file.
absl::Status Check(std::string bytes) {
  auto file = SafetensorsFile::Parse(std::move(bytes));
  if (!file.ok()) return file.status();
  auto spec = ReadSpec(*file);
  if (!spec.ok()) return spec.status();
  return CheckTensors(*spec, *file);
}

TEST(CorpusTest, EveryBrokenFileIsRefusedForTheRightReason) {
  auto index_text = ReadFile(JoinPath(kCorpus, "index.json"), 1 << 20);
  ASSERT_TRUE(index_text.ok()) << index_text.status();
  auto index = ParseJson(*index_text);
  ASSERT_TRUE(index.ok()) << index.status();
  std::set<std::string> indexed = {"index.json"};
  for (const auto& item : index->items()) {
    indexed.insert(item.key());
    auto bytes = ReadFile(JoinPath(kCorpus, item.key()), 1 << 20);
    ASSERT_TRUE(bytes.ok()) << item.key() << bytes.status();
    const absl::Status status = Check(*bytes);
    const std::string expected = item.value().get<std::string>();
    if (expected.empty()) {
      EXPECT_TRUE(status.ok()) << item.key() << status;
    } else {
      EXPECT_FALSE(status.ok()) << item.key();
      EXPECT_THAT(std::string(status.message()), testing::HasSubstr(expected)) << item.key();
    }
  }
  EXPECT_GT(index->size(), 25u);
  const auto names = ListDirectory(kCorpus);
  for (const std::string& name : *names) EXPECT_TRUE(indexed.contains(name)) << name;
}

}  // namespace
}  // namespace bflow
