// A model of images through the services: what it tells of itself, which tensors it takes and
// gives, and what it refuses.
#include <cmath>
#include <limits>

#include "server/rpc/tensor_codec.h"
#include "tests/server/server_fixture.h"

namespace bflow {
namespace {

using grpc::StatusCode;

// [N, 3, 2, 2] of a type.
template <typename T>
pb::Tensor Images(pb::DataType dtype, const std::vector<T>& values) {
  pb::Tensor tensor;
  tensor.set_dtype(dtype);
  for (int64_t d : {static_cast<int64_t>(values.size() / 12), int64_t{3}, int64_t{2}, int64_t{2}}) {
    tensor.add_shape(d);
  }
  tensor.set_data(
      std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)));
  return tensor;
}

pb::LogLikelihoodRequest RequestOf(const pb::Tensor& x) {
  pb::LogLikelihoodRequest request;
  request.mutable_model()->set_name("pixels");
  *request.mutable_x() = x;
  request.mutable_options()->set_score_dtype(pb::DATA_TYPE_FP64);
  request.mutable_dequantization()->set_kind(pb::Dequantization::KIND_CENTER);
  return request;
}

TEST_F(ServerTest, ImagesGoAsBytesOrFloats) {
  ASSERT_TRUE(StartWith("").ok());
  std::vector<uint8_t> pixels(24, 0);
  pixels[0] = 255;
  pixels[12] = 7;
  pixels[23] = 1;
  pb::LogLikelihoodRequest request = RequestOf(Images(pb::DATA_TYPE_UINT8, pixels));
  pb::LogLikelihoodResponse response, again;
  const Answer answer = LogLikelihood(request, &response);
  ASSERT_EQ(answer.code, StatusCode::OK) << answer.message;
  EXPECT_EQ(Values<double>(response.log_prob()), (std::vector<double>{-255, -8}));
  EXPECT_NEAR(Values<double>(response.bits_per_dim())[1], 8 / (12 * std::log(2)) + 7, 1e-12);
  *request.mutable_x() =
      Images(pb::DATA_TYPE_FP32, std::vector<float>(pixels.begin(), pixels.end()));
  ASSERT_EQ(LogLikelihood(request, &again).code, StatusCode::OK);
  EXPECT_EQ(again.log_prob().data(), response.log_prob().data());
  // Several draws of a seeded noise.
  request.mutable_dequantization()->set_kind(pb::Dequantization::KIND_UNIFORM);
  request.mutable_dequantization()->set_draws(3);
  request.mutable_dequantization()->set_seed(5);
  ASSERT_EQ(LogLikelihood(request, &again).code, StatusCode::OK);
  EXPECT_EQ(again.log_prob_mean().shape(0), 2);
  EXPECT_EQ(again.dequantization().seed(), 5u);
}

// Each channel has its range, and the values of a channel lie together.
TEST(ImageCodecTest, RangesFollowTheChannels) {
  ModelSignature signature = FakeScorer::Pixels();
  signature.channels[1].input_max = 100;
  std::vector<uint8_t> pixels(36, 90);
  for (size_t i : {0, 1, 2, 3, 8, 9, 10, 11}) pixels[i] = 200;
  pixels[12 + 4] = pixels[24 + 7] = 101;
  const pb::Tensor x = Images(pb::DATA_TYPE_UINT8, pixels);
  EXPECT_EQ(
      DecodeRows(x, 3, signature, NoiseKind::kCenter).status,
      (std::vector<RowStatus>{RowStatus::kOk, RowStatus::kOutOfRange, RowStatus::kOutOfRange}));
}

// Real values end where the last pixel's noise does, at 256, also where a pixel keeps 5 bits.
TEST(ImageCodecTest, RealValuesEndBelow256) {
  ModelSignature signature = FakeScorer::Pixels();
  for (double step : {1.0, 8.0}) {
    for (ChannelSignature& channel : signature.channels) channel.step = step;
    std::vector<float> values(24, 255.75f);
    values[12] = 256;
    const pb::Tensor x = Images(pb::DATA_TYPE_FP32, values);
    EXPECT_EQ(DecodeRows(x, 2, signature, NoiseKind::kNone).status,
              (std::vector<RowStatus>{RowStatus::kOk, RowStatus::kOutOfRange}));
  }
}

