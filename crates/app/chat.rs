//! `harmonium chat`: a conversation in the terminal, or through a pipe.
//!
//! It is a client of the HTTP API like any other. Without `--url` it starts a server for itself.
//! Each line of input is one turn. The history that is sent back holds answers, not their reasoning.

mod input;
mod screen;

use std::io::{self, IsTerminal, Stdout, Write};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use harmonium_openai::{ChatMessage, ChatRequest, Client, FinishReason};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::signal::ctrl_c;

use crate::api::{self, Api};
use crate::chat::input::{HELP, Input};
use crate::chat::screen::{ReasoningStyle, Screen};
use crate::cli::{ChatArgs, EffortArg};
use crate::environment::Environment;
use crate::settings::Settings;
use crate::stack;

/// Holds the conversation until the input ends.
pub(crate) fn run(args: &ChatArgs, environment: &Environment) -> Result<ExitCode> {
    let settings = api::settings(&args.settings, environment)?;
    let wanted = args.talk_to.clone().or_else(|| adapted_model(args, &settings));
    stack::block_on(converse(args, wanted, settings, environment))
}

async fn converse(
    args: &ChatArgs,
    wanted: Option<String>,
    settings: Settings,
    environment: &Environment,
) -> Result<ExitCode> {
    let api = Api::connect(args.url.as_deref(), settings, environment).await?;
    let models = api.client.models().await.context("cannot ask the server for its models")?;
    let first = models.data.first().context("the server has no model")?;
    let model = wanted.unwrap_or_else(|| first.id.clone());
    let is_interactive = io::stdin().is_terminal() && io::stdout().is_terminal();
    let mut chat = Chat {
        client: api.client.clone(),
        model,
        effort: args.effort,
        history: Vec::new(),
        screen: Screen::new(io::stdout(), reasoning_style(args, environment)),
        is_interactive,
    };
    let result = chat.run().await;
    api.end().await?;
    result
}

/// The model with the first adapter of the command line: who names one there wants to talk to it.
fn adapted_model(args: &ChatArgs, settings: &Settings) -> Option<String> {
    let is_ours = args.url.is_none() && args.settings.flags.has("adapter");
    let adapter = settings.model.adapters.0.first().filter(|_| is_ours)?;
    Some(format!("{}:{}", stack::names(&settings.model.name).0, adapter.name))
}

fn reasoning_style(args: &ChatArgs, environment: &Environment) -> ReasoningStyle {
    let is_terminal = io::stdout().is_terminal();
    if is_terminal && environment.get("NO_COLOR").is_none() {
        ReasoningStyle::Dimmed
    } else if is_terminal || args.show_reasoning {
        ReasoningStyle::Marked
    } else {
        ReasoningStyle::Hidden
    }
}

/// One conversation.
struct Chat {
    client: Client,
    model: String,
    effort: EffortArg,
    history: Vec<ChatMessage>,
    screen: Screen<Stdout>,
    /// Whether a person types and reads.
    is_interactive: bool,
}

/// How an answer ended.
enum Ending {
    Complete,
    Interrupted,
}

impl Chat {
    async fn run(&mut self) -> Result<ExitCode> {
        if self.is_interactive {
            notice(&format!("{}: /help lists the commands", self.model));
        }
        let mut lines = BufReader::new(tokio::io::stdin()).lines();
        loop {
            if self.is_interactive {
                self.screen.prompt()?;
            }
            let line = tokio::select! {
                line = lines.next_line() => line.context("cannot read the input")?,
                result = ctrl_c() => {
                    result.context("cannot listen for Ctrl-C")?;
                    None
                }
            };
            let Some(line) = line else { return Ok(ExitCode::SUCCESS) };
            match Input::parse(&line) {
                Input::Empty => {}
                Input::Say(text) => match self.turn(text).await {
                    Ok(Ending::Complete) => {}
                    Ok(Ending::Interrupted) if self.is_interactive => notice("stopped"),
                    Ok(Ending::Interrupted) => bail!("interrupted"),
                    // A person can go on after an error; a script must learn of it.
                    Err(error) if self.is_interactive => notice(&format!("error: {error:#}")),
                    Err(error) => return Err(error),
                },
                Input::Effort(effort) => self.effort = effort,
                Input::New => self.history.clear(),
                Input::Quit => return Ok(ExitCode::SUCCESS),
                Input::Help => notice(HELP),
                Input::Wrong(message) => notice(&message),
            }
        }
    }

    /// Says `text` and shows the answer. Both become history unless nothing was answered.
    async fn turn(&mut self, text: String) -> Result<Ending> {
        self.history.push(ChatMessage::user(text));
        let mut answer = String::new();
        let result = tokio::select! {
            result = stream_answer(&self.client, self.request(), &mut self.screen, &mut answer) => {
                result.map(|()| Ending::Complete)
            }
            // Dropping the stream above ends the answer at the server, too.
            result = ctrl_c() => {
                result.map(|()| Ending::Interrupted).context("cannot listen for Ctrl-C")
            }
        };
        self.screen.end()?;
        if answer.is_empty() {
            self.history.pop();
        } else {
            self.history.push(ChatMessage::assistant(answer));
        }
        result
    }

    fn request(&self) -> ChatRequest {
        let effort = match self.effort {
            EffortArg::Low => "low",
            EffortArg::Medium => "medium",
            EffortArg::High => "high",
        };
        ChatRequest {
            model: Some(self.model.clone()),
            messages: self.history.clone(),
            reasoning_effort: Some(effort.to_owned()),
            ..ChatRequest::default()
        }
    }
}

/// Shows an answer as it comes and collects its text.
async fn stream_answer(
    client: &Client,
    request: ChatRequest,
    screen: &mut Screen<Stdout>,
    answer: &mut String,
) -> Result<()> {
    let mut stream = client.chat_stream(&request).await?;
    while let Some(chunk) = stream.next().await {
        for choice in chunk?.choices {
            let reasoning = choice.delta.reasoning.or(choice.delta.reasoning_content);
            screen.reasoning(&reasoning.unwrap_or_default())?;
            let content = choice.delta.content.unwrap_or_default();
            screen.content(&content)?;
            answer.push_str(&content);
            if choice.finish_reason == Some(FinishReason::Length) {
                notice("the answer was cut off: no room for more tokens");
            }
        }
    }
    Ok(())
}

/// Tells the person something that is not part of the answer.
fn notice(text: &str) {
    // Without a stderr there is nobody to tell.
    let _ = writeln!(io::stderr().lock(), "{text}");
}
