#include "model/data/npy.h"

#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace bflow {
namespace {

using ::testing::HasSubstr;

std::string Npy(const std::string& header, const std::string& data, int version = 1) {
  std::string bytes = "\x93NUMPY";
  bytes += static_cast<char>(version);
  bytes += '\0';
  bytes += static_cast<char>(header.size() & 0xFF);
  bytes += static_cast<char>(header.size() >> 8);
  if (version == 2) bytes.append(2, '\0');
  return bytes + header + data;
}

std::string Dict(const std::string& descr, const std::string& shape) {
  return absl::StrCat("{'descr': '", descr, "', 'fortran_order': False, 'shape': ", shape, ", }\n");
}

template <typename T>
std::string Bytes(const std::vector<T>& values) {
  std::string bytes(values.size() * sizeof(T), '\0');
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

template <typename T>
void ExpectType(const std::string& descr, bool is_integer) {
  const std::vector<T> values = {T(1), T(2), T(3), T(100)};
  for (int version : {1, 2}) {
    auto array = ParseNpy(Npy(Dict(descr, "(2, 2)"), Bytes(values), version));
    ASSERT_TRUE(array.ok()) << descr << array.status();
    EXPECT_EQ(array->is_integer, is_integer);
    EXPECT_EQ(array->shape, (std::vector<int64_t>{2, 2}));
    EXPECT_EQ(array->values, (std::vector<float>{1, 2, 3, 100}));
  }
}

TEST(NpyTest, Types) {
  ExpectType<uint8_t>("|u1", true);
  ExpectType<int8_t>("|i1", true);
  ExpectType<int16_t>("<i2", true);
  ExpectType<int32_t>("<i4", true);
  ExpectType<float>("<f4", false);
  ExpectType<double>("<f8", false);
}

TEST(NpyTest, BrokenFiles) {
  const std::string four(4, '\0');
  const struct {
    std::string bytes, message;
  } cases[] = {
      {"", "does not begin"},
      {"\x93NUMPX\x01\x01\x01\x01\x01\x01\x01", "does not begin"},
      {Npy(Dict("|u1", "(4,)"), four, 3), "versions 1.0 and 2.0"},
      {Npy(Dict("|u1", "(4,)"), four).substr(0, 30), "longer than the file"},
      {Npy(Dict(">i2", "(2,)"), four), "descr"},
      {Npy(Dict("|O", "(2,)"), four), "npy header, byte 10: descr"},
      {Npy(Dict("<u2", "(2,)"), four), "descr"},
      {Npy(Dict("", "(2,)"), four), "descr"},
      {Npy(Dict("|u1", "(5,)"), four), "4 bytes of data from byte 68, shape and dtype say 5"},
      {Npy(Dict("|u1", "(3,)"), four), "4 bytes of data"},
      {Npy(Dict("|u1", "(-4,)"), four), "shape"},
      {Npy(Dict("|u1", "(1, 1, 1, 2, 2)"), four), "shape"},
      {Npy(Dict("|u1", "(4"), four), "shape"},
      {Npy(Dict("<f8", "(9000000000, 9000000000, 4)"), four), "2147483648 bytes"},
      {Npy("{'descr': '|u1', 'fortran_order': True, 'shape': (4,), }", four), "fortran_order"},
      {Npy("{'descr': '|u1', 'shape': (4,), }", four), "must be there"},
      {Npy("{'descr': '|u1', 'descr': '|u1', }", four), "stands twice"},
      {Npy("{'descr': '|u1', 'colour': 1}", four), "npy header, byte 36: unknown key"},
      {Npy("{'descr': [('a', '|u1')], }", four), "structured"},
      {Npy(Dict("|u1", "(4,)") + "x", four), "text after"},
      {Npy("[]", four), "dictionary"},
      {Npy(Dict("<i4", "(1,)"), Bytes<int32_t>({20'000'000})), "2^24"},
  };
  for (const auto& c : cases) {
    auto array = ParseNpy(c.bytes);
    ASSERT_FALSE(array.ok()) << c.message;
    EXPECT_THAT(std::string(array.status().message()), HasSubstr(c.message));
  }
}

TEST(NpyTest, Windows) {
  NpyArray array{{7, 2}, true, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13}};
  auto cut = WindowsOfNpy(array, 3, 2, 3);
  ASSERT_TRUE(cut.ok()) << cut.status();
  EXPECT_EQ(cut->count, 2);
  EXPECT_TRUE(cut->is_integer);
  EXPECT_EQ(cut->start_frame, (std::vector<int64_t>{0, 3}));
  EXPECT_EQ(cut->values, (std::vector<float>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}));
  EXPECT_EQ(WindowsOfNpy(array, 3, 2, 2)->start_frame, (std::vector<int64_t>{0, 2, 4}));
  EXPECT_EQ(WindowsOfNpy(array, 3, 2, int64_t{1} << 62)->count, 1);
  array.values[7] = std::nanf("");
  EXPECT_EQ(WindowsOfNpy(array, 3, 2, 2)->start_frame, (std::vector<int64_t>{0, 4}));

  const NpyArray three{{2, 3, 1}, false, {1, 2, 3, 4, 5, 6}};
  auto kept = WindowsOfNpy(three, 3, 1, 1);
  ASSERT_TRUE(kept.ok()) << kept.status();
  EXPECT_EQ(kept->count, 2);
  EXPECT_EQ(kept->values, three.values);
  EXPECT_FALSE(WindowsOfNpy(three, 2, 1, 1).ok());
  EXPECT_FALSE(WindowsOfNpy(array, 8, 2, 8).ok());
  EXPECT_FALSE(WindowsOfNpy(array, 3, 1, 3).ok());
}

template <typename T>
std::string FileOf(NpyType type, const std::vector<int64_t>& shape, const std::vector<T>& values) {
  return NpyHeader(type, shape) +
         std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}

TEST(NpyTest, HeaderAndReaderAgree) {
  const auto floats = ParseNpy(FileOf<float>(NpyType::kFloat32, {1, 2, 2}, {1.5f, -2.25f, 3, 4}));
  ASSERT_TRUE(floats.ok()) << floats.status();
  EXPECT_FALSE(floats->is_integer);
  EXPECT_EQ(floats->shape, (std::vector<int64_t>{1, 2, 2}));
  EXPECT_EQ(floats->values, (std::vector<float>{1.5f, -2.25f, 3, 4}));
  EXPECT_EQ(NpyHeader(NpyType::kFloat32, {1, 2, 2}).size() % 64, 0u);

  const auto codes = ParseNpy(FileOf<int16_t>(NpyType::kInt16, {3}, {-128, 127, 32767}));
  ASSERT_TRUE(codes.ok()) << codes.status();
  EXPECT_TRUE(codes->is_integer);
  EXPECT_EQ(codes->values, (std::vector<float>{-128, 127, 32767}));

  const auto pixels = ParseNpy(FileOf<uint8_t>(NpyType::kUint8, {1, 1, 1, 2}, {0, 255}));
  ASSERT_TRUE(pixels.ok()) << pixels.status();
  EXPECT_EQ(pixels->shape, (std::vector<int64_t>{1, 1, 1, 2}));
  EXPECT_EQ(pixels->values, (std::vector<float>{0, 255}));
  EXPECT_FALSE(ReadNpy(::testing::TempDir() + "/none.npy").ok());
}

}  // namespace
}  // namespace bflow
