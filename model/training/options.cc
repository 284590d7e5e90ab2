#include "model/training/options.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/names.h"
#include "base/status.h"
#include "model/checkpoint/repository.h"
#include "model/training/flag_values.h"
#include "model/training/presets.h"

namespace bflow {
namespace {

absl::Status ParseNames(const std::string& flag, const std::string& text,
                        std::vector<std::string>* out) {
  out->clear();  // the last of several flags counts
  for (const std::string& name : std::vector<std::string>(absl::StrSplit(text, ','))) {
    if (name.empty()) return Bad(flag, "names separated by commas");
    if (std::find(out->begin(), out->end(), name) != out->end()) {
      return Bad(flag, "every name once");
    }
    out->push_back(name);
  }
  return absl::OkStatus();
}

absl::Status ParseChannelSteps(const std::string& text, std::vector<double>* out) {
  out->clear();
  for (const std::string& part : std::vector<std::string>(absl::StrSplit(text, ','))) {
    double value = 0;
    BFLOW_RETURN_IF_ERROR(ParseReal("step", part, 1, 1e6, &value));
    if (value != std::floor(value)) return Bad("step", "whole numbers of codes");
    out->push_back(value);
  }
  return absl::OkStatus();
}

absl::Status ParseSensitivity(const std::string& text, std::optional<Sensitivity>* out) {
  if (text != "patient" && text != "none") return Bad("sensitivity", "patient or none");
  *out = text == "none" ? Sensitivity::kNone : Sensitivity::kPatient;
  return absl::OkStatus();
}

absl::Status ParseDequantization(const std::string& text, Dequantization* out) {
  if (text != "uniform" && text != "variational") {
    return Bad("dequantisation", "uniform or variational");
  }
  *out = text == "uniform" ? Dequantization::kUniform : Dequantization::kVariational;
  return absl::OkStatus();
}

absl::Status ParseKeep(const std::string& text, std::optional<KeepCheckpoint>* out) {
  if (text != "best" && text != "last") return Bad("checkpoint", "best or last");
  *out = text == "best" ? KeepCheckpoint::kBest : KeepCheckpoint::kLast;
  return absl::OkStatus();
}

absl::Status ParseEmaScheme(const std::string& text, std::optional<EmaScheme>* out) {
  if (text != "polyak" && text != "alternating") return Bad("ema_scheme", "polyak or alternating");
  *out = text == "polyak" ? EmaScheme::kPolyak : EmaScheme::kAlternating;
  return absl::OkStatus();
}

std::map<std::string, FlagHandler> MakeHandlers(TrainOptions* o) {
  auto text = [](std::string* out) -> FlagHandler {
    return [out](const std::string& value) {
      *out = value;
      return absl::OkStatus();
    };
  };
  auto integer = [](const char* flag, int64_t least, std::optional<int64_t>* out) -> FlagHandler {
    return [=](const std::string& value) { return ParseInteger(flag, value, least, out); };
  };
  auto fraction = [](const char* flag, double* out) -> FlagHandler {
    return [=](const std::string& value) { return ParseReal(flag, value, 0, 1, out); };
  };
  auto real = [](const char* flag, double most, std::optional<double>* out) -> FlagHandler {
    return [=](const std::string& value) { return ParseOptionalReal(flag, value, 0, most, out); };
  };
  std::map<std::string, FlagHandler> handlers = {
      {"preset", text(&o->preset)},
      {"out", text(&o->out)},
      {"model", text(&o->model)},
      {"version", integer("version", 1, &o->version)},
      {"import", text(&o->import_file)},
      {"spec", text(&o->spec_file)},
      {"window", integer("window", 2, &o->window)},
      {"hop", integer("hop", 1, &o->hop)},
      {"steps", integer("steps", 1, &o->steps)},
      {"batch", integer("batch", 2, &o->batch)},
      {"warmup_steps", integer("warmup_steps", 0, &o->warmup_steps)},
      {"validate_every", integer("validate_every", 1, &o->validate_every)},
      {"learning_rate", real("learning_rate", 1, &o->learning_rate)},
      {"decay", real("decay", 1, &o->decay)},
      {"ema", real("ema", 0.999999999, &o->ema)},
      {"device", text(&o->device)},
      {"train_fraction", fraction("train_fraction", &o->train_fraction)},
      {"validation_fraction", fraction("validation_fraction", &o->validation_fraction)},
      {"calibration_fraction", fraction("calibration_fraction", &o->calibration_fraction)},
      {"metrics_csv", text(&o->metrics_csv)},
      {"licence", text(&o->licence)},
      {"notes", text(&o->notes)},
  };
  handlers["signals"] = [o](const std::string& v) { return ParseNames("signals", v, &o->signals); };
  handlers["step"] = [o](const std::string& v) { return ParseChannelSteps(v, &o->step); };
  handlers["sensitivity"] = [o](const std::string& v) {
    return ParseSensitivity(v, &o->sensitivity);
  };
  handlers["dequantisation"] = [o](const std::string& v) {
    return ParseDequantization(v, &o->dequantization);
  };
  handlers["checkpoint"] = [o](const std::string& v) { return ParseKeep(v, &o->keep); };
  handlers["ema_scheme"] = [o](const std::string& v) { return ParseEmaScheme(v, &o->ema_scheme); };
  handlers["seed"] = [o](const std::string& v) {
    return absl::SimpleAtoi(v, &o->seed) ? absl::OkStatus()
                                         : Bad("seed", "an integer from 0 to 2^64 - 1");
  };
  handlers["checkpoint_every"] = [o](const std::string& v) {
    std::optional<int64_t> value;
    BFLOW_RETURN_IF_ERROR(ParseInteger("checkpoint_every", v, 0, &value));
    o->checkpoint_every = *value;
    return absl::OkStatus();
  };
  handlers["schedule"] = [o](const std::string& v) {
    BFLOW_ASSIGN_OR_RETURN(o->schedule, ParseScheduleKind(v));
    return absl::OkStatus();
  };
  handlers["draws"] = integer("draws", 1, &o->draws);
  handlers["butterfly_decay"] = real("butterfly_decay", 1, &o->butterfly_decay);
  handlers.merge(ImageFlagHandlers(&o->image));
  handlers["data"] = [o](const std::string& v) {
    o->data.push_back(v);
    return absl::OkStatus();
  };
  return handlers;
}

absl::Status CheckOutput(const TrainOptions& o) {
  if (o.out.empty()) return Bad("out", "the folder of the model repository");
  if (!IsValidModelName(o.model)) {
    return Bad("model",
               "a name [a-z0-9][a-z0-9_-]{0,63}, not \"other\", not ending in \"-sampler\"");
  }
  return absl::OkStatus();
}

// `given`: the names of all flags.
absl::Status CheckImportOptions(const TrainOptions& o, const std::set<std::string>& given) {
  for (const std::string& flag : given) {
    if (flag != "import" && flag != "out" && flag != "model" && flag != "version" &&
        flag != "licence" && flag != "notes") {
      return Bad("import", absl::StrCat("no --", flag, " beside it, nothing is trained"));
    }
  }
  return CheckOutput(o);
}

// Flags that mean something for one family of presets alone.
absl::Status CheckFamily(const TrainOptions& o, bool is_image, const std::set<std::string>& given) {
  const std::set<std::string> foreign =
      is_image ? std::set<std::string>{"signals", "window", "hop", "step"} : ImageFlags();
  for (const std::string& flag : given) {
    if (foreign.count(flag) > 0) {
      return Bad(flag, absl::StrCat("no such flag with --preset=", o.preset, ", which is one of ",
                                    is_image ? "images" : "waveforms"));
    }
  }
  if (!is_image && o.signals.empty()) {
    return Bad("signals", "the names of the channels, separated by commas");
  }
  return CheckImageOptions(o.image);
}

absl::Status CheckOptions(const TrainOptions& o, const std::set<std::string>& given) {
  BFLOW_ASSIGN_OR_RETURN(const Preset preset, FindPreset(o.preset));
  if (o.data.empty()) return Bad("data", "at least one record, or file of images");
  BFLOW_RETURN_IF_ERROR(CheckFamily(o, preset.image.has_value(), given));
  BFLOW_RETURN_IF_ERROR(CheckOutput(o));
  if (o.device != "auto" && o.device != "cpu" && o.device != "cuda") {
    return Bad("device", "auto, cpu or cuda");
  }
  double used = o.train_fraction + o.validation_fraction + o.calibration_fraction;
  if (o.train_fraction <= 0) return Bad("train_fraction", "more than 0");
  if (used > 1 + 1e-9) return Bad("train_fraction", "fractions that sum to at most 1");
  if (!o.step.empty() && o.step.size() != 1 && o.step.size() != o.signals.size()) {
    return Bad("step", "one number, or one for each signal");
  }
  if (o.ema_scheme == EmaScheme::kAlternating && o.ema.value_or(preset.settings.ema_decay) <= 0) {
    return Bad("ema_scheme", "an --ema above 0 with alternating, 0.999 say");
  }
  if (o.keep == KeepCheckpoint::kBest && o.validation_fraction <= 0) {
    return Bad("checkpoint", "last where --validation_fraction is 0");
  }
  return absl::OkStatus();
}

// "--name=value" or "--name"; the name with `-` turned into `_`.
struct Flag {
  std::string name;
  std::optional<std::string> value;
};

absl::StatusOr<Flag> SplitFlag(const std::string& argument) {
  if (argument.size() < 3 || argument.compare(0, 2, "--") != 0) {
    return absl::InvalidArgumentError("expected a flag --name=value; see --help");
  }
  Flag flag;
  size_t equals = argument.find('=');
  flag.name = argument.substr(2, equals == std::string::npos ? equals : equals - 2);
  if (equals != std::string::npos) flag.value = argument.substr(equals + 1);
  std::replace(flag.name.begin(), flag.name.end(), '-', '_');
  return flag;
}

}  // namespace

absl::StatusOr<TrainOptions> ParseTrainOptions(const std::vector<std::string>& arguments) {
  TrainOptions options;
  std::map<std::string, FlagHandler> handlers = MakeHandlers(&options);
  std::set<std::string> given;
  for (size_t i = 0; i < arguments.size(); ++i) {
    BFLOW_ASSIGN_OR_RETURN(Flag flag, SplitFlag(arguments[i]));
    bool has_following = i + 1 < arguments.size() && arguments[i + 1].compare(0, 2, "--") != 0;
    if (flag.name == "help" && !flag.value) {
      options.help = true;
      return options;
    }
    // --version prints the program's version, --version=N and --version N name the model's.
    if (flag.name == "version" && !flag.value && !has_following) {
      options.print_version = true;
      return options;
    }
    given.insert(flag.name);
    if (flag.name == "resume" && !flag.value) {
      options.resume = true;
      continue;
    }
    auto handler = handlers.find(flag.name);
    if (handler == handlers.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat("unknown flag --", absl::CEscape(flag.name.substr(0, 64)), "; see --help"));
    }
    if (!flag.value && !has_following) return Bad(flag.name, "a value");
    if (!flag.value) flag.value = arguments[++i];
    BFLOW_RETURN_IF_ERROR(handler->second(*flag.value));
    // --data takes every value up to the next flag.
    while (flag.name == "data" && i + 1 < arguments.size() &&
           arguments[i + 1].compare(0, 2, "--") != 0) {
      options.data.push_back(arguments[++i]);
    }
  }
  BFLOW_RETURN_IF_ERROR(given.count("import") > 0 ? CheckImportOptions(options, given)
                                                  : CheckOptions(options, given));
  return options;
}

