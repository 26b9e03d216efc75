//! What operators watch, as Prometheus reads it.
//!
//! The server counts what it sees itself (requests, errors, latencies); the engine's own numbers are read from
//! its statistics at each scrape. Every label has a bounded set of values. Nothing here is on the path of a
//! token but two histogram observations.

mod engine;
mod hosted;

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use harmonium_hosted::{Cost, Hosted, Spent};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use self::hosted::HostedCollector;
use crate::state::ReadyModel;

/// From a CPU's first token on a short prompt to a full context's prefill.
const SECONDS_TO_FIRST_TOKEN: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];
/// From a graph replay on a small batch to a step with a large prefill in it.
const SECONDS_BETWEEN_TOKENS: [f64; 12] =
    [0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: String,
    status: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ErrorLabels {
    r#type: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BackendLabels {
    backend: &'static str,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PeriodLabels {
    period: &'static str,
}

/// The model is one of the configuration's, so there are few.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ModelLabels {
    model: String,
}

/// All metrics of one server.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    errors: Family<ErrorLabels, Counter>,
    queue: Histogram,
    first_token: Histogram,
    inter_token: Histogram,
    reasoning_tokens: Counter,
    recoveries: Counter,
    undeclared_calls: Counter,
    answers: Family<BackendLabels, Counter>,
    hosted_cost: Family<ModelLabels, Counter<f64, AtomicU64>>,
    hosted_spent: Family<PeriodLabels, Gauge<f64, AtomicU64>>,
}

impl Metrics {
    /// Metrics that read the engine of `model` once there is one, and the state of the hosted models.
    pub(crate) fn new(model: Arc<OnceLock<ReadyModel>>, hosted: Option<Arc<Hosted>>) -> Self {
        let mut registry = Registry::with_prefix("harmonium");
        let requests = Family::default();
        let errors = Family::default();
        let queue = Histogram::new(SECONDS_TO_FIRST_TOKEN);
        let first_token = Histogram::new(SECONDS_TO_FIRST_TOKEN);
        let inter_token = Histogram::new(SECONDS_BETWEEN_TOKENS);
        let reasoning_tokens = Counter::default();
        let recoveries = Counter::default();
        let undeclared_calls = Counter::default();
        let answers = Family::default();
        let hosted_cost = Family::default();
        let hosted_spent = Family::default();
        // The encoder adds a counter's `_total` and every help text's full stop.
        let r = &mut registry;
        r.register("requests", "HTTP requests by route and status", requests.clone());
        r.register("errors", "Errors sent to clients, within streams too", errors.clone());
        let help = "From arrival to admission by the engine";
        r.register("queue_seconds", help, queue.clone());
        let help = "From arrival to the first token of an answer";
        r.register("time_to_first_token_seconds", help, first_token.clone());
        let help = "Between two tokens of an answer";
        r.register("inter_token_latency_seconds", help, inter_token.clone());
        let help = "Generated tokens that were reasoning";
        r.register("reasoning_tokens", help, reasoning_tokens.clone());
        let help = "Places where malformed output of the model was mended";
        r.register("parser_recoveries", help, recoveries.clone());
        let help = "Those of them that were well-formed calls of a function that was not declared";
        r.register("parser_undeclared_calls", help, undeclared_calls.clone());
        let help = "Answers that began, by backend and why";
        r.register("answers", help, answers.clone());
        let help = "What hosted answers cost; those that broke off count in full";
        r.register("hosted_cost_usd", help, hosted_cost.clone());
        if let Some(hosted) = hosted {
            let help =
                "Spent on hosted answers in the current day and month, with what is set aside";
            r.register("hosted_spent_usd", help, hosted_spent.clone());
            r.register_collector(Box::new(HostedCollector::new(hosted)));
        }
        r.register_collector(Box::new(engine::EngineCollector::new(model)));
        Self {
            registry,
            requests,
            errors,
            queue,
            first_token,
            inter_token,
            reasoning_tokens,
            recoveries,
            undeclared_calls,
            answers,
            hosted_cost,
            hosted_spent,
        }
    }

    pub(crate) fn count_answer(&self, backend: &'static str, reason: &'static str) {
        self.answers.get_or_create(&BackendLabels { backend, reason }).inc();
    }

    pub(crate) fn count_hosted_cost(&self, model: &str, cost: Cost) {
        let labels = ModelLabels { model: model.to_owned() };
        self.hosted_cost.get_or_create(&labels).inc_by(cost.as_usd());
    }

    pub(crate) fn count_request(&self, route: &str, status: u16) {
        let labels = RequestLabels { route: route.to_owned(), status: u32::from(status) };
        self.requests.get_or_create(&labels).inc();
    }

    pub(crate) fn count_error(&self, code: &'static str) {
        self.errors.get_or_create(&ErrorLabels { r#type: code }).inc();
    }

    pub(crate) fn set_hosted_spent(&self, spent: Spent) {
        for (period, cost) in [("day", spent.day), ("month", spent.month)] {
            self.hosted_spent.get_or_create(&PeriodLabels { period }).set(cost.as_usd());
        }
    }

    pub(crate) fn observe_queue(&self, waited: Duration) {
        self.queue.observe(waited.as_secs_f64());
    }

    pub(crate) fn observe_first_token(&self, waited: Duration) {
        self.first_token.observe(waited.as_secs_f64());
    }

    pub(crate) fn observe_inter_token(&self, gap: Duration) {
        self.inter_token.observe(gap.as_secs_f64());
    }

    pub(crate) fn count_reasoning_tokens(&self, num_tokens: u32) {
        self.reasoning_tokens.inc_by(u64::from(num_tokens));
    }

    pub(crate) fn count_recoveries(&self, num_recoveries: u32, num_undeclared_calls: u32) {
        self.recoveries.inc_by(u64::from(num_recoveries));
        self.undeclared_calls.inc_by(u64::from(num_undeclared_calls));
    }

    /// The exposition, in the OpenMetrics text format.
    pub(crate) fn expose(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a string does not fail");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_dashboards_expect() {
        let metrics = Metrics::new(Arc::default(), None);
        metrics.count_request("/v1/models", 200);
        metrics.count_error("overloaded");
        metrics.observe_first_token(Duration::from_millis(20));
        let text = metrics.expose();
        for line in [
            "# TYPE harmonium_requests counter",
            "harmonium_requests_total{route=\"/v1/models\",status=\"200\"} 1",
            "harmonium_errors_total{type=\"overloaded\"} 1",
            "harmonium_time_to_first_token_seconds_bucket{le=\"0.025\"} 1",
            "harmonium_time_to_first_token_seconds_count 1",
            "harmonium_parser_recoveries_total 0",
            "harmonium_parser_undeclared_calls_total 0",
            "harmonium_ready 0",
            "# EOF",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("_total_total"));
    }
}
