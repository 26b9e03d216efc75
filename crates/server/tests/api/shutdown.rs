//! The end of a server: running answers finish, new requests go elsewhere.

use std::time::Duration;

use harmonium_openai::{Client, ClientConfig, Error};
use harmonium_server::ServerConfig;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::cancel::request;
use crate::support::{Fixture, PATIENCE, babbles, config, waits};

pub(crate) struct Running {
    pub(crate) client: Client,
    pub(crate) address: String,
    pub(crate) stop: oneshot::Sender<()>,
    pub(crate) served: JoinHandle<()>,
}

pub(crate) async fn serve(fixture: &Fixture) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (stop, stopped) = oneshot::channel::<()>();
    let server = fixture.server.clone();
    let served = tokio::spawn(async move {
        let shutdown = async { stopped.await.unwrap() };
        server.serve(listener, shutdown).await
    });
    let base_url = format!("http://{address}/v1");
    let client = Client::new(ClientConfig { base_url, ..ClientConfig::default() }).unwrap();
    Running { client, address, stop, served }
}

/// The status line and headers of `GET /health` on a connection of its own.
pub(crate) async fn health(address: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = "GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, socket.read_to_string(&mut answer)).await.unwrap().unwrap();
    answer.to_lowercase()
}

#[tokio::test]
async fn draining_lets_running_answers_finish_and_refuses_new_ones() {
    let (model, gate) = waits();
    let fixture = Fixture::new(model);
    let Running { client, address, stop, served } = serve(&fixture).await;
    assert!(health(&address).await.starts_with("http/1.1 200"));
    let mut stream = client.chat_stream(&request()).await.unwrap();
    stream.next().await.unwrap().unwrap();
    stop.send(()).unwrap();

    let mut answer = health(&address).await;
    while answer.starts_with("http/1.1 200") {
        answer = health(&address).await;
    }
    assert!(answer.starts_with("http/1.1 503"), "{answer}");
    assert!(answer.contains("retry-after: 5") && answer.contains("connection: close"), "{answer}");
    let refused = client.chat(&request()).await.unwrap_err();
    assert!(matches!(&refused, Error::Api(error) if error.status == 503), "{refused:?}");

    gate.send(()).unwrap();
    drop(gate);
    let mut text = String::new();
    while let Some(chunk) = stream.next().await {
        let delta = chunk.unwrap().choices.remove(0).delta;
        text.push_str(&delta.content.unwrap_or_default());
    }
    assert_eq!(text, "a");
    tokio::time::timeout(PATIENCE, served).await.unwrap().unwrap();
}

#[tokio::test]
async fn an_answer_that_outlasts_the_drain_is_ended_with_an_error() {
    let brief = ServerConfig { drain_timeout: Duration::from_millis(1), ..config() };
    let slow = babbles().with_timing(Duration::from_millis(5), Duration::ZERO);
    let fixture = Fixture::configured(slow, brief);
    let Running { client, stop, served, .. } = serve(&fixture).await;
    let mut stream = client.chat_stream(&request()).await.unwrap();
    stream.next().await.unwrap().unwrap();
    stop.send(()).unwrap();
    let error = loop {
        match stream.next().await.expect("an error before the end") {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(
        matches!(&error, Error::Stream(e) if e.code.as_deref() == Some("unavailable")),
        "{error:?}"
    );
    tokio::time::timeout(PATIENCE, served).await.unwrap().unwrap();
    fixture.idle().await;
}

#[tokio::test]
async fn an_idle_server_ends_at_once() {
    let fixture = Fixture::new(babbles());
    let Running { stop, served, .. } = serve(&fixture).await;
    stop.send(()).unwrap();
    tokio::time::timeout(PATIENCE, served).await.unwrap().unwrap();
}
