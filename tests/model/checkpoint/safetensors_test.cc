#include "model/checkpoint/safetensors.h"

#include <malloc.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <new>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/model/checkpoint/small_checkpoint.h"

// Bytes on the heap now and at most so far, of this whole program.
static std::atomic<size_t> live{0}, most{0};

// Of its own: inlined, GCC would see operator delete take what malloc gave.
[[gnu::noinline]] static void* Counted(size_t size) {
  void* const block = std::malloc(size);
  const size_t now = live += malloc_usable_size(block);
  if (now > most) most = now;
  return block;
}

void* operator new(size_t size, const std::nothrow_t&) noexcept { return Counted(size); }
void* operator new(size_t size) {
  void* const block = Counted(size);
  if (block == nullptr) throw std::bad_alloc();
  return block;
}
void operator delete(void* block) noexcept {
  live -= malloc_usable_size(block);
  std::free(block);
}
void operator delete(void* block, size_t) noexcept { operator delete(block); }

namespace bflow {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::string File(const std::string& header, size_t data_bytes) {
  const uint64_t size = header.size();
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &size, 8);
  return bytes + header + std::string(data_bytes, '\0');
}

std::string Message(std::string bytes) {
  // What a header may claim is bounded by its own length: so is what reading it may allocate.
  const size_t allowed = live + 6 * bytes.size() + (size_t{1} << 20);
  most = live.load();
  auto file = SafetensorsFile::Parse(std::move(bytes));
  EXPECT_LE(most, allowed);
  EXPECT_EQ(file.status().code(), absl::StatusCode::kDataLoss);
  return std::string(file.status().message());
}

TEST(SafetensorsTest, RoundTripSurvivesAMove) {
  const std::vector<float> f = {1.5f, -2};
  const std::vector<double> d = {0.1};
  const std::vector<int64_t> i = {3, -4};
  auto bytes = SerializeSafetensors({{"f", DType::kF32, {2}, std::as_bytes(std::span(f))},
                                     {"d", DType::kF64, {1, 1}, std::as_bytes(std::span(d))},
                                     {"i", DType::kI64, {2}, std::as_bytes(std::span(i))}},
                                    {{"key", "va\"l\nue"}});
  ASSERT_TRUE(bytes.ok()) << bytes.status();
  auto parsed = SafetensorsFile::Parse(*bytes);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  SafetensorsFile file = *std::move(parsed);
  EXPECT_EQ(file.metadata().at("key"), "va\"l\nue");
  EXPECT_THAT(*ToDoubles(*file.Find("f")), ElementsAre(1.5, -2));
  EXPECT_THAT(*ToDoubles(*file.Find("d")), ElementsAre(0.1));
  EXPECT_THAT(*ToIndices(*file.Find("i")), ElementsAre(3, -4));
  EXPECT_EQ(file.Find("none"), nullptr);
  EXPECT_FALSE(ToIndices(*file.Find("f")).ok());
  EXPECT_FALSE(ToDoubles(*file.Find("i")).ok());
}

TEST(SafetensorsTest, TheWriterRefusesWhatTheReaderWould) {
  const std::vector<float> f = {1, 2};
  const auto data = std::as_bytes(std::span(f));
  EXPECT_FALSE(SerializeSafetensors({{"a b", DType::kF32, {2}, data}}, {}).ok());
  EXPECT_FALSE(SerializeSafetensors({{"a", DType::kF32, {3}, data}}, {}).ok());
  EXPECT_FALSE(SerializeSafetensors({{"a", DType::kF32, {0}, {}}}, {}).ok());
  EXPECT_FALSE(
      SerializeSafetensors({{"a", DType::kF32, {2}, data}, {"a", DType::kF32, {2}, data}}, {})
          .ok());
  EXPECT_FALSE(SerializeSafetensors({}, {{"k", "\xff"}}).ok());
}

