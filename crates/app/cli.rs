//! The command line: one variant a subcommand. Flags that set settings come from their declarations.

use std::num::NonZeroU32;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::settings::{Activations, Device, NamedAdapter, SettingsArgs, Value};

/// Serves GPT-OSS from one machine behind an OpenAI-compatible API.
#[derive(Debug, Parser)]
#[command(name = "harmonium", version, propagate_version = true)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve a model over HTTP.
    Serve(SettingsArgs),
    /// Talk to a model in the terminal.
    Chat(ChatArgs),
    /// Send the same requests to several models and report answers, times and costs side by side.
    Compare(CompareArgs),
    /// Download a model's weights, or what is missing of them, and verify them.
    Pull(PullArgs),
    /// List the models that can answer and those that are downloaded; verify or remove the latter.
    Models(ModelsArgs),
    /// Write a checkpoint of random weights in a published shape, to measure loading and speed without a download.
    Synth(SynthArgs),
    /// Hold every kernel of a GPU, and the whole model on it, against references.
    Check(CheckArgs),
    /// Measure speed.
    Bench(BenchArgs),
    /// Check and measure a GPU in one call of bounded time, and write a report.
    Gpu(GpuArgs),
    /// Show how a model would use the memory of a GPU; needs neither the GPU nor the model.
    Plan(PlanArgs),
    /// Write the logits of a token sequence to a file.
    Logits(LogitsArgs),
    /// Check machine, device, model, disk and configuration.
    Doctor(SettingsArgs),
    /// Show the settings in force and where each came from.
    Config(ConfigArgs),
}

/// Arguments of `harmonium chat`.
#[derive(Debug, Args)]
pub(crate) struct ChatArgs {
    /// Talk to this server, such as http://127.0.0.1:8000, instead of starting one.
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// Talk to this one of the server's models; otherwise to the first adapter of --adapter, or to the first model.
    #[arg(long, value_name = "ID")]
    pub(crate) talk_to: Option<String>,
    /// How much the model reasons before it answers.
    #[arg(long, value_name = "LEVEL", value_enum, default_value_t = EffortArg::Medium)]
    pub(crate) effort: EffortArg,
    /// Print the reasoning when the output is not a terminal, too.
    #[arg(long)]
    pub(crate) show_reasoning: bool,
    /// Settings of the server that is started.
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
}

/// Reasoning effort as it is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum EffortArg {
    /// Little.
    Low,
    /// The default.
    Medium,
    /// Much.
    High,
}

/// Arguments of `harmonium compare`.
#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// The requests, one a line: a user prompt as a JSON string, or an object with `prompt` or `messages`, any other
    /// fields of a chat request, and an `id` for the report. At most 10,000 in at most 64 MiB.
    #[arg(value_name = "PROMPTS.jsonl")]
    pub(crate) prompts: PathBuf,
    /// The models, separated by commas; GET /v1/models and `harmonium models --hosted` list them.
    #[arg(long, value_name = "A,B", value_delimiter = ',', required = true)]
    pub(crate) models: Vec<String>,
    /// Ask this server, such as http://127.0.0.1:8000, with the key in $HARMONIUM_API_KEY, instead of starting one.
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// Directory for report.json and report.html, which are replaced.
    #[arg(long, value_name = "DIR", default_value = "compare")]
    pub(crate) out: PathBuf,
    /// Number of requests in the month whose cost is estimated.
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    pub(crate) monthly_requests: u64,
    /// Settings of the server that is started.
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
}

/// Arguments of `harmonium pull`.
#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// gpt-oss-20b, gpt-oss-120b, or OWNER/NAME on the hub.
    #[arg(value_name = "NAME", default_value = "gpt-oss-120b")]
    pub(crate) model: String,
    /// Branch, tag or commit.
    #[arg(long, value_name = "REVISION", default_value = "main")]
    pub(crate) revision: String,
    /// Download to this cache instead of model.hf_cache, $HF_HUB_CACHE or $HF_HOME/hub.
    #[arg(long, value_name = "DIR")]
    pub(crate) cache_dir: Option<PathBuf>,
    /// The hub's address instead of $HF_ENDPOINT.
    #[arg(long, value_name = "URL")]
    pub(crate) endpoint: Option<String>,
    /// What to download beside what serving needs: the weights in OpenAI's own layout.
    #[arg(long, value_name = "WHAT", value_enum)]
    pub(crate) include: Option<Include>,
    /// Ranges downloaded at a time.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u8).range(1..=32))]
    pub(crate) jobs: u8,
    /// Print events as lines of JSON instead of progress.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What is not downloaded unless asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Include {
    /// The folder `original`.
    Original,
}

