//! A streamed answer as the client reads it: bytes to events to the protocol's own types, within bounds.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use reqwest::header::HeaderMap;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{excerpt, parse, transport};
use crate::chat::ChatChunk;
use crate::error::{Error, ErrorBody, ErrorObject, Result};
use crate::responses::ResponseEvent;
use crate::sse::{self, Decoder, Event, Limits};

/// The chunks of one chat answer. It ends after `[DONE]`, or after its first error.
pub type ChatStream = AnswerStream<ChatChunk>;

/// The events of one response. It ends where the server ends it, with an error unless it sent `[DONE]`: the
/// event that completes the response is known by its type.
pub type ResponseStream = AnswerStream<ResponseEvent>;

/// The items of one answer.
pub struct AnswerStream<T> {
    url: String,
    headers: HeaderMap,
    num_bytes_left: usize,
    max_bytes: usize,
    bytes: Pin<Box<dyn Stream<Item = reqwest::Result<Bytes>> + Send>>,
    decoder: Decoder,
    events: VecDeque<Event>,
    is_over: bool,
    read: fn(&Event) -> Result<Option<T>>,
}

impl<T: DeserializeOwned> AnswerStream<T> {
    pub(super) fn new(response: reqwest::Response, max_bytes: usize) -> Self {
        Self {
            url: response.url().to_string(),
            headers: response.headers().clone(),
            num_bytes_left: max_bytes,
            max_bytes,
            bytes: Box::pin(response.bytes_stream()),
            decoder: Decoder::new(Limits::default()),
            events: VecDeque::new(),
            is_over: false,
            read: read_event,
        }
    }
}

impl<T> AnswerStream<T> {
    /// The server's `x-request-id`.
    pub fn request_id(&self) -> Option<&str> {
        self.header("x-request-id")
    }

    /// A header of the answer, such as one that says which model gives it; `None` if it is absent or no text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The next item; `None` once the answer is complete.
    pub async fn next(&mut self) -> Option<Result<T>> {
        StreamExt::next(self).await
    }

    fn poll_item(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<T>>> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Poll::Ready((self.read)(&event));
            }
            let Some(bytes) = ready!(self.bytes.poll_next_unpin(cx)) else {
                return Poll::Ready(Err(Error::Truncated));
            };
            let bytes = bytes.map_err(|source| transport(&self.url, source))?;
            self.num_bytes_left = self
                .num_bytes_left
                .checked_sub(bytes.len())
                .ok_or(Error::TooLong { max_bytes: self.max_bytes })?;
            let mut events = Vec::new();
            self.decoder.push(&bytes, &mut events)?;
            self.events.extend(events);
        }
    }
}

impl<T> Stream for AnswerStream<T> {
    type Item = Result<T>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let stream = self.get_mut();
        if stream.is_over {
            return Poll::Ready(None);
        }
        let item = ready!(stream.poll_item(cx)).transpose();
        stream.is_over = !matches!(item, Some(Ok(_)));
        Poll::Ready(item)
    }
}

impl<T> fmt::Debug for AnswerStream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnswerStream").field("url", &self.url).finish_non_exhaustive()
    }
}

/// An item, the end (`None`), or the error that the server put into the stream.
fn read_event<T: DeserializeOwned>(event: &Event) -> Result<Option<T>> {
    if event.data.trim() == sse::DONE {
        return Ok(None);
    }
    let value: Value = parse(event.data.as_bytes())?;
    if value.get("error").is_some_and(|error| !error.is_null()) {
        let error =
            serde_json::from_value::<ErrorBody>(value).map(|body| body.error).unwrap_or_else(
                |_| ErrorObject { message: excerpt(event.data.as_bytes()), ..Default::default() },
            );
        return Err(Error::Stream(Box::new(error)));
    }
    serde_json::from_value(value)
        .map(Some)
        .map_err(|source| Error::Json { excerpt: excerpt(event.data.as_bytes()), source })
}
