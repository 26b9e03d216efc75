//! A conversation as the renderer takes it: checked, with every text still plain text.

use serde_json::Value;

/// How much the model is asked to reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Effort {
    /// Little.
    Low,
    /// The model's default.
    #[default]
    Medium,
    /// Much.
    High,
}

/// Everything that decides a prompt.
#[derive(Debug, Clone, Default)]
pub struct Conversation {
    /// `YYYY-MM-DD` for the system message; absent leaves the line out.
    pub date: Option<String>,
    /// Reasoning effort.
    pub effort: Effort,
    /// Developer instructions (the API's leading `system` and `developer` messages).
    pub instructions: Option<String>,
    /// Declared functions.
    pub tools: Vec<FunctionTool>,
    /// A format the final answer shall have.
    pub response_format: Option<ResponseFormat>,
    /// What was said, oldest first.
    pub messages: Vec<Message>,
}

/// A function the model may call.
#[derive(Debug, Clone, PartialEq)]
pub struct FunctionTool {
    /// Name without the `functions.` prefix.
    pub name: String,
    /// What it does.
    pub description: Option<String>,
    /// JSON schema of its arguments; `None` renders a function without arguments.
    pub parameters: Option<Value>,
}

/// A JSON schema for the final answer.
#[derive(Debug, Clone, PartialEq)]
pub struct ResponseFormat {
    /// Name of the format.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// The schema.
    pub schema: Value,
}

/// One message of the history.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// A later `system` or `developer` message, kept in its place.
    Developer {
        /// Its text.
        text: String,
    },
    /// What the user said.
    User {
        /// Its text.
        text: String,
    },
    /// What the model said.
    Assistant {
        /// Reasoning that the client sent back.
        reasoning: Option<String>,
        /// The visible answer, or the preamble when calls follow.
        content: Option<String>,
        /// Calls, in order.
        tool_calls: Vec<ToolCall>,
    },
    /// The result of a call.
    ToolResult {
        /// Name of the function that answered, without prefix.
        name: String,
        /// Its output, as it came.
        content: String,
    },
}

/// A call of a declared function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolCall {
    /// Name without the `functions.` prefix.
    pub name: String,
    /// Arguments as the model wrote them; usually JSON.
    pub arguments: String,
}
