//! Every setting of the server, declared once: name, type, default, documentation, flag.
//!
//! From the declarations below come the typed [`Settings`], the keys of the configuration file, the names of
//! the environment variables (`server.port` is `HARMONIUM_SERVER_PORT`), the flags of the command line, the
//! annotated file `configs/harmonium.toml` and the table that `harmonium config` prints. Values come from the
//! defaults, then the file, then the environment, then flags; the last one given is in force (see [`layers`]).
//! What a value means is not known here: modules that use a setting translate it.

mod adapters;
mod annotated;
mod declare;
mod file;
mod flags;
mod hosted;
mod layers;
mod value;

use std::path::PathBuf;

pub(crate) use adapters::{Adapters, NamedAdapter};
pub(crate) use annotated::annotated;
pub(crate) use declare::{Section, Setting};
pub(crate) use flags::SettingsArgs;
pub(crate) use hosted::{BudgetLimits, HostedModel, HostedModels, PriceList, Wire};
pub(crate) use layers::{Origin, Resolved};
pub(crate) use value::{Activations, Auto, Device, LogFormat, OrNone, Positive, Value};

declare::settings! {
    /// Where and how requests come in.
    server: ServerSettings {
        /// Address to listen on. 127.0.0.1 is this machine alone; 0.0.0.0 is every network it is in.
        host: String = "127.0.0.1".to_owned(), flag "host" "ADDRESS";
        /// Port to listen on; 0 takes a free one and prints it.
        port: u16 = 8000, flag "port" "PORT";
        /// Origins that a browser may call from, such as "http://localhost:3000"; "*" allows all.
        cors_origins: Vec<String> = Vec::new();
        /// File with the keys that clients must send as "Authorization: Bearer KEY": one a line, lines that start
        /// with # are ignored. none lets everyone in.
        api_key_file: OrNone<PathBuf> = OrNone::None, flag "api-key-file" "FILE";
        /// Most connections at a time; more wait until one ends.
        max_connections: Positive = Positive::of(1024);
        /// Longest wait for a request on a connection, first or next, in seconds; then it is closed.
        idle_timeout_s: Positive = Positive::of(60);
        /// Largest accepted request body, in MiB.
        max_body_mib: Positive = Positive::of(32);
        /// How long running answers may go on after the first SIGTERM or Ctrl-C, in seconds. A second one
        /// ends them at once.
        drain_timeout_s: u32 = 30;
        /// Silence after which a waiting stream gets a comment, in seconds, so that proxies keep it open.
        keep_alive_s: Positive = Positive::of(10);
        /// Most tokens of an answer whose request names no limit.
        default_max_tokens: Positive = Positive::of(32_768);
        /// Send reasoning as `reasoning_content` as well as `reasoning`: clients read one or the other.
        reasoning_content: bool = true;
        /// What is logged: off, error, warn, info, debug or trace, or a filter such as "info,harmonium_engine=debug".
        log: String = "info".to_owned(), flag "log" "FILTER", env "HARMONIUM_LOG";
        /// How log lines on stderr look: text or json.
        log_format: LogFormat = LogFormat::Text;
    }

    /// How requests share the model.
    engine: EngineSettings {
        /// Most requests that may wait for their first step; one more is answered with status 429.
        max_waiting: Positive = Positive::of(256);
        /// Most sequences that generate in one step; auto is 64 on the processor and 256 on a GPU.
        max_sequences: Auto<Positive> = Auto::Auto;
        /// Most tokens in one step, prompt chunks and generated tokens together; auto is 512 on the processor and 2048
        /// on a GPU.
        max_rows: Auto<Positive> = Auto::Auto;
        /// Memory of the key-value cache, shared by all sequences, in MiB: auto is what one sequence of full
        /// length needs, at most a quarter of the free memory.
        kv_cache_mib: Auto<Positive> = Auto::Auto;
        /// Keep the keys and values of finished prompts, so that a later one starting the same way is faster.
        prefix_cache: bool = true;
    }

    /// Which model answers, and on what.
    model: ModelSettings {
        /// "nano" (inside this program), a directory with weights, or a name in the Hugging Face cache such as
        /// gpt-oss-20b or OWNER/NAME. "synthetic:gpt-oss-120b" and "synthetic:gpt-oss-20b" are random weights made
        /// on a GPU, to measure speed without a download.
        name: String = "nano".to_owned(), flag "model" "NAME|DIR";
        /// LoRA adapters that PEFT has saved, each as "NAME=DIR"; requests ask for one as MODEL:NAME. The flag may be
        /// given more than once.
        adapters: Adapters = Adapters::default(), flag "adapter" "NAME=DIR";
        /// What the model runs on: auto (a GPU if this build and this machine have one, else the processor), cpu, cuda, or
        /// host, which runs the GPU's kernels on the processor for developers.
        device: Device = Device::Auto, flag "device" "auto|cpu|cuda|host";
        /// How finely the processor rounds activations, each 32 by their greatest, before they meet MXFP4 weights: int16
        /// keeps 15 bits (logits within 3e-4 of float32); float32 errs no more than float32 sums do, and is slower; int8
        /// keeps 7 bits (logits within 1e-2, where magnitudes are a trained model's) and reads prompts faster.
        activations: Activations = Activations::Int16, flag "activations" "float32|int16|int8";
        /// Longest prompt and answer together, in tokens; auto is the model's own limit.
        context_len: Auto<Positive> = Auto::Auto, flag "context" "TOKENS";
        /// Threads of the arithmetic; auto is one for each core.
        num_threads: Auto<Positive> = Auto::Auto, flag "threads" "N";
        /// Directory of the Hugging Face cache; auto is HF_HUB_CACHE, HF_HOME/hub or ~/.cache/huggingface/hub.
        hf_cache: Auto<PathBuf> = Auto::Auto;
    }

    /// Models on other people's machines, for what the local one cannot answer. Off unless enabled.
    hosted: HostedSettings {
        /// Whether requests may leave this machine at all. Where there is a server.api_key_file, only those of keys
        /// that are marked there do; a request can forbid it with the header "x-harmonium-hosted: never".
        enabled: bool = false;
        /// Where a request goes that does not fit the local context: the name of one of the models.
        default: String = "gpt-4.1-mini".to_owned();
        /// What may be spent, in US dollars; days and months are those of UTC. A request's worst case is set aside
        /// before it is sent and corrected by what the hosted model reports.
        budget: BudgetLimits = BudgetLimits::careful();
        /// File in which spending is recorded: auto is $XDG_DATA_HOME/harmonium/ledger.db or the same under
        /// ~/.local/share.
        ledger: Auto<PathBuf> = Auto::Auto;
        /// Regular expressions of what is replaced by "[redacted]" in every text that is sent. Where they match a field's
        /// name, a function's name or the id of a call, nothing is sent; with any of them, no image is.
        redact: Vec<String> = Vec::new();
        /// Send requests with images to the hosted model; the local one reads text only, and refuses them.
        when_images: bool = false;
        /// While more requests than that wait for the local model, further ones go to the hosted one.
        when_waiting: OrNone<Positive> = OrNone::None;
        /// Let the hosted model stand in when the local engine fails, instead of ending the server.
        when_unhealthy: bool = false;
        /// Most requests to hosted models at a time, from the first work on them to the end of their answers; one more is
        /// answered with status 429. Each may hold a whole body in memory (server.max_body_mib) until its answer begins.
        max_in_flight: Positive = Positive::of(64);
        /// Longest wait for a connection, in seconds.
        connect_timeout_s: Positive = Positive::of(10);
        /// Longest wait for the beginning of an answer, in seconds. A million tokens take a while to read. Nothing is
        /// sent to the client before, so proxies in front of this server need as much patience.
        first_chunk_timeout_s: Positive = Positive::of(180);
        /// Longest silence within an answer, in seconds. Models that reason without showing it need more.
        chunk_timeout_s: Positive = Positive::of(60);
        /// Most tries of one request, the first included. Nothing is tried again once its answer has begun.
        max_attempts: Positive = Positive::of(3);
        /// So many failures in a row, and a hosted model is left alone for a while.
        breaker_failures: Positive = Positive::of(5);
        /// How long it is left alone, in seconds.
        breaker_cooldown_s: Positive = Positive::of(30);
        /// The models; each may also be written as a table [[hosted.models]]. context and max_output are in tokens,
        /// prices in US dollars per million tokens; plain http is for addresses of this machine only. image_tokens is the
        /// most that one image counts for, reasoning = true sends the effort, drop = ["temperature"] names fields that
        /// the model does not take; wire is "chat" or "responses".
        models: HostedModels = HostedModels::published();
    }
}
