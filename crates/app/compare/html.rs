//! The report as one page: a row a prompt, a column a model. It needs nothing but itself, and runs nothing.
//!
//! Every text in it may come from anybody. The templates escape all they are given; the style sheet, which is ours,
//! is the only text that is put in as it is. The page's own policy forbids scripts and requests as well.

use harmonium_hosted::Cost;
use harmonium_openai::chat::ToolCall;
use harmonium_openai::{ChatMessage, ChatRequest, Content};
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::report::{Answer, ModelReport, PromptReport, Report};
use super::summary;

const STYLE: &str = include_str!("report.css");
/// Styles of this page are all that it may use.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

/// The whole page.
pub(super) fn page(report: &Report) -> String {
    let columns = format!("--columns: {}", report.models.len() + 1);
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                title { "Comparison of models: " (report.prompts_file) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { "Comparison of models" }
                p .faint { (report.prompts.len()) " prompts of " (report.prompts_file) ", one request at a time" }
                @if !report.is_complete { p .warn { "Interrupted: not all prompts were sent." } }
                (totals(report))
                h2 { "Answers" }
                // In no scrolling box of its own: there its head would not stay in sight.
                table .answers style=(columns) {
                    thead { tr {
                        th { "prompt" }
                        @for model in &report.models { th { (model.name) } }
                    } }
                    tbody { @for prompt in &report.prompts { (row(prompt, report.models.len())) } }
                }
            }
        }
    };
    markup.into_string()
}

fn totals(report: &Report) -> Markup {
    html! {
        h2 { "Totals" }
        div .wide {
            table .totals {
                thead { tr { @for heading in summary::headings(report) { th { (heading) } } } }
                tbody { @for model in &report.models {
                    tr { @for cell in summary::cells(model) { td { (cell) } } }
                } }
            }
        }
        @for model in &report.models { (about(model)) }
        p .faint {
            "Times and costs are of answers without an error. A month costs the mean of them times its requests. "
            "elsewhere: answered by another model than the one that was asked, at that model's price."
        }
    }
}

fn about(model: &ModelReport) -> Markup {
    html! {
        p .faint {
            (model.name)
            @if let Some(backend) = &model.backend { " (" (backend) ")" }
            ": " (summary::prices(model.pricing.as_ref()))
        }
    }
}

fn row(prompt: &PromptReport, num_models: usize) -> Markup {
    html! {
        tr {
            td {
                p .faint { "prompt " (prompt.id) }
                @for message in &prompt.request.messages { (self::message(message)) }
                (options(&prompt.request))
            }
            @for answer in &prompt.answers { td { (self::answer(answer)) } }
            @for _ in prompt.answers.len()..num_models { td .faint { "not asked" } }
        }
    }
}

fn message(message: &ChatMessage) -> Markup {
    html! {
        p .role { (message.role) }
        @match &message.content {
            None => {}
            Some(Content::Text(text)) => div .text { (text) },
            Some(Content::Parts(parts)) => @for part in parts {
                div .text { (part.text.as_ref().or(part.refusal.as_ref()).unwrap_or(&part.kind)) }
            },
        }
        @for call in message.tool_calls.iter().flatten() { (self::call(call)) }
    }
}

/// The fields of a request beside its messages, if it has any.
fn options(request: &ChatRequest) -> Markup {
    let mut value = serde_json::to_value(request).unwrap_or_default();
    let has_any = value.as_object_mut().is_some_and(|fields| {
        fields.remove("messages");
        !fields.is_empty()
    });
    html! {
        @if has_any { details { summary { "request fields" } pre { (format!("{value:#}")) } } }
    }
}

fn answer(answer: &Answer) -> Markup {
    let answered_by = answer.answered_by.as_deref().unwrap_or("another model");
    html! {
        @if answer.is_elsewhere { p .warn { "answered by " (answered_by) } }
        @if let Some(reasoning) = &answer.reasoning {
            details { summary { "reasoning" } div .text { (reasoning) } }
        }
        @if let Some(content) = &answer.content { div .text { (content) } }
        @if let Some(refusal) = &answer.refusal { div .text { span .warn { "refusal: " } (refusal) } }
        @for call in &answer.tool_calls { (self::call(call)) }
        @if let Some(error) = &answer.error { p .bad .text { "failed: " (error) } }
        p .faint { (measures(answer)) }
        @if let Some(dropped) = &answer.dropped { p .faint { "not sent: " (dropped) } }
        @if let (Some(name), false) = (&answer.answered_by, answer.is_elsewhere) {
            @if *name != answer.model { p .faint { "as " (name) } }
        }
    }
}

fn call(call: &ToolCall) -> Markup {
    html! {
        pre {
            @match &call.function {
                Some(function) => { (function.name) "(" (function.arguments) ")" }
                None => { (call.kind) }
            }
        }
    }
}

/// How it ended, how fast it was and what it cost, in one line.
fn measures(answer: &Answer) -> String {
    let mut parts = Vec::new();
    if let Some(reason) = answer.finish_reason {
        let reason = serde_json::to_value(reason).unwrap_or_default();
        parts.extend(reason.as_str().map(str::to_owned));
    }
    if answer.ttft_ms.is_some() {
        parts.push(format!("TTFT {}", summary::time(answer.ttft_ms)));
    }
    parts.push(format!("total {}", summary::time(Some(answer.total_ms))));
    parts.extend(answer.tokens_per_s.map(|speed| format!("{speed:.1} tok/s")));
    if let Some(tokens) = &answer.usage {
        parts.push(format!(
            "{} tokens in ({} cached), {} out ({} reasoning)",
            tokens.prompt, tokens.cached, tokens.completion, tokens.reasoning
        ));
    }
    // Nobody is paid for most answers that cost nothing.
    let cost = answer.cost.filter(|cost| *cost != Cost::ZERO);
    parts.extend(cost.map(|cost| format!("{cost} USD")));
    parts.join(" · ")
}

#[cfg(test)]
mod tests;