/// What to do with downloaded models.
#[derive(Debug, Subcommand)]
pub(crate) enum ModelsAction {
    /// Hash every file of a downloaded model again; damaged ones are removed with --repair.
    Verify {
        /// The model, as pull takes it.
        #[arg(value_name = "NAME")]
        model: String,
        /// Remove damaged files, so that the next pull downloads them.
        #[arg(long)]
        repair: bool,
    },
    /// Delete a downloaded model.
    Remove {
        /// The model, as pull takes it.
        #[arg(value_name = "NAME")]
        model: String,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
}

/// Arguments of `harmonium models`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct ModelsArgs {
    /// What to do instead of listing.
    #[command(subcommand)]
    pub(crate) action: Option<ModelsAction>,
    /// List the configured hosted models, too, whether or not they are enabled. Needs no key and sends nothing.
    #[arg(long)]
    pub(crate) hosted: bool,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
    /// The configuration to look at.
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
}

/// Arguments of `harmonium synth`.
#[derive(Debug, Args)]
pub(crate) struct SynthArgs {
    /// Whose shape.
    #[arg(long, value_name = "SHAPE", value_enum)]
    pub(crate) shape: ShapeArg,
    /// This many layers instead of all.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub(crate) layers: Option<u64>,
    /// Directory to write to: empty, or not there.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Write a LoRA adapter of this rank for the shape, as PEFT saves them, instead of a checkpoint.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1024), conflicts_with = "tokenizer")]
    pub(crate) lora_rank: Option<u64>,
    /// What the adapter changes.
    #[arg(long, value_name = "TARGETS", value_enum, default_value_t = LoraTargetsArg::All, requires = "lora_rank")]
    pub(crate) lora_targets: LoraTargetsArg,
    /// Chooses the values: the same seed gives the same bytes.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,
    /// The published vocabulary's tokenizer.json; otherwise nano's, of whose tokens all answers then consist.
    #[arg(long, value_name = "FILE")]
    pub(crate) tokenizer: Option<PathBuf>,
}

/// Published shapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ShapeArg {
    /// 24 layers of 32 experts, 13.8 GB.
    #[value(name = "gpt-oss-20b")]
    GptOss20b,
    /// 36 layers of 128 experts, 65.2 GB.
    #[value(name = "gpt-oss-120b")]
    GptOss120b,
}

/// Targets of a synthetic adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LoraTargetsArg {
    /// Queries, keys, values and attention's output.
    Attention,
    /// Also the router and both products of every expert.
    All,
}

/// Arguments of `harmonium check`.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// What to check: cuda, or host.
    #[arg(long, value_name = "DEVICE", default_value = "cuda", value_parser = device)]
    pub(crate) device: Device,
    /// Only the kernels, not whole forward passes.
    #[arg(long)]
    pub(crate) kernels: bool,
    /// Write what was found as JSON, too.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

/// Arguments of `harmonium gpu`.
#[derive(Debug, Args)]
pub(crate) struct GpuArgs {
    /// Directory for report.json and what each part printed.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// What to check and measure: cuda, or host.
    #[arg(long, value_name = "DEVICE", default_value = "cuda", value_parser = device)]
    pub(crate) device: Device,
    /// The model that is measured.
    #[arg(long, value_name = "NAME|DIR", default_value = "synthetic:gpt-oss-120b")]
    pub(crate) model: String,
    /// Time for everything together, in seconds. What does not fit is left out and said.
    #[arg(long, value_name = "N", default_value_t = 540, value_parser = clap::value_parser!(u32).range(10..=86_400))]
    pub(crate) seconds: u32,
    /// Measure the kernels among which the number of rows decides, side by side, too.
    #[arg(long)]
    pub(crate) variants: bool,
    /// Sequences that decode together.
    #[arg(
        long,
        value_name = "N,...",
        value_delimiter = ',',
        default_value = "1,2,4,8,16,32,64,128,256"
    )]
    pub(crate) batch: Vec<NonZeroU32>,
    /// Tokens before those that are decoded.
    #[arg(
        long,
        value_name = "N,...",
        value_delimiter = ',',
        default_value = "0,1024,8192,32768,131071"
    )]
    pub(crate) context: Vec<u32>,
    /// Lengths of prompts.
    #[arg(
        long,
        value_name = "N,...",
        value_delimiter = ',',
        default_value = "512,2048,8192,32768"
    )]
    pub(crate) prefill: Vec<NonZeroU32>,
    /// Steps of each decoding that are counted.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) steps: u32,
}

