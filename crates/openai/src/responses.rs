//! Responses: the newer protocol, as far as a client needs it that asks for one streamed answer and keeps
//! nothing on the server.

mod event;
mod request;

pub use event::{
    ErrorReport, Incomplete, InputTokensDetails, OutputItem, OutputTokensDetails, Response,
    ResponseEvent, ResponseUsage,
};
pub use request::{
    InputItem, InputPart, ReasoningConfig, ResponseRequest, ResponseTool, ResponseToolChoice,
    TextConfig, TextFormat,
};
