//! The wiring: a model in an engine in a server, the same for every subcommand that needs one.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use harmonium_engine::{EngineConfig, SamplingParams};
use harmonium_harmony::Tokenizer;
use harmonium_model::profile::Profile;
use harmonium_model::{
    Adapter, Checkpoint, Config, CpuExecutor, CpuOptions, CudaExecutor, CudaOptions, Generation,
    Precision,
};
use harmonium_server::{ApiKey, LocalModel, Server, ServerConfig};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::environment::Environment;
use crate::machine::{Memory, gib};
use crate::place::Place;
use crate::progress::Task;
use crate::settings::{Activations, OrNone, Settings};
use crate::{adapters, find, hosted, machine, progress};

const MIB: u64 = 1 << 20;

/// A server that answers, and what it answers with.
pub(crate) struct Stack {
    address: SocketAddr,
    model: LocalModel,
    place: Place,
    shutdown: CancellationToken,
    serving: JoinHandle<()>,
}

impl Stack {
    /// Serves on `listener` at once, loads the model and returns when it is ready. Cancelling `shutdown` ends
    /// the server in good order.
    pub(crate) async fn start(
        settings: &Settings,
        environment: &Environment,
        listener: TcpListener,
        shutdown: CancellationToken,
    ) -> Result<Self> {
        let place = Place::of(settings.model.device)?;
        adapters::check(settings)?;
        let address = listener.local_addr().context("the listener has no address")?;
        let hosted = hosted::start(settings, environment)?;
        let server = Server::new(server_config(settings)?, hosted.map(Arc::new))?;
        let serving = {
            let (server, shutdown) = (server.clone(), shutdown.clone());
            tokio::spawn(async move { server.serve(listener, shutdown.cancelled_owned()).await })
        };
        let task = Task::new(format!("loading {}", settings.model.name));
        let loading = {
            let (settings, environment) = (settings.clone(), environment.clone());
            let (place, task) = (place.clone(), Arc::clone(&task));
            tokio::task::spawn_blocking(move || load(&settings, &environment, &place, &task))
        };
        let model = progress::during(&task, loading).await.context("loading panicked")??;
        server.set_ready(model.clone());
        Ok(Self { address, model, place, shutdown, serving })
    }

    /// Where it listens.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What it answers with.
    pub(crate) fn model(&self) -> &LocalModel {
        &self.model
    }

    /// What the model runs on, for people.
    pub(crate) fn device(&self) -> &str {
        self.place.name()
    }

    /// Waits until the server has ended.
    pub(crate) async fn wait(self) -> Result<()> {
        let result = self.serving.await.context("the server panicked");
        self.model.engine.stop();
        result
    }

    /// Ends the server in good order.
    pub(crate) async fn end(self) -> Result<()> {
        self.shutdown.cancel();
        self.wait().await
    }
}

/// Runs a subcommand's future to its end.
pub(crate) fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let result = runtime.block_on(future);
    // A thread that reads stdin or loads a model must not hold up the end.
    runtime.shutdown_background();
    result
}

/// Loads the configured model and starts its engine. Blocks while it reads.
fn load(
    settings: &Settings,
    environment: &Environment,
    place: &Place,
    task: &Task,
) -> Result<LocalModel> {
    let checkpoint = Checkpoint::from_source(&find::configured(settings, environment)?)?;
    let tokenizer = Tokenizer::from_bytes(checkpoint.tokenizer_json()?)
        .context("cannot read the model's tokenizer")?;
    let adapters = adapters::open_all(settings, checkpoint.config())?;
    let executor = executor(settings, &checkpoint, adapters, &tokenizer, place, task)?;
    let config = EngineConfig {
        max_waiting: settings.engine.max_waiting.get().try_into()?,
        prefix_cache: settings.engine.prefix_cache,
    };
    let (name, aliases) = names(&settings.model.name);
    let generation = checkpoint.generation();
    Ok(LocalModel {
        name,
        aliases,
        adapters: settings.model.adapters.0.iter().map(|adapter| adapter.name.clone()).collect(),
        tokenizer,
        engine: harmonium_engine::start(executor, config),
        defaults: sampling_defaults(generation),
        stop_tokens: generation.eos_token_ids.clone(),
    })
}

