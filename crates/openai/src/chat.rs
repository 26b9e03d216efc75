//! Chat Completions: what a client sends and what it gets back, whole and in chunks.

mod message;
mod request;
mod response;
mod string_or;

pub use message::{ChatMessage, Content, ContentPart, FunctionCall, ImageUrl, ToolCall};
pub use request::{
    AllowedTools, ChatRequest, FunctionDefinition, FunctionName, JsonSchemaFormat, NamedChoice,
    ReasoningOptions, ResponseFormat, Stop, StreamOptions, TemplateOptions, Tool, ToolChoice,
};
pub use response::{
    ChatChunk, ChatCompletion, Choice, ChoiceLogprobs, ChunkChoice, CompletionTokensDetails, Delta,
    FinishReason, FunctionDelta, PromptTokensDetails, ResponseMessage, TokenLogprob, ToolCallDelta,
    TopLogprob, Usage,
};