/// Arguments of `harmonium bench`.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Of what.
    #[command(subcommand)]
    pub(crate) action: BenchAction,
}

/// What is measured.
#[derive(Debug, Subcommand)]
pub(crate) enum BenchAction {
    /// The model alone, without scheduler and HTTP: decode and prefill, against what memory allows.
    Engine(BenchEngineArgs),
    /// Kernels that do the same for different numbers of rows, side by side, on a device.
    Kernels(BenchKernelsArgs),
    /// A start of the server with its files on the disk, and with them in memory: time to ready, to the first token, memory.
    Load(BenchLoadArgs),
}

/// Arguments of `harmonium bench kernels`.
#[derive(Debug, Args)]
pub(crate) struct BenchKernelsArgs {
    /// Whose widths.
    #[arg(long, value_name = "NAME|DIR", default_value = "synthetic:gpt-oss-120b")]
    pub(crate) model: String,
    /// What to run on: cuda, or host.
    #[arg(long, value_name = "DEVICE", default_value = "cuda", value_parser = device)]
    pub(crate) device: Device,
    /// Rows of a step.
    #[arg(
        long,
        value_name = "N,...",
        value_delimiter = ',',
        default_value = "1,8,16,32,64,128,256,512"
    )]
    pub(crate) rows: Vec<NonZeroU32>,
    /// Write the figures as JSON, too.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

/// Arguments of `harmonium bench load`.
#[derive(Debug, Args)]
pub(crate) struct BenchLoadArgs {
    /// "nano", a directory with weights, or a name in the Hugging Face cache.
    #[arg(long, value_name = "NAME|DIR", default_value = "nano")]
    pub(crate) model: String,
    /// What to run on: cpu, cuda, host, or auto.
    #[arg(long, value_name = "DEVICE", default_value = "auto", value_parser = device)]
    pub(crate) device: Device,
    /// Longest sequence in tokens; the model's own bound if not given.
    #[arg(long, value_name = "N")]
    pub(crate) context: Option<NonZeroU32>,
    /// Write the figures as JSON, too.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

/// Arguments of `harmonium bench engine`.
#[derive(Debug, Args)]
pub(crate) struct BenchEngineArgs {
    /// "nano", a directory with weights, a name in the Hugging Face cache, or (on a device) synthetic:gpt-oss-120b.
    #[arg(long, value_name = "NAME|DIR", default_value = "nano")]
    pub(crate) model: String,
    /// What to run on: cpu, cuda, host, or auto.
    #[arg(long, value_name = "DEVICE", default_value = "auto", value_parser = device)]
    pub(crate) device: Device,
    /// How finely the processor rounds activations before they meet MXFP4 weights: float32, int16 or int8.
    #[arg(long, value_name = "float32|int16|int8", default_value = "int16", value_parser = activations)]
    pub(crate) activations: Activations,
    /// A LoRA adapter that PEFT has saved; may be given more than once. Sequences take them in turn, prompts the first. What
    /// is read of them is not counted.
    #[arg(long, value_name = "NAME=DIR", value_parser = NamedAdapter::parse)]
    pub(crate) adapter: Vec<NamedAdapter>,
    /// Sequences that decode together.
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "1,2,4,8,16")]
    pub(crate) batch: Vec<NonZeroU32>,
    /// Tokens before those that are decoded.
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "0,1024")]
    pub(crate) context: Vec<u32>,
    /// Lengths of prompts.
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "512,2048")]
    pub(crate) prefill: Vec<NonZeroU32>,
    /// Steps of each decoding that are counted, after two that are not.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) steps: u32,
    /// Say for every batch and context where a step's time goes, not only for the first context's first and last batch.
    #[arg(long)]
    pub(crate) per_kernel: bool,
    /// Begin no measurement after this many seconds.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub(crate) seconds: Option<u32>,
    /// Write the figures as JSON, too.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

