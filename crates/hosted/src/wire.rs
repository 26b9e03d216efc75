//! The two protocols behind one face: a chat request goes in, chat chunks come out.

mod from_responses;
mod to_responses;

use std::collections::VecDeque;

use bytes::Bytes;
use harmonium_openai::{ChatChunk, ChatRequest, ChatStream, Client, Error, ResponseStream, Result};

use crate::config::Wire;
use from_responses::Reader;
use to_responses::response_request;

/// A running answer.
#[derive(Debug)]
pub(crate) enum Chunks {
    /// As they come.
    Chat(Box<ChatStream>),
    /// Made from the events of a response.
    Responses(Box<ResponseChunks>),
}

/// A response that is read as chat chunks.
#[derive(Debug)]
pub(crate) struct ResponseChunks {
    events: ResponseStream,
    reader: Reader,
    /// Chunks that one event made and nobody has taken yet.
    ready: VecDeque<ChatChunk>,
}

/// A request as it is sent.
pub(crate) fn body(wire: Wire, request: &ChatRequest) -> serde_json::Result<Bytes> {
    match wire {
        Wire::Chat => serde_json::to_vec(request),
        Wire::Responses => serde_json::to_vec(&response_request(request)),
    }
    .map(Bytes::from)
}

impl Chunks {
    /// Sends a request that [`body`] has made and returns once upstream has accepted it.
    pub(crate) async fn open(client: &Client, wire: Wire, body: Bytes) -> Result<Self> {
        Ok(match wire {
            Wire::Chat => Self::Chat(Box::new(client.chat_stream_of(body).await?)),
            Wire::Responses => Self::Responses(Box::new(ResponseChunks {
                events: client.response_stream_of(body).await?,
                reader: Reader::default(),
                ready: VecDeque::new(),
            })),
        })
    }

    /// The next chunk; `None` once the answer is complete.
    pub(crate) async fn next(&mut self) -> Option<Result<ChatChunk>> {
        match self {
            Self::Chat(chunks) => chunks.next().await,
            Self::Responses(chunks) => chunks.next().await,
        }
    }

    /// Upstream's id of the request.
    pub(crate) fn request_id(&self) -> Option<&str> {
        match self {
            Self::Chat(chunks) => chunks.request_id(),
            Self::Responses(chunks) => chunks.events.request_id(),
        }
    }
}

impl ResponseChunks {
    async fn next(&mut self) -> Option<Result<ChatChunk>> {
        loop {
            if let Some(chunk) = self.ready.pop_front() {
                return Some(Ok(chunk));
            }
            if self.reader.is_over() {
                return None;
            }
            let event = match self.events.next().await {
                Some(Ok(event)) => event,
                Some(Err(error)) => return Some(Err(error)),
                None => return Some(Err(Error::Truncated)),
            };
            match self.reader.read(event) {
                Ok(chunks) => self.ready.extend(chunks),
                Err(error) => return Some(Err(Error::Stream(Box::new(error)))),
            }
        }
    }
}
