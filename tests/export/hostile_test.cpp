// Checkpoints that are not what they say: each gets an error that names file and tensor or key.
#include <gmock/gmock.h>

#include <functional>

#include "core/error.h"
#include "core/packing.h"
#include "export/checkpoint.h"
#include "export/checkpoints.h"
#include "support/typed_encoding.h"

namespace voronoi::exporting {
namespace {

using testing::AllOf;
using testing::HasSubstr;

const std::string kLayer = "model.layers.1.mlp.down_proj";

class Hostile : public ::testing::Test {
 protected:
  Hostile() : small_({{8, 256, 16, 1, 4}}) {
    small_.request.origin.profile = Profile::full;
    out_ = small_.write();
    config_ = core::read_json_file((out_ / "config.json").string());
    tensors_ = test::TensorSet::read(out_ / "model.safetensors");
  }

  /// The error of opening the checkpoint and reading the layer after a change.
  std::string after(const std::function<void(core::Json& config, test::TensorSet& set)>& change) {
    core::Json config = config_;
    test::TensorSet set = tensors_;
    change(config, set);
    test::write_bytes(out_ / "config.json", config.dump());
    set.write(out_ / "model.safetensors");
    try {
      if (!is_checkpoint(out_.string())) return "no checkpoint";
      Checkpoint(out_.string()).encoding(kLayer);
    } catch (const core::FormatError& error) {
      EXPECT_THAT(error.what(), HasSubstr(out_.string()));
      return error.what();
    }
    return "accepted";
  }
  std::string with_entry(const char* key, const core::Json& value) {
    return after([&](core::Json& config, test::TensorSet&) {
      config["quantization_config"]["config_for_layers"][kLayer][key] = value;
    });
  }
  std::string with_tensor(const std::string& suffix, const std::function<void(test::TensorSet::Tensor&)>& change) {
    return after([&](core::Json&, test::TensorSet& set) { change(set.tensors.at(kLayer + suffix)); });
  }

