//! A conversation as the token ids of a prompt.
//!
//! Owns the layout of the messages: the system message that we write, the developer message with the
//! instructions, the declared functions and the response format, and the history. Structure comes from
//! [`ControlTokens`](crate::ControlTokens) alone; every text, names in headers included, goes through
//! [`Tokenizer::encode_text`], piece by piece as the reference library does, so that the ids are the same.
//!
//! Where we differ from that library (openai-harmony 0.0.8): reasoning of the past is dropped by turn
//! (see `history`), and `# Response Formats`, which the library lacks, is written as the format's
//! documentation has it.

use crate::conversation::{Conversation, Effort, FunctionTool, Message, ResponseFormat, ToolCall};
use crate::history::keeps_reasoning;
use crate::tokenizer::Tokenizer;
use crate::typescript::write_type;

/// From the model card and the reference library: what the model was trained to be told.
const IDENTITY: &str = "You are ChatGPT, a large language model trained by OpenAI.";
const KNOWLEDGE_CUTOFF: &str = "Knowledge cutoff: 2024-06";
const CHANNELS: &str = "# Valid channels: analysis, commentary, final. \
                        Channel must be included for every message.";
const CALLS_CHANNEL: &str = "Calls to these tools must go to the commentary channel: 'functions'.";

/// Renders the prompt for the next message of the assistant; it ends in `<|start|>assistant`.
pub fn render(tokenizer: &Tokenizer, conversation: &Conversation) -> Vec<u32> {
    let mut prompt = Prompt { tokenizer, ids: Vec::new() };
    prompt.text_message("system", &system_text(conversation));
    let tools = tools_text(&conversation.tools);
    let format = conversation.response_format.as_ref().map(format_text);
    let instructions = conversation.instructions.as_deref().filter(|text| !text.is_empty());
    let sections: Vec<String> =
        instructions.map(instructions_text).into_iter().chain(tools).chain(format).collect();
    if !sections.is_empty() {
        prompt.text_message("developer", &sections.join("\n\n"));
    }
    let keeps = keeps_reasoning(&conversation.messages);
    for (message, keeps_reasoning) in conversation.messages.iter().zip(keeps) {
        prompt.message(message, keeps_reasoning);
    }
    prompt.control(tokenizer.control().start);
    prompt.text("assistant");
    prompt.ids
}

/// A length that the prompt of `conversation` surely reaches, in tokens, found many times faster than by rendering it:
/// what users, tools and developers said must all be in it.
pub fn min_prompt_len(tokenizer: &Tokenizer, conversation: &Conversation) -> usize {
    let said = conversation.messages.iter().map(|message| match message {
        Message::Developer { text } | Message::User { text } => text.as_str(),
        Message::ToolResult { content, .. } => content.as_str(),
        // Of old answers not all is kept.
        Message::Assistant { .. } => "",
    });
    said.map(|text| tokenizer.min_tokens(text)).sum()
}

fn system_text(conversation: &Conversation) -> String {
    let effort = match conversation.effort {
        Effort::Low => "low",
        Effort::Medium => "medium",
        Effort::High => "high",
    };
    let date = conversation.date.as_ref().map(|date| format!("\nCurrent date: {date}"));
    let date = date.unwrap_or_default();
    let calls = if conversation.tools.is_empty() { "" } else { CALLS_CHANNEL };
    let separator = if calls.is_empty() { "" } else { "\n" };
    format!(
        "{IDENTITY}\n{KNOWLEDGE_CUTOFF}{date}\n\nReasoning: {effort}\n\n{CHANNELS}{separator}{calls}"
    )
}

fn instructions_text(instructions: &str) -> String {
    format!("# Instructions\n\n{instructions}")
}

/// The `# Tools` section, if there are functions.
fn tools_text(tools: &[FunctionTool]) -> Option<String> {
    if tools.is_empty() {
        return None;
    }
    let mut text = "# Tools\n\n## functions\n\nnamespace functions {\n\n".to_owned();
    for tool in tools {
        for line in tool.description.as_deref().unwrap_or_default().lines() {
            text.extend(["// ", line, "\n"]);
        }
        text.extend(["type ", &tool.name, " = ("]);
        if let Some(parameters) = tool.parameters.as_ref().filter(|schema| !schema.is_null()) {
            text.push_str("_: ");
            write_type(parameters, "", &mut text);
        }
        text.push_str(") => any;\n\n");
    }
    text.push_str("} // namespace functions");
    Some(text)
}

/// The `# Response Formats` section. The schema is compact JSON, in its own order.
fn format_text(format: &ResponseFormat) -> String {
    let mut text = format!("# Response Formats\n\n## {}\n\n", format.name);
    for line in format.description.as_deref().unwrap_or_default().lines() {
        text.extend(["// ", line, "\n"]);
    }
    text.push_str(&format.schema.to_string());
    text
}

/// A prompt in the making.
struct Prompt<'a> {
    tokenizer: &'a Tokenizer,
    ids: Vec<u32>,
}

impl Prompt<'_> {
    fn control(&mut self, id: u32) {
        self.ids.push(id);
    }

    fn text(&mut self, text: &str) {
        self.ids.extend(self.tokenizer.encode_text(text));
    }

    fn message(&mut self, message: &Message, keeps_reasoning: bool) {
        match message {
            Message::Developer { text } => {
                self.text_message("developer", &instructions_text(text));
            }
            Message::User { text } => self.text_message("user", text),
            Message::Assistant { reasoning, content, tool_calls } => {
                let reasoning =
                    reasoning.as_ref().filter(|text| keeps_reasoning && !text.is_empty());
                if let Some(reasoning) = reasoning {
                    self.assistant_message("analysis", reasoning);
                }
                let channel = if tool_calls.is_empty() { "final" } else { "commentary" };
                // Clients write "" for the content of a message that only calls.
                let content =
                    content.as_ref().filter(|text| !text.is_empty() || tool_calls.is_empty());
                if let Some(content) = content {
                    self.assistant_message(channel, content);
                }
                for call in tool_calls {
                    self.tool_call(call);
                }
            }
            Message::ToolResult { name, content } => self.tool_result(name, content),
        }
    }

    /// A message without channel.
    fn text_message(&mut self, role: &str, text: &str) {
        let control = self.tokenizer.control();
        self.control(control.start);
        self.text(role);
        self.control(control.message);
        self.text(text);
        self.control(control.end);
    }

    fn assistant_message(&mut self, channel: &str, text: &str) {
        let control = self.tokenizer.control();
        self.control(control.start);
        self.text("assistant");
        self.control(control.channel);
        self.text(channel);
        self.control(control.message);
        self.text(text);
        self.control(control.end);
    }

    fn tool_call(&mut self, call: &ToolCall) {
        let control = self.tokenizer.control();
        self.control(control.start);
        self.text("assistant");
        self.text(&format!(" to=functions.{}", call.name));
        self.control(control.channel);
        self.text("commentary");
        self.text(" ");
        self.control(control.constrain);
        self.text("json");
        self.control(control.message);
        self.text(&call.arguments);
        self.control(control.call);
    }

    fn tool_result(&mut self, name: &str, content: &str) {
        let control = self.tokenizer.control();
        self.control(control.start);
        self.text(&format!("functions.{name}"));
        self.text(" to=assistant");
        self.control(control.channel);
        self.text("commentary");
        self.control(control.message);
        self.text(content);
        self.control(control.end);
    }
}