/// Arguments of `harmonium plan`.
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// gpt-oss-120b, gpt-oss-20b, "nano", a directory with weights, or a name in the Hugging Face cache.
    #[arg(long, value_name = "NAME|DIR", default_value = "gpt-oss-120b")]
    pub(crate) model: String,
    /// Memory of the GPU, such as 80GB or 81559MiB. As makers of GPUs count, a GB is 1,024 MiB here.
    #[arg(long, value_name = "SIZE", default_value = "81559MiB", value_parser = memory_size)]
    pub(crate) gpu_memory: u64,
    /// Longest prompt and answer together, in tokens, instead of the model's own limit.
    #[arg(long, value_name = "TOKENS")]
    pub(crate) context: Option<NonZeroU32>,
    /// Most sequences in one step.
    #[arg(long, value_name = "N")]
    pub(crate) max_sequences: Option<NonZeroU32>,
    /// Most rows in one step.
    #[arg(long, value_name = "N")]
    pub(crate) max_rows: Option<NonZeroU32>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Arguments of `harmonium logits`.
#[derive(Debug, Args)]
pub(crate) struct LogitsArgs {
    /// Directory with weights, a name in the Hugging Face cache, or "nano".
    #[arg(long, value_name = "NAME|DIR")]
    pub(crate) model: String,
    /// A LoRA adapter that PEFT has saved, for all tokens.
    #[arg(long, value_name = "NAME=DIR", value_parser = NamedAdapter::parse)]
    pub(crate) adapter: Option<NamedAdapter>,
    /// What to run on: cpu, cuda, host, or auto.
    #[arg(long, value_name = "DEVICE", default_value = "cpu", value_parser = device)]
    pub(crate) device: Device,
    /// How finely the processor rounds activations before they meet MXFP4 weights: float32, int16 or int8.
    #[arg(long, value_name = "float32|int16|int8", default_value = "float32", value_parser = activations)]
    pub(crate) activations: Activations,
    /// Token ids, separated by commas.
    #[arg(
        long,
        value_name = "IDS",
        value_delimiter = ',',
        required_unless_present = "tokens_file"
    )]
    pub(crate) tokens: Vec<u32>,
    /// A JSON file with a list of token ids.
    #[arg(long, value_name = "FILE", conflicts_with = "tokens")]
    pub(crate) tokens_file: Option<PathBuf>,
    /// Where to write tensor `logits`, float32 [tokens, vocabulary], in safetensors format.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// Prefill in chunks of this many tokens instead of all at once.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) chunk: Option<u32>,
    /// Decode this many of the last tokens one by one through the key-value cache.
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) decode_last: Option<u32>,
}

/// Arguments of `harmonium config`.
#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    /// Print an annotated configuration file with all defaults instead.
    #[arg(long)]
    pub(crate) annotated: bool,
    /// The layers to look at.
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
}

fn device(text: &str) -> Result<Device, String> {
    Device::from_text(text).ok_or_else(|| format!("not one of {}", Device::kind()))
}

fn activations(text: &str) -> Result<Activations, String> {
    Activations::from_text(text).ok_or_else(|| format!("not one of {}", Activations::kind()))
}

/// A number with a unit: MB and MiB are 2^20 bytes, GB and GiB 2^30.
fn memory_size(text: &str) -> Result<u64, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "mb" | "mib" => 1 << 20,
        "gb" | "gib" => 1 << 30,
        _ => return Err("not a number with MB, MiB, GB or GiB, such as 80GB".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "it does not begin with a number".to_owned())?;
    number.checked_mul(factor).ok_or_else(|| "more than a number of bytes can be".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn settings_flags_are_checked_when_parsed() {
        assert!(Cli::try_parse_from(["harmonium", "serve", "--port", "0"]).is_ok());
        let error = Cli::try_parse_from(["harmonium", "serve", "--port", "x"]).unwrap_err();
        assert!(error.to_string().contains("a whole number from 0 to 65535"), "{error}");
    }

    #[test]
    fn memory_sizes_count_as_makers_of_gpus_do() {
        assert_eq!(memory_size("80GB"), Ok(80 << 30));
        assert_eq!(memory_size("81559 MiB"), Ok(81_559 << 20));
        assert_eq!(memory_size("12"), Ok(12));
        for bad in ["", "GB", "80TB", "-1GB", "99999999999999999999"] {
            assert!(memory_size(bad).is_err(), "{bad}");
        }
    }
}