std::string TrainHelp() {
  std::string presets;
  for (const Preset& preset : Presets()) {
    absl::StrAppend(&presets, "    ", preset.name, ": ", preset.summary, "\n");
  }
  return absl::StrCat(
      "bflow-train [--preset=waveform] --data RECORD... --signals=A,B --out=REPOSITORY "
      "--model=NAME\n"
      "bflow-train --preset=NAME --data IMAGES... --out=REPOSITORY --model=NAME\n"
      "bflow-train --import=FILE --out=REPOSITORY --model=NAME [--version=N] [--licence] "
      "[--notes]\n"
      "Trains a model on WFDB records, or on images, and writes it to REPOSITORY/NAME/VERSION/.\n"
      "--name=value and --name value are the same, and so are _ and - in a flag's name.\n\n"
      "  --preset=NAME            architecture and training settings:\n",
      presets,
      "  --data RECORD...         WFDB records (paths without .hea), in order of time; for presets "
      "of\n"
      "                           images files and folders of images (docs/data.md), in their "
      "order\n"
      "  --signals=A,B            signal names, the channels of the model\n"
      "  --out=DIR --model=NAME   where the model goes\n"
      "  --version=N              its version (default: the next free one)\n"
      "  --spec=FILE              flow_spec (JSON) in place of the preset's architecture; event "
      "shape,\n"
      "                           channels, rate and sensitivity are those of the data and the "
      "flags\n"
      "  --dequantisation=uniform|variational\n"
      "                           variational: a layer in front, trained with the flow, moves the "
      "noise\n"
      "                           inside each code's cell (docs/math.md)\n"
      "  --window=1024 --hop=N    samples per window; distance of windows outside training "
      "(default: window)\n"
      "  --step=S[,S]             codes between neighbouring values of a channel (default 1)\n"
      "  --train_fraction=0.64 --validation_fraction=0.08 --calibration_fraction=0.08\n"
      "                           parts of the data by time (of images by their order); what is "
      "left\n"
      "                           is the test part\n"
      "  --steps --batch --learning_rate --warmup_steps --schedule=constant|cosine|exponential\n"
      "  --decay --ema --ema_scheme=polyak|alternating --validate_every\n"
      "                           replace the preset's settings; --decay is per step "
      "(exponential),\n"
      "                           --ema the decay of the moving average of the weights (0: none),\n"
      "                           of all weights (polyak) or of the butterflies' alone, which then "
      "have\n"
      "                           an optimiser of their own (alternating)\n"
      "  --butterfly_decay=G      that optimiser's rate is the learning rate times G per epoch\n"
      "  --draws=N                draws of the noise for the likelihood of the test part (default "
      "1,\n"
      "                           images 8)\n",
      ImageFlagsHelp(),
      "  --checkpoint=best|last   weights to keep (default: best by validation, last without one)\n"
      "  --checkpoint_every=N     also write REPOSITORY/NAME-vVERSION-steps/STEP/ every N steps;\n"
      "                           existing versions are never overwritten\n"
      "  --resume                 go on with this model's unfinished run, to the same bits as if "
      "it had\n"
      "                           not ended; starts one if there is none\n"
      "  --sensitivity=patient|none   patient (default; images: none): files readable by their "
      "owner only\n"
      "  --metrics_csv=FILE       a line per --validate_every steps (docs/training.md)\n"
      "  --licence=TEXT --notes=TEXT  for the model card\n"
      "  --import=FILE            train nothing: check this model.safetensors, add self-test rows "
      "and\n"
      "                           write the version folder (docs/import.md)\n"
      "  --seed=0 --help --version\n"
      "  --device=auto|cpu|cuda   auto: a GPU if there is one that works\n\n"
      "Ctrl-C ends training early and writes the model as it is (exit code 130); a second one ends "
      "the\nprogram at once and writes nothing. Every 200 steps (--checkpoint_every) and at Ctrl-C "
      "the "
      "state of\nthe run goes to DIR/.NAME.training, for --resume.\n"
      "A step whose loss or gradients are not finite is skipped and counted; 10 in a row end the "
      "training\nwith the last good weights.\n"
      "Exit codes: 0 done, 1 some records unusable (listed), 64 usage, 65 bad input data, 70 "
      "training\nfailed, 73 cannot write, 78 --device=cuda cannot be used, 130 interrupted.\n");
}

}  // namespace bflow