  test::SmallExport small_;
  std::filesystem::path out_;
  core::Json config_;
  test::TensorSet tensors_;
};

TEST_F(Hostile, UnchangedItIsAccepted) {
  EXPECT_EQ(after([](auto&, auto&) {}), "accepted");
}

TEST_F(Hostile, EntriesAreChecked) {
  const core::Json huge = std::uint64_t{1} << 63, list = core::Json::array({1, 2, 3});
  for (const char* key : {"in_features", "out_features", "group_num", "group_size", "outlier_size"})
    for (const core::Json& value : {core::Json(0x7FFFFFFFFFFF), core::Json(-5), core::Json("8"), core::Json(1.5),
                                    core::Json(nullptr), huge, list})
      EXPECT_THAT(with_entry(key, value), AllOf(HasSubstr("config.json"), HasSubstr(kLayer), HasSubstr(key)))
          << value.dump();
  for (const char* key : {"vector_lens", "num_centroids", "num_res_centroids"})
    for (const core::Json& value :
         {core::Json(8), list, core::Json::array({4, 0x7FFFFFFF}), core::Json::array({4, "x"}),
          core::Json::array({4, -2}), core::Json::array({huge, huge}), core::Json::array({4, 1})})
      EXPECT_THAT(with_entry(key, value), HasSubstr(kLayer)) << key << value.dump();
  EXPECT_THAT(with_entry("num_centroids", core::Json::array({16, 200})), HasSubstr("power of two"));
  EXPECT_THAT(with_entry("num_res_centroids", core::Json::array({-1, 512})), HasSubstr("residual_centroids"));
  for (const char* key : {"enable_norm", "enable_perm", "indices_as_float"})
    EXPECT_THAT(with_entry(key, 1), AllOf(HasSubstr(kLayer), HasSubstr(key)));
  EXPECT_THAT(with_entry("indices_as_float", true), HasSubstr("not supported"));
  EXPECT_THAT(with_entry("bias", true), HasSubstr("no bias"));
  EXPECT_THAT(with_entry("group_num", 2), HasSubstr("group_size"));
  EXPECT_THAT(with_entry("group_num", 3), HasSubstr("divide"));
  EXPECT_THAT(with_entry("is_indice_packed", false), AllOf(HasSubstr(kLayer + ".indices"), HasSubstr("I16")));
  for (const auto& [key, value] : config_["quantization_config"]["config_for_layers"][kLayer].items()) {
    if (key == "bias" || key == "is_indice_packed") continue;  // absent, they are false
    EXPECT_THAT(after([&, name = key](core::Json& config, test::TensorSet&) {
                  config["quantization_config"]["config_for_layers"][kLayer].erase(name);
                }),
                AllOf(HasSubstr(key), HasSubstr("missing")));
  }
}

TEST_F(Hostile, QuantizationConfigIsChecked) {
  const auto with = [&](const char* key, const core::Json& value) {
    return after([&](core::Json& config, test::TensorSet&) { config["quantization_config"][key] = value; });
  };
  EXPECT_EQ(with("quant_method", "bitsandbytes"), "no checkpoint");
  EXPECT_THAT(with("quant_method", "gptq"), HasSubstr("quantization_config.bits"));
  EXPECT_EQ(with("quant_method", 7), "no checkpoint");
  EXPECT_THAT(with("config_for_layers", 7), HasSubstr("config_for_layers"));
  EXPECT_THAT(with("config_for_layers", nullptr), AllOf(HasSubstr("no entry"), HasSubstr("q_proj")));
  EXPECT_THAT(with("shared_layer_config", "x"), HasSubstr("shared_layer_config"));
  EXPECT_THAT(with("modules_to_not_convert", "x"), HasSubstr("modules_to_not_convert"));
  EXPECT_THAT(with("modules_to_not_convert", {"down_proj"}), HasSubstr("down_proj"));
  EXPECT_EQ(after([](core::Json& config, auto&) { config["quantization_config"] = 3; }), "no checkpoint");
  EXPECT_EQ(after([](core::Json& config, auto&) { config.erase("quantization_config"); }), "no checkpoint");
  EXPECT_THAT(after([](core::Json& config, auto&) { config["num_hidden_layers"] = 100000; }), HasSubstr("no entry"));
}

TEST_F(Hostile, TensorsAreChecked) {
  for (const char* suffix : {".indices", ".centroids.weight", ".res_centroids.weight", ".weight_scale", ".weight_bias",
                             ".perm", ".outlier_centroids.weight", ".outlier_indices"}) {
    const std::string name = kLayer + suffix;
    EXPECT_THAT(after([&](core::Json&, test::TensorSet& set) { set.tensors.erase(name); }),
                AllOf(HasSubstr(name), HasSubstr("missing")));
    EXPECT_THAT(with_tensor(suffix,
                            [](test::TensorSet::Tensor& tensor) {
                              tensor.shape.back() += 1;
                              tensor.bytes.resize(tensor.bytes.size() * 2);
                              const auto n = core::element_count(tensor.shape).value();
                              tensor.bytes.resize(static_cast<std::size_t>(n) * (tensor.dtype == "I32" ? 4 : 2));
                            }),
                AllOf(HasSubstr(name), HasSubstr("shape")));
    EXPECT_THAT(
        with_tensor(suffix,
                    [](test::TensorSet::Tensor& tensor) {
                      tensor.dtype = "F64";
                      tensor.bytes.resize(static_cast<std::size_t>(core::element_count(tensor.shape).value()) * 8);
                    }),
        AllOf(HasSubstr(name), HasSubstr("F64")));
  }
  for (const char* suffix :
       {".centroids.weight", ".res_centroids.weight", ".weight_scale", ".weight_bias", ".outlier_centroids.weight"}) {
    EXPECT_THAT(with_tensor(suffix, [](test::TensorSet::Tensor& tensor) { tensor.bytes[3] = '\x7C'; }),
                AllOf(HasSubstr(kLayer + suffix), HasSubstr("not finite")));
    if (std::string(suffix) != ".centroids.weight") {
      EXPECT_THAT(with_tensor(suffix, [](test::TensorSet::Tensor& tensor) { tensor.dtype = "BF16"; }),
                  AllOf(HasSubstr(kLayer + suffix), HasSubstr("BF16; F16")));
    }
  }
  EXPECT_THAT(with_tensor(".outlier_indices", [](test::TensorSet::Tensor& tensor) { tensor.bytes[4] = 16; }),
              AllOf(HasSubstr(kLayer + ".outlier_indices"), HasSubstr("16")));
  EXPECT_THAT(with_tensor(".perm", [](test::TensorSet::Tensor& tensor) { tensor.bytes[1] = 1; }),
              AllOf(HasSubstr(kLayer + ".perm"), HasSubstr("permutation")));
  EXPECT_THAT(
      with_tensor(".perm", [](test::TensorSet::Tensor& tensor) { tensor.bytes.replace(0, 2, tensor.bytes, 2, 2); }),
      AllOf(HasSubstr(kLayer + ".perm"), HasSubstr("permutation")));
  EXPECT_THAT(after([](core::Json&, test::TensorSet& set) { set.tensors.erase("model.norm.weight"); }),
              AllOf(HasSubstr("model.norm.weight"), HasSubstr("missing")));
}

TEST_F(Hostile, DecodedNumbersMustBeWeights) {
  after([](core::Json&, test::TensorSet& set) {
    for (const char* suffix : {".centroids.weight", ".weight_scale"})  // finite, but not their product
      for (std::size_t i = 1; i < set.tensors.at(kLayer + suffix).bytes.size(); i += 2)
        set.tensors.at(kLayer + suffix).bytes[i] = '\x7B';
  });
  const Checkpoint checkpoint(out_.string());
  std::vector<float> weight(24 * 44);
  EXPECT_THAT(test::message_of<core::FormatError>([&] {
                checkpoint.read({kLayer + ".weight", {24, 44}}, weight);
              }),
              HasSubstr(kLayer));
}

TEST_F(Hostile, UnpackedIndicesAreTakenAndTheirRangeChecked) {
  const auto unpack = [](core::Json& config, test::TensorSet& set, const format::VqEncoding& e) {
    config["quantization_config"]["config_for_layers"][kLayer]["is_indice_packed"] = false;
    const auto width = static_cast<std::size_t>(e.group_size()), words = static_cast<std::size_t>(e.row_words());
    test::TensorSet::Tensor main{"I16", {1, e.vector_rows(), e.group_size()}, ""}, residual = main;
    std::vector<std::uint32_t> codes(width);
    for (std::size_t row = 0; row < e.indices.size() / words; ++row) {
      core::unpack_row(std::span(e.indices).subspan(row * words, words), e.main_bits() + e.residual_bits(), codes);
      for (const std::uint32_t code : codes) {
        const auto low = static_cast<std::uint16_t>(code & 255), high = static_cast<std::uint16_t>(code >> 8);
        main.bytes.append(reinterpret_cast<const char*>(&low), 2);
        residual.bytes.append(reinterpret_cast<const char*>(&high), 2);
      }
    }
    set.tensors[kLayer + ".indices"] = main;
    set.tensors[kLayer + ".res_indices"] = residual;
    auto& perm = set.tensors.at(kLayer + ".perm");
    perm = {"I64", perm.shape, ""};
    for (const std::uint16_t column : e.perm) {
      const std::int64_t wide = column;
      perm.bytes.append(reinterpret_cast<const char*>(&wide), 8);
    }
  };
  const format::Encoding& encoding = small_.encodings.at(kLayer);
  EXPECT_EQ(after([&](core::Json& config, test::TensorSet& set) { unpack(config, set, test::vq_of(encoding)); }),
            "accepted");
  EXPECT_EQ(Checkpoint(out_.string()).encoding(kLayer), encoding);
  const auto broken = [&](const std::string& suffix, std::size_t byte) {
    return after([&](core::Json& config, test::TensorSet& set) {
      unpack(config, set, test::vq_of(encoding));
      set.tensors.at(kLayer + suffix).bytes[byte] = 1;
    });
  };
  EXPECT_THAT(broken(".indices", 1), AllOf(HasSubstr(kLayer + ".indices"), HasSubstr("256 centroids")));
  EXPECT_THAT(broken(".res_indices", 1), AllOf(HasSubstr(kLayer + ".res_indices"), HasSubstr("16 centroids")));
  EXPECT_THAT(broken(".perm", 7), AllOf(HasSubstr(kLayer + ".perm"), HasSubstr("no column")));
}

TEST_F(Hostile, ALayerWithoutScalesDecodesItsCodebooks) {
  EXPECT_EQ(after([](core::Json& config, test::TensorSet& set) {
              config["quantization_config"]["config_for_layers"][kLayer]["enable_norm"] = false;
              set.tensors.erase(kLayer + ".weight_scale");
              set.tensors.erase(kLayer + ".weight_bias");
            }),
            "accepted");
  format::VqEncoding plain = test::vq_of(small_.encodings.at(kLayer));
  plain.scale.assign(44, core::float_to_half(1));
  plain.bias.assign(44, 0);
  EXPECT_EQ(Checkpoint(out_.string()).encoding(kLayer), format::to_encoding(plain));
}

TEST_F(Hostile, ALayerLeftOutIsReadAsItIs) {
  EXPECT_EQ(after([](core::Json& config, test::TensorSet& set) {
              const std::string other = "model.layers.0.mlp.up_proj";
              config["quantization_config"]["modules_to_not_convert"].push_back(other);
              set.tensors[other + ".weight"] = {"F16", {44, 24}, std::string(44 * 24 * 2, '\0')};
            }),
            "accepted");
  const Checkpoint checkpoint(out_.string());
  EXPECT_EQ(checkpoint.linears().size(), 13U);
  std::vector<float> weight(44 * 24, 1);
  checkpoint.read({"model.layers.0.mlp.up_proj.weight", {44, 24}}, weight);
  EXPECT_EQ(weight, std::vector<float>(44 * 24, 0));
}

}  // namespace
}  // namespace voronoi::exporting