/// The executor of the configured model. `task` is told of the weights' way
/// to the device.
pub(crate) fn executor(
    settings: &Settings,
    checkpoint: &Checkpoint,
    adapters: Vec<Adapter>,
    tokenizer: &Tokenizer,
    place: &Place,
    task: &Task,
) -> Result<Box<dyn Profile>> {
    check_place(settings, checkpoint, place)?;
    Ok(match place {
        Place::Cpu => {
            let options = cpu_options(settings, checkpoint.config(), tokenizer)?;
            if let Some(memory) = machine::memory() {
                let weights = adapters.iter().map(Adapter::num_bytes).sum::<u64>();
                check_memory(checkpoint.num_bytes() + weights, options.kv_bytes, memory)?;
            }
            Box::new(CpuExecutor::new(checkpoint, &options)?.with_adapters(adapters))
        }
        Place::Device(device) => {
            let options = device_options(settings, checkpoint.config(), tokenizer, place)?;
            task.expect(checkpoint.num_bytes());
            let progress = |num_bytes| task.advance(num_bytes);
            Box::new(CudaExecutor::new(device, checkpoint, &adapters, &options, &progress)?)
        }
    })
}

/// Refuses weights that cannot be where they are wanted.
pub(crate) fn check_place(
    settings: &Settings,
    checkpoint: &Checkpoint,
    place: &Place,
) -> Result<()> {
    if checkpoint.is_synthetic() && place.device().is_none() {
        bail!(
            "{}: synthetic weights are made on a device (--device cuda); for the processor, `harmonium synth` writes \
             the same to files",
            settings.model.name
        );
    }
    Ok(())
}

fn device_options(
    settings: &Settings,
    config: &Config,
    tokenizer: &Tokenizer,
    place: &Place,
) -> Result<CudaOptions> {
    let CudaOptions { max_rows, max_sequences, .. } = CudaOptions::default();
    let mut options = CudaOptions {
        context_len: settings.model.context_len.as_ref().map(|len| len.get()),
        kv_bytes: settings.engine.kv_cache_mib.as_ref().map(|mib| u64::from(mib.get()) * MIB),
        max_rows: settings.engine.max_rows.as_ref().map_or(max_rows, |rows| rows.get()),
        max_sequences: settings.engine.max_sequences.as_ref().map_or(max_sequences, |n| n.get()),
        num_tokens: Some(tokenizer.vocab_size().try_into()?),
    };
    // A card is there for nothing else; the host device shares the memory of this machine.
    if options.kv_bytes.is_none() && place.is_host() {
        options.kv_bytes = Some(options.kv_bytes_for_one_context(config));
    }
    Ok(options)
}

/// Refuses what would be read from the disk again and again: the mapped weights and the key-value cache must fit
/// the memory together, beside what other processes hold.
fn check_memory(weights: u64, kv: u64, memory: Memory) -> Result<()> {
    // The kernel counts the page cache, in which mapped weights lie, as available.
    if weights.saturating_add(kv) <= memory.available {
        return Ok(());
    }
    let [weights, kv, available, total] = [weights, kv, memory.available, memory.total].map(gib);
    bail!(
        "not enough memory: {weights} of weights and {kv} of key-value cache (engine.kv_cache_mib), but {available} of \
         {total} are available; serve a smaller model, or free memory"
    )
}

/// What the setting means to the model.
pub(crate) fn precision(activations: Activations) -> Precision {
    match activations {
        Activations::Float32 => Precision::Float32,
        Activations::Int16 => Precision::Int16,
        Activations::Int8 => Precision::Int8,
    }
}

fn cpu_options(settings: &Settings, config: &Config, tokenizer: &Tokenizer) -> Result<CpuOptions> {
    let num_threads = settings.model.num_threads.as_ref().map(|n| n.get().try_into());
    let defaults = CpuOptions::default();
    let mut options = CpuOptions {
        context_len: settings.model.context_len.as_ref().map(|len| len.get()),
        max_rows: settings.engine.max_rows.as_ref().map_or(defaults.max_rows, |rows| rows.get()),
        max_sequences: settings
            .engine
            .max_sequences
            .as_ref()
            .map_or(defaults.max_sequences, |number| number.get()),
        num_threads: num_threads.transpose()?,
        num_tokens: Some(tokenizer.vocab_size().try_into()?),
        precision: precision(settings.model.activations),
        ..defaults
    };
    options.kv_bytes = match settings.engine.kv_cache_mib.as_ref() {
        Some(mib) => u64::from(mib.get()) * MIB,
        None => {
            let quarter = machine::memory().map_or(u64::MAX, |memory| memory.available / 4);
            options.kv_bytes_for_one_context(config).min(quarter)
        }
    };
    Ok(options)
}

