//! The engine's statistics, read at each scrape.

use std::fmt;
use std::sync::{Arc, OnceLock};

use harmonium_engine::Stats;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::state::ReadyModel;

/// Reads the engine of a model once there is one.
#[derive(Debug)]
pub(super) struct EngineCollector {
    model: Arc<OnceLock<ReadyModel>>,
}

impl EngineCollector {
    pub(super) fn new(model: Arc<OnceLock<ReadyModel>>) -> Self {
        Self { model }
    }
}

impl Collector for EngineCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let ready = self.model.get();
        let is_ready = ready.is_some_and(|ready| ready.model.engine.is_healthy());
        let help = "Whether the model is loaded and its engine runs";
        gauge(&mut encoder, "ready", help, usize::from(is_ready))?;
        let Some(ready) = ready else { return Ok(()) };
        let stats = ready.model.engine.stats();
        gauge(&mut encoder, "running", "Sequences that hold blocks", stats.running)?;
        gauge(&mut encoder, "waiting", "Requests that wait for blocks", stats.waiting)?;
        let help = "Blocks held by sequences, cached free ones not counted";
        let used = [("full", stats.full_blocks_used), ("window", stats.window_blocks_used)];
        by_label(&mut encoder, "kv_blocks_used", help, "group", used.map(as_gauge))?;
        let total = [("full", stats.full_blocks_total), ("window", stats.window_blocks_total)];
        by_label(&mut encoder, "kv_blocks", "Blocks there are", "group", total.map(as_gauge))?;
        counters(&mut encoder, &stats)
    }
}

fn counters(encoder: &mut DescriptorEncoder, stats: &Stats) -> fmt::Result {
    let outcomes = [
        ("finished", ConstCounter::new(stats.finished)),
        ("cancelled", ConstCounter::new(stats.cancelled)),
        ("failed", ConstCounter::new(stats.failed)),
    ];
    let help = "Sequences that ended, by outcome";
    by_label(encoder, "sequences", help, "outcome", outcomes)?;
    for (name, help, value) in [
        ("prompt_tokens", "Prompt tokens admitted, cached ones included", stats.prompt_tokens),
        ("prefix_cache_hit_tokens", "Prompt tokens found in the prefix cache", stats.cached_tokens),
        ("generated_tokens", "Tokens generated", stats.generated_tokens),
        ("preemptions", "Sequences that gave their blocks back for a while", stats.preemptions),
        ("steps", "Steps of the engine", stats.steps),
        ("step_failures", "Steps that failed", stats.step_failures),
    ] {
        let counter = ConstCounter::new(value);
        counter.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
    }
    Ok(())
}

fn gauge(encoder: &mut DescriptorEncoder, name: &str, help: &str, value: usize) -> fmt::Result {
    let ((), gauge) = as_gauge(((), value));
    gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)
}

/// Numbers of blocks and sequences are far below `i64::MAX`.
fn as_gauge<L>((label, value): (L, usize)) -> (L, ConstGauge<i64>) {
    (label, ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)))
}

fn by_label<M: EncodeMetric, const N: usize>(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    label: &'static str,
    values: [(&'static str, M); N],
) -> fmt::Result {
    let kind = values.first().map_or(MetricType::Unknown, |(_, metric)| metric.metric_type());
    let mut family = encoder.encode_descriptor(name, help, None, kind)?;
    for (value, metric) in values {
        metric.encode(family.encode_family(&[(label, value)])?)?;
    }
    Ok(())
}
