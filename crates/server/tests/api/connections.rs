//! Bounds of connections: how many there are, and how long they may say nothing.

use std::time::Duration;

use harmonium_server::ServerConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::cancel::request;
use crate::shutdown::{Running, health, serve};
use crate::support::{Fixture, PATIENCE, babbles, config, waits};

/// Short, since a test waits for it, and long enough to send a request in.
const IDLE_TIMEOUT: Duration = Duration::from_millis(500);

#[tokio::test]
async fn a_connection_without_a_request_is_closed_and_the_next_takes_its_place() {
    let bounds = ServerConfig { max_connections: 1, idle_timeout: IDLE_TIMEOUT, ..config() };
    let fixture = Fixture::configured(babbles(), bounds);
    let Running { address, stop: _stop, .. } = serve(&fixture).await;
    for said in
        ["", "GET /health HTTP/1.1\r\nhost: x\r\n", "GET /health HTTP/1.1\r\nhost: x\r\n\r\n"]
    {
        let mut silent = TcpStream::connect(&address).await.unwrap();
        silent.write_all(said.as_bytes()).await.unwrap();
        // The only place is taken, so this is answered once the silent one is gone, and not before.
        assert!(health(&address).await.starts_with("http/1.1 200"));
        let mut rest = Vec::new();
        let end = silent.read_to_end(&mut rest);
        tokio::time::timeout(Duration::ZERO, end).await.expect("it was closed").unwrap();
        assert_eq!(
            rest.is_empty(),
            !said.ends_with("\r\n\r\n"),
            "{:?}",
            String::from_utf8_lossy(&rest)
        );
    }
}

#[tokio::test]
async fn an_answer_may_take_longer_than_a_request_may_wait() {
    let bounds = ServerConfig { idle_timeout: IDLE_TIMEOUT, ..config() };
    let (model, gate) = waits();
    let fixture = Fixture::configured(model, bounds);
    let Running { client, address, stop: _stop, .. } = serve(&fixture).await;
    let mut stream = client.chat_stream(&request()).await.unwrap();
    stream.next().await.unwrap().unwrap();
    // Once this one is closed, the answer has been silent for longer than connections may.
    let mut silent = TcpStream::connect(&address).await.unwrap();
    let end = silent.read_u8();
    tokio::time::timeout(PATIENCE, end).await.expect("it is closed").unwrap_err();
    drop(gate);
    while let Some(chunk) = tokio::time::timeout(PATIENCE, stream.next()).await.unwrap() {
        chunk.unwrap();
    }
}