/// The id of a model by the name it was asked for, and its other ids.
pub(crate) fn names(asked: &str) -> (String, Vec<String>) {
    let id = Path::new(asked)
        .file_name()
        .map_or_else(|| asked.to_owned(), |name| name.to_string_lossy().into_owned());
    let mut aliases = Vec::new();
    if asked != id {
        aliases.push(asked.to_owned());
    }
    let published = format!("openai/{id}");
    if id.starts_with("gpt-oss-") && published != asked {
        aliases.push(published);
    }
    (id, aliases)
}

/// Sampling where a request says nothing: what the checkpoint recommends.
fn sampling_defaults(generation: &Generation) -> SamplingParams {
    if !generation.do_sample {
        return SamplingParams::greedy();
    }
    SamplingParams {
        temperature: generation.temperature,
        top_p: generation.top_p,
        top_k: generation.top_k,
        ..SamplingParams::default()
    }
}

fn server_config(settings: &Settings) -> Result<ServerConfig> {
    let server = &settings.server;
    let seconds = |count: u32| Duration::from_secs(count.into());
    let api_keys = match &server.api_key_file {
        OrNone::Set(path) => read_keys(path)?,
        OrNone::None => Vec::new(),
    };
    Ok(ServerConfig {
        api_keys,
        triggers: hosted::triggers(settings)?,
        cors_origins: server.cors_origins.clone(),
        max_connections: server.max_connections.get().try_into()?,
        idle_timeout: seconds(server.idle_timeout_s.get()),
        max_body_bytes: usize::try_from(u64::from(server.max_body_mib.get()) << 20)?,
        keep_alive_interval: seconds(server.keep_alive_s.get()),
        drain_timeout: seconds(server.drain_timeout_s),
        reasoning_content: server.reasoning_content,
        default_max_tokens: server.default_max_tokens.get(),
        ..ServerConfig::default()
    })
}

/// The keys of a file: one a line, without comments and empty lines; `hosted` behind a key lets its requests go
/// to hosted models. A file without a key would lock everybody out or let everybody in, so it is an error.
fn read_keys(path: &Path) -> Result<Vec<ApiKey>> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("server.api_key_file: cannot read {}", path.display()))?;
    let mut keys = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let may_host = match *words {
            [] => continue,
            [key, ..] if key.starts_with('#') => continue,
            [_] => false,
            [_, "hosted"] => true,
            // Not shown: it may be part of a key.
            _ => bail!(
                "server.api_key_file: {}:{} has more than a key and the word \"hosted\"",
                path.display(),
                index + 1
            ),
        };
        keys.push(ApiKey { key: words[0].to_owned(), may_host });
    }
    if keys.is_empty() {
        bail!("server.api_key_file: {} has no key", path.display());
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_the_memory_is_refused_with_numbers() {
        let memory = Memory { total: 16 << 30, available: 14 << 30 };
        check_memory(12 << 30, 2 << 30, memory).unwrap();
        let message = check_memory(12 << 30, 3 << 30, memory).unwrap_err().to_string();
        for number in ["12.0 GiB", "3.0 GiB", "14.0 GiB", "16.0 GiB"] {
            assert!(message.contains(number), "{message}");
        }
    }

    #[test]
    fn model_ids_are_short_and_the_asked_name_still_works() {
        let check = |asked: &str, id: &str, aliases: &[&str]| {
            let aliases: Vec<String> = aliases.iter().map(|&alias| alias.into()).collect();
            assert_eq!(names(asked), (id.to_owned(), aliases));
        };
        check("nano", "nano", &[]);
        check("gpt-oss-20b", "gpt-oss-20b", &["openai/gpt-oss-20b"]);
        check("openai/gpt-oss-20b", "gpt-oss-20b", &["openai/gpt-oss-20b"]);
        check("/models/mine/", "mine", &["/models/mine/"]);
    }

    #[test]
    fn key_file_must_have_a_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        std::fs::write(&path, "# mine\n\n  abc \nx#y  hosted\n").unwrap();
        let key = |key: &str, may_host| ApiKey { key: key.to_owned(), may_host };
        assert_eq!(read_keys(&path).unwrap(), [key("abc", false), key("x#y", true)]);
        std::fs::write(&path, "abc secret\n").unwrap();
        let message = read_keys(&path).unwrap_err().to_string();
        assert!(message.contains("keys:1") && !message.contains("secret"), "{message}");
        std::fs::write(&path, "# none yet\n").unwrap();
        assert!(read_keys(&path).unwrap_err().to_string().ends_with("has no key"));
    }
}