TEST(SafetensorsTest, RefusesHeadersNamingTheTensor) {
  const auto entry = [](const std::string& shape, const std::string& offsets) {
    return absl::StrCat("{\"w.a\":{\"dtype\":\"F32\",\"shape\":", shape,
                        ",\"data_offsets\":", offsets, "}}");
  };
  ASSERT_TRUE(SafetensorsFile::Parse(File(entry("[2]", "[0,8]"), 8)).ok());
  const std::pair<std::string, std::string> cases[] = {
      {File(entry("[2]", "[0,8]"), 9), "1 bytes behind"},
      {File(entry("[2]", "[0,8]"), 7), "tensor w.a: its data ends behind"},
      {File(entry("[2]", "[4,12]"), 12), "tensor w.a: a hole"},
      {File(entry("[2]", "[0,4]"), 8), "tensor w.a: data_offsets do not span"},
      {File(entry("[2]", "[8,0]"), 8), "tensor w.a"},
      {File(entry("[0]", "[0,0]"), 0), "tensor w.a: shape has a dimension of 0"},
      {File(entry("[-2]", "[0,8]"), 8), "tensor w.a: shape has a number with a sign"},
      {File(entry("[-0]", "[0,8]"), 8), "tensor w.a: shape has a number with a sign"},
      {File(entry("[2e0]", "[0,8]"), 8), "tensor w.a: shape has a number that is not"},
      {File(entry("[2.0]", "[0,8]"), 8), "tensor w.a: shape has a number that is not"},
      {File(entry("[2]", "[0,8e0]"), 8), "tensor w.a: data_offsets has a number"},
      {File(entry("[2]", "[0]"), 8), "tensor w.a: data_offsets has fewer"},
      {File(entry("[2]", "[0,8,8]"), 8), "tensor w.a: data_offsets has more"},
      {File(entry("[1,1,1,1,1,1,1,1,2]", "[0,8]"), 8), "tensor w.a: shape has more than 8"},
      {File(entry("[9223372036854775808]", "[0,8]"), 8), "tensor w.a: shape has a number of more"},
      {File(entry("[18446744073709551618]", "[0,8]"), 8), "tensor w.a: shape has a number"},
      {File(entry("[4294967296,4294967296]", "[0,8]"), 8), "tensor w.a: the size of its shape"},
      {File(entry("[4611686018427387904]", "[0,8]"), 8), "tensor w.a: the size of its shape"},
      {File(entry("[[2]]", "[0,8]"), 8), "tensor w.a: shape has an entry"},
      {File("{\"w.a\":{\"shape\":[2],\"data_offsets\":[0,8]}}", 8), "tensor w.a: dtype, shape"},
      {File("{\"w.a\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8),
       "tensor w.a: dtype is none"},
      {File("{\"w.a\":{\"dtype\":\"F32\",\"x\":1}}", 8), "tensor w.a: has a field besides"},
      {File("{\"w.a\":{\"dtype\":\"F32\",\"dtype\":\"F32\"}}", 8), "tensor w.a: duplicate key"},
      {File("{\"w a\":{}}", 0), "tensor number 0: its name"},
      {File("{\"" + std::string(129, 'a') + "\":{}}", 0), "tensor number 0: its name"},
      {File("{\"__metadata__\":{\"a\":1}}", 0), "__metadata__ has a value"},
      {File("{\"__metadata__\":{\"a\":\"\",\"a\":\"\"}}", 0), "__metadata__ has a duplicate"},
      {File("{\"__metadata__\":{\"a\":\"\xff\"}}", 0), "not valid JSON"},
      {File("[]", 0), "does not start"},
      {File(" {}", 0), "does not start"},
      {File("{}\n", 0), "other than spaces"},
      {File("{}x}", 0), "not valid JSON"},
      {File(std::string("{}\0}", 4), 0), "NUL"},
      {File("{", 1), "header length: is 1"},
      {std::string(5, 'x'), "no header fits"},
      {std::string(8, '\xff') + "{}", "header length"}};
  for (const auto& [bytes, message] : cases) {
    EXPECT_THAT(Message(bytes), HasSubstr(message));
  }
}

TEST(SafetensorsTest, HostileHeadersCostLittle) {
  std::string many = "{";
  for (int i = 0; i < 900000; ++i) absl::StrAppend(&many, "\"", i, "\":{},");
  many.back() = '}';
  EXPECT_THAT(Message(File(many, 0)), HasSubstr("tensor 0: dtype, shape"));

  std::string overlapping = "{";
  for (int i = 0; i < 100000; ++i) {
    absl::StrAppend(&overlapping, "\"t", i,
                    "\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},");
  }
  overlapping.back() = '}';
  EXPECT_THAT(Message(File(overlapping, 8)), HasSubstr("more than 65536 tensors"));

  std::string two = "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},";
  two += "\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]}}";
  EXPECT_THAT(Message(File(two, 12)), HasSubstr("tensor b: its data overlaps"));

  EXPECT_THAT(Message(File("{\"a\":" + std::string(1000000, '[') + "}", 0)),
              HasSubstr("a: expected an object"));
  EXPECT_THAT(Message(File("{\"a\":{\"shape\":" + std::string(1000000, '[') + "}}", 0)),
              HasSubstr("tensor a: shape"));
  // 16 MiB and a byte are refused by their length alone.
  std::string long_header = File("{}", 0);
  const uint64_t size = (16u << 20) + 1;
  std::memcpy(long_header.data(), &size, 8);
  EXPECT_THAT(Message(long_header), HasSubstr("header length"));
}

}  // namespace
}  // namespace bflow
