//! What all requests share: the settings, the model once it is there, and the ways to stop.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use harmonium_engine::{AdapterId, Handle, SamplingParams, TokenId};
use harmonium_harmony::{Grammars, Tokenizer};
use harmonium_hosted::Hosted;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::config::ServerConfig;
use crate::error::{Error, Result, Unavailable};
use crate::metrics::Metrics;

/// The model this server answers with.
#[derive(Clone)]
pub struct LocalModel {
    /// The id under which `/v1/models` lists it and answers name it.
    pub name: String,
    /// Other ids that requests may use for it.
    pub aliases: Vec<String>,
    /// What its adapters are called, in the order of their ids: requests ask for one as `MODEL:ADAPTER`. They are all
    /// different, and none has a colon.
    pub adapters: Vec<String>,
    /// Its vocabulary.
    pub tokenizer: Tokenizer,
    /// The engine that runs it.
    pub engine: Handle,
    /// Sampling where a request says nothing: the model's own generation configuration.
    pub defaults: SamplingParams,
    /// Tokens that end an answer, from the model's generation configuration. The control tokens that end an
    /// answer in Harmony are added by the server.
    pub stop_tokens: Vec<TokenId>,
}

impl fmt::Debug for LocalModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalModel").field("name", &self.name).finish_non_exhaustive()
    }
}

impl LocalModel {
    /// Whether requests may call the model so.
    fn is_called(&self, name: &str) -> bool {
        self.names().any(|known| known == name)
    }

    /// Its name and its aliases.
    fn names(&self) -> impl Iterator<Item = &str> {
        let is_new = |alias: &&String| **alias != self.name;
        std::iter::once(&self.name).chain(self.aliases.iter().filter(is_new)).map(String::as_str)
    }
}

/// The local model as a request asks for it: as it is, or with one of its adapters.
#[derive(Debug, Clone)]
pub(crate) struct Variant {
    /// The id under which answers name it.
    pub(crate) name: Arc<str>,
    pub(crate) adapter: Option<AdapterId>,
}

/// A model with what follows from it.
#[derive(Debug)]
pub(crate) struct ReadyModel {
    pub(crate) model: LocalModel,
    /// Without an adapter.
    pub(crate) base: Variant,
    /// With each adapter, in the order of their ids.
    pub(crate) adapted: Vec<Variant>,
    pub(crate) stop_tokens: Arc<[TokenId]>,
    /// What holds answers to formats and calls.
    pub(crate) grammars: Grammars,
    /// When it became ready, in seconds since 1970.
    pub(crate) created: i64,
}

impl ReadyModel {
    pub(crate) fn new(model: LocalModel) -> Self {
        let control = model.tokenizer.control();
        let mut stop_tokens = model.stop_tokens.clone();
        stop_tokens.extend([control.return_, control.call]);
        stop_tokens.extend(control.endoftext);
        stop_tokens.sort_unstable();
        stop_tokens.dedup();
        let adapted = |(id, adapter)| Variant {
            name: format!("{}:{adapter}", model.name).into(),
            adapter: Some(AdapterId(id)),
        };
        Self {
            base: Variant { name: model.name.as_str().into(), adapter: None },
            adapted: (0..).zip(&model.adapters).map(adapted).collect(),
            stop_tokens: stop_tokens.into(),
            grammars: grammars(&model.tokenizer),
            created: unix_seconds(),
            model,
        }
    }

    /// What requests call so.
    pub(crate) fn find(&self, name: &str) -> Option<&Variant> {
        if self.model.is_called(name) {
            return Some(&self.base);
        }
        let (model, adapter) = name.rsplit_once(':')?;
        let index = self.model.adapters.iter().position(|known| known == adapter)?;
        self.model.is_called(model).then(|| &self.adapted[index])
    }

    /// All ids: its name, its aliases, and its name with each adapter.
    pub(crate) fn ids(&self) -> impl Iterator<Item = &str> {
        self.model.names().chain(self.adapted.iter().map(|variant| &*variant.name))
    }
}

/// Grammars for a vocabulary, which is read beside the first requests: the real one takes up to a second.
fn grammars(tokenizer: &Tokenizer) -> Grammars {
    let grammars = Grammars::new(tokenizer.clone());
    let prepared = grammars.clone();
    let builder = std::thread::Builder::new().name("vocabulary".to_owned());
    // Where there is no thread, the first grammar reads it.
    if let Err(error) = builder.spawn(move || prepared.prepare()) {
        tracing::warn!(%error, "the vocabulary is read later");
    }
    grammars
}

/// Shared by all requests of one server.
#[derive(Debug)]
pub(crate) struct AppState {
    pub(crate) config: ServerConfig,
    pub(crate) metrics: Metrics,
    pub(crate) model: Arc<OnceLock<ReadyModel>>,
    /// Absent where the hosted leg is off.
    pub(crate) hosted: Option<Arc<Hosted>>,
    /// Holds one token a running answer; closed once no more are taken.
    answers: TaskTracker,
    /// Ends all running answers.
    pub(crate) abort: CancellationToken,
    /// Bounds how many large requests are tokenized and grammars made at a time.
    pub(crate) heavy_work: Arc<Semaphore>,
}

impl AppState {
    pub(crate) fn new(config: ServerConfig, hosted: Option<Arc<Hosted>>) -> Self {
        let num_cores = std::thread::available_parallelism().map_or(1, usize::from);
        let model = Arc::new(OnceLock::new());
        Self {
            config,
            metrics: Metrics::new(Arc::clone(&model), hosted.clone()),
            model,
            hosted,
            answers: TaskTracker::new(),
            abort: CancellationToken::new(),
            heavy_work: Arc::new(Semaphore::new(num_cores)),
        }
    }

    /// The model, if it can answer now.
    pub(crate) fn ready(&self) -> Result<&ReadyModel> {
        let ready = self.loaded()?;
        match ready.model.engine.is_healthy() {
            true => Ok(ready),
            false => Err(Error::Unavailable(Unavailable::Stopped)),
        }
    }

    /// The model, if it or a hosted one that stands in for it can answer now.
    pub(crate) fn routable(&self) -> Result<&ReadyModel> {
        match self.hosted.is_some() && self.config.triggers.unhealthy {
            true => self.loaded(),
            false => self.ready(),
        }
    }

    /// The model, unless the server ends.
    fn loaded(&self) -> Result<&ReadyModel> {
        if self.answers.is_closed() {
            return Err(Error::Unavailable(Unavailable::Draining));
        }
        self.model.get().ok_or(Error::Unavailable(Unavailable::Loading))
    }

    /// Shutdown waits for the holder of the token.
    pub(crate) fn begin_answer(&self) -> TaskTrackerToken {
        self.answers.token()
    }

    /// Takes no more requests, waits for the running answers and ends those that take too long.
    pub(crate) async fn drain(&self, timeout: Duration) {
        self.answers.close();
        tracing::info!(answers = self.answers.len(), ?timeout, "draining");
        if tokio::time::timeout(timeout, self.answers.wait()).await.is_err() {
            tracing::warn!(answers = self.answers.len(), "ending the answers that still run");
            self.abort.cancel();
        }
    }
}

pub(crate) fn unix_seconds() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
