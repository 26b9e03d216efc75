//! The table of totals, as stdout and the page show it.

use harmonium_openai::models::Pricing;

use super::report::{ModelReport, Report};
use crate::table::Table;

/// The headings, the model's name first.
pub(super) fn headings(report: &Report) -> Vec<String> {
    let month = format!("USD for {} requests", report.monthly_requests);
    let fixed = [
        "model",
        "answered",
        "failed",
        "elsewhere",
        "TTFT median",
        "TTFT p95",
        "median tok/s",
        "prompt tokens",
        "cached",
        "completion",
        "reasoning",
        "USD",
    ];
    fixed.into_iter().map(str::to_owned).chain([month]).collect()
}

/// The cells of one model below the headings.
pub(super) fn cells(model: &ModelReport) -> Vec<String> {
    let totals = &model.totals;
    let tokens = &totals.tokens;
    // A model without a price can cost something all the same: through what another one answered for it.
    let is_free = model.pricing.is_none() && totals.cost_usd == 0.0;
    let usd = |usd: Option<f64>, decimals: usize| match usd {
        Some(_) if is_free => "no price".to_owned(),
        Some(usd) => format!("{usd:.decimals$}"),
        None => "-".to_owned(),
    };
    vec![
        model.name.clone(),
        totals.num_answered.to_string(),
        totals.num_failed.to_string(),
        totals.num_elsewhere.to_string(),
        time(totals.ttft_median_ms),
        time(totals.ttft_p95_ms),
        totals.tokens_per_s_median.map_or("-".to_owned(), |speed| format!("{speed:.1}")),
        tokens.prompt.to_string(),
        tokens.cached.to_string(),
        tokens.completion.to_string(),
        tokens.reasoning.to_string(),
        usd(totals.mean_cost_usd.map(|_| totals.cost_usd), 6),
        usd(totals.monthly_cost_usd, 2),
    ]
}

/// The table for stdout.
pub(super) fn table(report: &Report) -> Table {
    let headings = headings(report);
    let mut table = Table::new(&headings.iter().map(String::as_str).collect::<Vec<_>>());
    for model in &report.models {
        table.row(cells(model));
    }
    table
}

/// A time in the unit that it is easily read in.
pub(super) fn time(ms: Option<f64>) -> String {
    match ms {
        None => "-".to_owned(),
        Some(ms) if ms < 10_000.0 => format!("{ms:.0} ms"),
        Some(ms) => format!("{:.1} s", ms / 1000.0),
    }
}

/// Prices in words.
pub(super) fn prices(pricing: Option<&Pricing>) -> String {
    match pricing {
        None => "no price".to_owned(),
        Some(Pricing { input, cached_input, output }) => {
            let [input, cached_input, output] =
                [input, cached_input, output].map(|&usd| crate::table::price(usd));
            format!("USD per million tokens: {input} input, {cached_input} cached, {output} output")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::report::Answer;
    use crate::compare::totals::Totals;
    use harmonium_hosted::Cost;

    fn model(pricing: Option<Pricing>, usd: &[f64]) -> ModelReport {
        let cost = |&usd: &f64| Answer { cost: Cost::from_usd(usd), ..Answer::default() };
        let answers: Vec<Answer> = usd.iter().map(cost).collect();
        let totals = Totals::of(answers.iter(), 100_000);
        ModelReport { name: "m".to_owned(), backend: None, pricing, totals }
    }

    #[test]
    fn costs_say_whether_anybody_is_paid() {
        let priced = Some(Pricing { input: 0.4, cached_input: 0.1, output: 1.6 });
        for (pricing, usd, expected) in [
            (None, &[0.0][..], ["no price", "no price"]),
            (None, &[0.0, 0.002], ["0.002000", "100.00"]),
            (priced, &[0.001], ["0.001000", "100.00"]),
            (priced, &[], ["-", "-"]),
        ] {
            let cells = cells(&model(pricing, usd));
            assert_eq!(cells[11..], expected, "{usd:?}");
        }
    }

    #[test]
    fn times_are_short() {
        assert_eq!([Some(12.34), Some(12_340.0), None].map(time), ["12 ms", "12.3 s", "-"]);
    }
}
