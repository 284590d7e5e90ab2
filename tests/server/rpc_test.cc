// What each call of the services answers, to good requests and to bad ones.
#include <cmath>
#include <limits>

#include "gmock/gmock.h"
#include "server/rpc/tensor_codec.h"
#include "tests/server/server_fixture.h"

namespace bflow {
namespace {

using grpc::StatusCode;
using ::testing::HasSubstr;

TEST(Crc32cTest, KnownValues) {
  EXPECT_EQ(Crc32c("123456789"), 0xE3069283u);
  EXPECT_EQ(Crc32c(std::string(32, '\0')), 0x8A9136AAu);
}

TEST_F(ServerTest, AnswersALogLikelihood) {
  ASSERT_TRUE(StartWith("").ok());
  pb::LogLikelihoodRequest request = Request({3, 4});
  request.mutable_dequantization()->set_kind(pb::Dequantization::KIND_CENTER);
  request.set_want_latent(true);
  request.mutable_options()->set_request_id("canary-id");
  request.mutable_options()->set_return_timing(true);
  request.mutable_x()->set_crc32c(Crc32c(request.x().data()));
  pb::LogLikelihoodResponse response;
  const Answer answer = LogLikelihood(request, &response);
  ASSERT_EQ(answer.code, StatusCode::OK) << answer.message;
  EXPECT_EQ(Values<double>(response.log_prob()), (std::vector<double>{-3, -4}));
  EXPECT_EQ(Values<double>(response.nats_per_dim())[1], 4.0 / 8);
  EXPECT_NEAR(Values<double>(response.bits_per_dim())[1], (4 + 8) / (8 * std::log(2)), 1e-12);
  EXPECT_EQ(Values<float>(response.latent())[8], 4);
  EXPECT_EQ(response.latent().shape_size(), 3);
  EXPECT_EQ(response.row_status(), std::string(2, '\0'));
  EXPECT_EQ(response.request_id(), "canary-id");
  EXPECT_EQ(response.timing().batches(), 1u);
  EXPECT_EQ(response.model().version(), 2) << "the newest one";
  EXPECT_EQ(trailers_["butterflyflow-model-version"], "2");
  EXPECT_EQ(trailers_["butterflyflow-call-id"].size(), 16u);
  request.mutable_options()->clear_score_dtype();
  ASSERT_EQ(LogLikelihood(request, &response).code, StatusCode::OK);
  EXPECT_EQ(response.log_prob().dtype(), pb::DATA_TYPE_FP32);
}

TEST_F(ServerTest, DrawsAndEchoesTheSeed) {
  ASSERT_TRUE(StartWith("").ok());
  pb::LogLikelihoodRequest request = Request({3, 4, 5});
  pb::LogLikelihoodResponse first, again, part;
  ASSERT_EQ(LogLikelihood(request, &first).code, StatusCode::OK);
  EXPECT_EQ(first.dequantization().kind(), pb::Dequantization::KIND_UNIFORM);
  ASSERT_TRUE(first.dequantization().has_seed());
  *request.mutable_dequantization() = first.dequantization();
  ASSERT_EQ(LogLikelihood(request, &again).code, StatusCode::OK);
  EXPECT_EQ(first.log_prob().data(), again.log_prob().data());
  *request.mutable_x() = CodeTensor({5});
  request.mutable_dequantization()->set_row_offset(2);
  ASSERT_EQ(LogLikelihood(request, &part).code, StatusCode::OK);
  EXPECT_EQ(Values<double>(part.log_prob())[0], Values<double>(first.log_prob())[2]);
  request.mutable_dequantization()->set_draws(4);
  ASSERT_EQ(LogLikelihood(request, &part).code, StatusCode::OK);
  EXPECT_EQ(part.log_prob_mean().shape(0), 1);
}

TEST_F(ServerTest, EachBadRequestHasOneAnswer) {
  ASSERT_TRUE(StartWith("limits { max_rows: 3 max_samples: 4 }").ok());
  const auto expect = [](const Answer& answer, StatusCode code, const char* reason,
                         const char* field) {
    EXPECT_EQ(answer.code, code) << answer.message;
    EXPECT_EQ(answer.reason, reason) << answer.message;
    EXPECT_EQ(answer.field, field) << answer.message;
    EXPECT_EQ(answer.message.find("canary"), std::string::npos);
    EXPECT_LE(answer.message.size(), 1024u);
  };
  const auto invalid = [&](const char* reason, const char* field, auto change) {
    pb::LogLikelihoodRequest request = Request({3, 4});
    change(request);
    expect(LogLikelihood(request), StatusCode::INVALID_ARGUMENT, reason, field);
  };
  using R = pb::LogLikelihoodRequest&;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  invalid("BAD_NAME", "model.name", [](R r) { r.mutable_model()->set_name("../canary"); });
  invalid("BAD_NAME", "model.label", [](R r) { r.mutable_model()->set_label("Canary"); });
  invalid("BAD_NAME", "model.version", [](R r) { r.mutable_model()->set_version(-1); });
  invalid("BAD_DTYPE", "x.dtype", [](R r) { r.mutable_x()->clear_dtype(); });
  invalid("SHAPE_MISMATCH", "x.shape", [](R r) { r.mutable_x()->set_shape(1, 5); });
  invalid("SHAPE_MISMATCH", "x.shape", [](R r) { r.mutable_x()->set_shape(0, 0); });
  invalid("SHAPE_MISMATCH", "x.shape", [](R r) { r.mutable_x()->add_shape(1); });
  invalid("SHAPE_MISMATCH", "x.shape", [](R r) { r.mutable_x()->set_shape(0, int64_t{1} << 62); });
  invalid("BYTE_COUNT_MISMATCH", "x.data", [](R r) { r.mutable_x()->mutable_data()->pop_back(); });
  invalid("CHECKSUM_MISMATCH", "x.crc32c", [](R r) { r.mutable_x()->set_crc32c(1); });
  invalid("BAD_OPTION", "dequantization.seed", [](R r) {
    r.mutable_dequantization()->set_kind(pb::Dequantization::KIND_CENTER);
    r.mutable_dequantization()->set_seed(1);
  });
  invalid("BAD_OPTION", "dequantization.draws",
          [](R r) { r.mutable_dequantization()->set_draws(65); });
  invalid("BAD_OPTION", "dequantization.kind", [](R r) {
    r.mutable_dequantization()->set_kind(static_cast<pb::Dequantization::Kind>(9));
  });
  invalid("BAD_OPTION", "want_latent", [](R r) {
    r.mutable_dequantization()->set_draws(2);
    r.set_want_latent(true);
  });
  invalid("BAD_OPTION", "options.priority", [](R r) { r.mutable_options()->set_priority(3); });
  invalid("BAD_OPTION", "options.score_dtype",
          [](R r) { r.mutable_options()->set_score_dtype(pb::DATA_TYPE_INT16); });
  invalid("BAD_OPTION", "options.invalid_rows",
          [](R r) { r.mutable_options()->set_invalid_rows(static_cast<pb::InvalidRowPolicy>(7)); });
  invalid("VALUE_OUT_OF_RANGE", "x.data", [](R r) { *r.mutable_x() = CodeTensor({128}); });
  invalid("VALUE_OUT_OF_RANGE", "x.data",
          [](R r) { *r.mutable_x() = FloatTensor(std::vector<float>(8, 0.5f)); });
  invalid("VALUE_OUT_OF_RANGE", "x.data",
          [](R r) { r.mutable_dequantization()->set_kind(pb::Dequantization::KIND_NONE); });
  invalid("NON_FINITE_INPUT", "x.data", [&](R r) {
    *r.mutable_x() = FloatTensor({0, 0, nan, 0, 0, 0, 0, 0});
  });
  invalid("BAD_OPTION", "dequantization.kind", [](R r) {
    r.mutable_model()->set_name("real");
    *r.mutable_x() = FloatTensor(std::vector<float>(8, 0.5f));
    r.mutable_dequantization()->set_kind(pb::Dequantization::KIND_CENTER);
  });
  invalid("BAD_DTYPE", "x.dtype", [](R r) { r.mutable_model()->set_name("real"); });
  invalid("VALUE_OUT_OF_RANGE", "x.data", [](R r) {
    r.mutable_model()->set_name("real");
    *r.mutable_x() = FloatTensor(std::vector<float>(8, 1.5f));
  });

  // Out of range says what the noise that was asked for takes.
  pb::LogLikelihoodRequest request = Request({3});
  request.mutable_dequantization()->set_kind(pb::Dequantization::KIND_NONE);
  EXPECT_THAT(LogLikelihood(request).message, HasSubstr("nothing but whole codes"));
  request.mutable_dequantization()->set_kind(pb::Dequantization::KIND_CENTER);
  *request.mutable_x() = FloatTensor(std::vector<float>(8, 0.5f));
  EXPECT_THAT(LogLikelihood(request).message, HasSubstr("no whole code"));
  request.clear_dequantization();
  request.mutable_model()->set_name("real");
  *request.mutable_x() = FloatTensor(std::vector<float>(8, 1.5f));
  EXPECT_THAT(LogLikelihood(request).message, HasSubstr("the channels' range; rows 0"));

  request = Request({1, 2, 3, 4});
  expect(LogLikelihood(request), StatusCode::RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED", "");
  request = Request({1});
  request.mutable_model()->set_name("canary-none");
  expect(LogLikelihood(request), StatusCode::NOT_FOUND, "MODEL_NOT_FOUND", "");
  request.mutable_model()->set_name("ecg");
  request.mutable_model()->set_version(7);
  expect(LogLikelihood(request), StatusCode::NOT_FOUND, "MODEL_NOT_FOUND", "");
  request.mutable_model()->set_label("canary");
  expect(LogLikelihood(request), StatusCode::NOT_FOUND, "MODEL_NOT_FOUND", "");
  request.mutable_model()->set_name("broken");
  request.mutable_model()->clear_pick();
  expect(LogLikelihood(request), StatusCode::FAILED_PRECONDITION, "MODEL_FAILED", "");

  pb::AnomalyScoreRequest anomaly;
  anomaly.mutable_model()->set_name("plain");
  expect(Anomaly(anomaly), StatusCode::FAILED_PRECONDITION, "NO_CALIBRATION", "");
  anomaly.mutable_model()->set_name("ecg");
  *anomaly.mutable_x() = CodeTensor({1});
  for (double alpha : {0.0, 1.0, -1.0, std::nan("")}) {
    anomaly.set_alpha(alpha);
    expect(Anomaly(anomaly), StatusCode::INVALID_ARGUMENT, "BAD_OPTION", "alpha");
  }
  anomaly.set_alpha(0.0099);
  expect(Anomaly(anomaly), StatusCode::FAILED_PRECONDITION, "CALIBRATION_TOO_SMALL", "");
  anomaly.mutable_model()->set_name("real");
  anomaly.set_want_attribution(true);
  expect(Anomaly(anomaly), StatusCode::FAILED_PRECONDITION, "ATTRIBUTION_UNSUPPORTED", "");

  pb::SampleRequest sample;
  sample.mutable_model()->set_name("plain");
  expect(Sample(sample), StatusCode::FAILED_PRECONDITION, "SAMPLING_NOT_ALLOWED", "");
  sample.mutable_model()->set_name("ecg");
  expect(Sample(sample), StatusCode::INVALID_ARGUMENT, "BAD_OPTION", "num_samples");
  sample.set_num_samples(5);
  expect(Sample(sample), StatusCode::RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED", "");
  sample.set_num_samples(2);
  for (double temperature : {0.0, 4.1, std::nan("")}) {
    sample.set_temperature(temperature);
    expect(Sample(sample), StatusCode::INVALID_ARGUMENT, "BAD_OPTION", "temperature");
  }
  sample.clear_temperature();
  sample.set_dtype(pb::DATA_TYPE_UINT8);  // the range is -127..127
  expect(Sample(sample), StatusCode::INVALID_ARGUMENT, "BAD_OPTION", "dtype");
  sample.mutable_model()->set_name("real");
  sample.set_unit(pb::SampleRequest::UNIT_CODE);
  expect(Sample(sample), StatusCode::INVALID_ARGUMENT, "BAD_OPTION", "unit");
}

TEST_F(ServerTest, MarkedRowsCarryFailSafeValues) {
  ASSERT_TRUE(StartWith("").ok());
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::vector<float> values(4 * 8);
  values[0] = 5;
  values[8] = nan;
  values[16] = 500;
  values[24] = 111;  // overflows
  pb::LogLikelihoodRequest request;
  request.mutable_model()->set_name("ecg");
  *request.mutable_x() = FloatTensor(values);
  request.mutable_options()->set_invalid_rows(pb::INVALID_ROW_POLICY_MARK);
  request.mutable_options()->set_score_dtype(pb::DATA_TYPE_FP64);
  request.mutable_dequantization()->set_kind(pb::Dequantization::KIND_CENTER);
  request.set_want_latent(true);
  const int64_t rows_before = control_->rows;
  pb::LogLikelihoodResponse response;
  ASSERT_EQ(LogLikelihood(request, &response).code, StatusCode::OK);
  EXPECT_EQ(control_->rows - rows_before, 2) << "marked rows are not computed";
  const double infinity = std::numeric_limits<double>::infinity();
  EXPECT_EQ(response.row_status(), std::string("\0\1\3\2", 4));
  EXPECT_EQ(Values<double>(response.log_prob()),
            (std::vector<double>{-5, -infinity, -infinity, -infinity}));
  EXPECT_EQ(Values<double>(response.nats_per_dim())[1], infinity);
  EXPECT_EQ(Values<double>(response.bits_per_dim())[2], infinity);
  EXPECT_EQ(Values<float>(response.latent())[24], 0);

  pb::AnomalyScoreRequest anomaly;
  *anomaly.mutable_model() = request.model();
  *anomaly.mutable_options() = request.options();
  values[24] = 100;  // p = 0.01
  *anomaly.mutable_x() = FloatTensor(values);
  anomaly.set_want_contributions(true);
  anomaly.set_want_attribution(true);
  pb::AnomalyScoreResponse scores;
  const Answer answer = Anomaly(anomaly, &scores);
  ASSERT_EQ(answer.code, StatusCode::OK) << answer.message;
  EXPECT_EQ(Values<double>(scores.score()), (std::vector<double>{5, infinity, infinity, 100}));
  EXPECT_EQ(Values<double>(scores.p_value()), (std::vector<double>{0.5, 0.01, 0.01, 0.01}));
  EXPECT_EQ(scores.flagged(), std::string("\0\1\1\1", 4));
  EXPECT_EQ(scores.typicality(), std::string("\0\2\2\0", 4));
  EXPECT_EQ(Values<double>(scores.nll_rank())[1], 1);
  EXPECT_EQ(scores.contributions().shape(1), 2);
  EXPECT_EQ(Values<double>(scores.contributions())[2], 0);
  EXPECT_EQ(scores.feature_names_size(), 2);
  ASSERT_EQ(scores.attribution().shape_size(), 3);
  EXPECT_EQ(scores.attribution().shape(1), 1) << "four time steps are less than one segment";
  EXPECT_EQ(scores.attribution().shape(2), 2);
  EXPECT_EQ(scores.attribution().dtype(), pb::DATA_TYPE_FP32);
  // Rows 1 and 2 were not scored; the others are batches of their own in the fake.
  EXPECT_EQ(Values<float>(scores.attribution()), (std::vector<float>{0, 1, 0, 0, 0, 0, 0, 1}));
  EXPECT_EQ(scores.attribution_cause(), std::string("\3\3\0\0\0\0\3\3", 8));
  EXPECT_EQ(scores.attribution_stride(), 32u);
  EXPECT_EQ(scores.alpha(), 0.05);
  EXPECT_EQ(scores.dequantization().kind(), pb::Dequantization::KIND_CENTER);
}

TEST_F(ServerTest, SamplesInUnitsAndTypes) {
  ASSERT_TRUE(StartWith("batching { batch_rows_max: 3 buckets: 1 }").ok());
  pb::SampleRequest request;
  request.mutable_model()->set_name("ecg");
  request.set_num_samples(10);
  request.set_first_row(5);
  request.set_want_log_prob(true);
  pb::SampleResponse response;
  ASSERT_EQ(Sample(request, &response).code, StatusCode::OK);
  EXPECT_EQ(response.samples().dtype(), pb::DATA_TYPE_INT16);
  EXPECT_EQ(Values<int16_t>(response.samples())[9 * 8], 14) << "rows are numbered through slices";
  EXPECT_EQ(Values<float>(response.log_prob())[9], -14);
  request.set_unit(pb::SampleRequest::UNIT_SCALED);
  ASSERT_EQ(Sample(request, &response).code, StatusCode::OK);
  EXPECT_EQ(response.samples().dtype(), pb::DATA_TYPE_FP32);
}

TEST_F(ServerTest, ModelService) {
  ASSERT_TRUE(StartWith("repository { models { name: 'ecg' version: 1 labels: 'stable' } "
                        "models { name: 'ecg' version: 2 labels: 'next' } }")
                  .ok());
  pb::LogLikelihoodRequest request = Request({1});
  pb::LogLikelihoodResponse response;
  ASSERT_EQ(LogLikelihood(request, &response).code, StatusCode::OK);
  EXPECT_EQ(response.model().version(), 1) << "stable";
  request.mutable_model()->set_label("next");
  ASSERT_EQ(LogLikelihood(request, &response).code, StatusCode::OK);
  EXPECT_EQ(response.model().version(), 2);
  {
    grpc::ClientContext context;
    pb::ListModelsResponse list;
    ASSERT_TRUE(models_->ListModels(&context, {}, &list).ok());
    ASSERT_EQ(list.models_size(), 1);
    EXPECT_EQ(list.models(0).versions_size(), 2);
    EXPECT_EQ(list.models(0).channels(1).name(), "V");
    EXPECT_EQ(list.models(0).versions(0).labels(0), "stable");
    EXPECT_EQ(list.models(0).versions(0).card().at("notes"), "fake");
  }
  {
    grpc::ClientContext context;
    pb::GetModelRequest get;
    get.set_name("ecg");
    pb::GetModelResponse got;
    ASSERT_TRUE(models_->GetModel(&context, get, &got).ok());
    EXPECT_EQ(got.limits().max_rows(), 65'536u);
    EXPECT_EQ(got.device(), "cpu");
  }
  grpc::ClientContext load, unload, label, missing;
  pb::LoadModelResponse loaded;
  pb::UnloadModelResponse unloaded;
  pb::SetVersionLabelResponse labelled;
  for (const grpc::Status& status :
       {models_->LoadModel(&load, {}, &loaded), models_->UnloadModel(&unload, {}, &unloaded),
        models_->SetVersionLabel(&label, {}, &labelled)}) {
    EXPECT_EQ(status.error_code(), StatusCode::PERMISSION_DENIED);
    EXPECT_EQ(Explain(status).reason, "ADMIN_LISTENER_ONLY");
  }
  pb::GetModelRequest unknown;
  unknown.set_name("nobody");
  pb::GetModelResponse got;
  EXPECT_EQ(Explain(models_->GetModel(&missing, unknown, &got)).reason, "MODEL_NOT_FOUND");
}

}  // namespace
}  // namespace bflow