TEST_F(ServerTest, BadImagesAreRefusedByName) {
  ASSERT_TRUE(StartWith("").ok());
  const auto refused = [&](const pb::Tensor& x, const char* reason, const char* field) {
    const Answer answer = LogLikelihood(RequestOf(x));
    EXPECT_EQ(answer.code, StatusCode::INVALID_ARGUMENT) << answer.message;
    EXPECT_EQ(answer.reason, reason) << answer.message;
    EXPECT_EQ(answer.field, field) << answer.message;
  };
  pb::Tensor wrong = Images(pb::DATA_TYPE_UINT8, std::vector<uint8_t>(12, 0));
  wrong.set_shape(1, 2);
  wrong.set_shape(3, 3);
  refused(wrong, "SHAPE_MISMATCH", "x.shape");
  wrong.mutable_shape()->RemoveLast();
  refused(wrong, "SHAPE_MISMATCH", "x.shape");
  std::vector<float> values(12, 3);
  for (float bad : {-1.0f, 256.0f, 3.5f}) {
    values[5] = bad;
    refused(Images(pb::DATA_TYPE_FP32, values), "VALUE_OUT_OF_RANGE", "x.data");
  }
  values[5] = std::numeric_limits<float>::quiet_NaN();
  refused(Images(pb::DATA_TYPE_FP32, values), "NON_FINITE_INPUT", "x.data");
  // Images for a model of waveforms.
  pb::LogLikelihoodRequest request =
      RequestOf(Images(pb::DATA_TYPE_UINT8, std::vector<uint8_t>(12, 0)));
  request.mutable_model()->set_name("ecg");
  const Answer answer = LogLikelihood(request);
  EXPECT_EQ(answer.reason, "SHAPE_MISMATCH");
  EXPECT_NE(answer.message.find("model takes [-1,4,2]"), std::string::npos) << answer.message;
}

TEST_F(ServerTest, ImagesAreScoredWithoutAttribution) {
  ASSERT_TRUE(StartWith("").ok());
  pb::AnomalyScoreRequest request;
  request.mutable_model()->set_name("pixels");
  *request.mutable_x() = Images(pb::DATA_TYPE_UINT8, std::vector<uint8_t>(12, 1));
  request.set_want_contributions(true);
  pb::AnomalyScoreResponse response;
  ASSERT_EQ(Anomaly(request, &response).code, StatusCode::OK);
  EXPECT_EQ(Values<float>(response.score())[0], 12);
  EXPECT_EQ(response.contributions().shape(1), 2);
  request.set_want_attribution(true);
  const Answer answer = Anomaly(request);
  EXPECT_EQ(answer.code, StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(answer.reason, "ATTRIBUTION_UNSUPPORTED");
  EXPECT_NE(answer.message.find("image"), std::string::npos) << answer.message;
}

TEST_F(ServerTest, SamplesOfImagesAreBytes) {
  ASSERT_TRUE(StartWith("").ok());
  pb::SampleRequest request;
  request.mutable_model()->set_name("pixels");
  request.set_num_samples(2);
  request.set_first_row(41);
  pb::SampleResponse response;
  ASSERT_EQ(Sample(request, &response).code, StatusCode::OK);
  EXPECT_EQ(response.samples().dtype(), pb::DATA_TYPE_UINT8);
  EXPECT_EQ(response.samples().data(), std::string(12, 41) + std::string(12, 42));
  EXPECT_EQ(response.samples().shape_size(), 4);
  request.set_dtype(pb::DATA_TYPE_INT16);
  ASSERT_EQ(Sample(request, &response).code, StatusCode::OK);
  EXPECT_EQ(response.samples().dtype(), pb::DATA_TYPE_INT16);
  request.clear_dtype();
  request.set_unit(pb::SampleRequest::UNIT_SCALED);
  ASSERT_EQ(Sample(request, &response).code, StatusCode::OK);
  EXPECT_EQ(response.samples().dtype(), pb::DATA_TYPE_FP32);
}

// Ten thousand in small chunks, whatever would fit a message.
TEST_F(ServerTest, ManySamplesOfImagesComeInSmallChunks) {
  ASSERT_TRUE(StartWith("").ok());
  pb::StreamSampleRequest request;
  request.mutable_sample()->mutable_model()->set_name("pixels");
  request.mutable_sample()->set_num_samples(10'000);
  const int64_t rows_before = control_->rows;
  grpc::ClientContext context;
  const auto stream = flow_->StreamSample(&context, request);
  pb::StreamSampleResponse reply;
  int64_t rows = 0;
  while (stream->Read(&reply)) {
    EXPECT_LE(reply.chunk().samples().shape(0), 64);
    EXPECT_EQ(reply.chunk().first_row(), static_cast<uint64_t>(rows));
    rows += reply.chunk().samples().shape(0);
  }
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(rows, 10'000);
  EXPECT_EQ(control_->rows - rows_before, 10'000);
}

TEST_F(ServerTest, AModelOfImagesTellsWhatItIs) {
  ASSERT_TRUE(StartWith("").ok());
  grpc::ClientContext context;
  pb::GetModelRequest get;
  get.set_name("pixels");
  pb::GetModelResponse got;
  ASSERT_TRUE(models_->GetModel(&context, get, &got).ok());
  const pb::ModelInfo& info = got.model();
  EXPECT_EQ(info.architecture(), "image");
  EXPECT_EQ(std::vector<int64_t>(info.event_shape().begin(), info.event_shape().end()),
            (std::vector<int64_t>{3, 2, 2}));
  ASSERT_EQ(info.channels_size(), 3);
  EXPECT_EQ(info.channels(2).name(), "blue");
  EXPECT_EQ(info.channels(2).input_max(), 255);
  EXPECT_EQ(info.sampling_rate_hz(), 0);
  EXPECT_EQ(info.input_dtypes(0), pb::DATA_TYPE_UINT8);
  EXPECT_NEAR(info.code_unit_offset_nats(), 12 * std::log(128), 1e-12);
}

}  // namespace
}  // namespace bflow
