//! The hosted models' states, read at each scrape.

use std::fmt;
use std::sync::Arc;

use harmonium_hosted::{BreakerState, Hosted};
use jiff::tz::TimeZone;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

/// Reads the state of each hosted model.
#[derive(Debug)]
pub(super) struct HostedCollector {
    hosted: Arc<Hosted>,
}

impl HostedCollector {
    pub(super) fn new(hosted: Arc<Hosted>) -> Self {
        Self { hosted }
    }
}

impl Collector for HostedCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let help = "State of a hosted model: 0 it answers, 1 it is being tried, 2 it is left alone";
        let mut family =
            encoder.encode_descriptor("hosted_breaker", help, None, MetricType::Gauge)?;
        for (model, state) in self.hosted.states() {
            let value: i64 = match state {
                BreakerState::Closed => 0,
                BreakerState::HalfOpen => 1,
                BreakerState::Open => 2,
            };
            let labels = [("model", model)];
            ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
        }
        let help =
            "When a hosted model is switched off, in seconds since 1970, if its upstream says so";
        let mut family = encoder.encode_descriptor(
            "hosted_shutdown_timestamp_seconds",
            help,
            None,
            MetricType::Gauge,
        )?;
        for model in self.hosted.models() {
            let date = self.hosted.shutdown_date(&model.name);
            if let Some(start) = date.and_then(|date| date.to_zoned(TimeZone::UTC).ok()) {
                let labels = [("model", model.name.as_str())];
                let seconds = start.timestamp().as_second();
                ConstGauge::new(seconds).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}
