//! A hub on the loopback interface, with the faults that real ones have. It ends with the test.

use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_RANGE, LOCATION};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

use crate::support::SOON;

/// The repository it has.
pub(crate) const REPO: &str = "owner/tiny";
/// The commit of its main branch.
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// The commit that its main branch moves to.
pub(crate) const NEXT_COMMIT: &str = "fedcba9876543210fedcba9876543210fedcba98";
/// Bytes sent at a time.
const CHUNK: usize = 64 << 10;

/// What goes wrong with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// This status and nothing else.
    Status(u16),
    /// Terms must be accepted before.
    Gated(u16),
    /// The connection ends after this many bytes of the body.
    Truncated(usize),
    /// The first byte of the body is another.
    Corrupt,
    /// The whole file, whatever range was asked for.
    IgnoresRanges,
    /// The whole file, and the connection ends after this many bytes of it.
    IgnoresRangesAndEnds(usize),
    /// Another range than what was asked for.
    OtherRange,
    /// The file, or the list, comes from another commit.
    OtherCommit,
    /// The list has more than any disk holds.
    Huge,
    /// The body waits for [`FakeHub::release`].
    Held,
}

/// Which fault the `n`-th request (from 0) for a path meets.
type Faults = Box<dyn Fn(&str, usize) -> Option<Fault> + Send + Sync>;

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) path: String,
    pub(crate) host: String,
    pub(crate) authorization: Option<String>,
    /// Bytes of a file handed to the socket.
    pub(crate) sent: usize,
}

pub(crate) struct FakeHub {
    shared: Arc<Shared>,
    /// Ends all connections when it is dropped.
    _runtime: Runtime,
}

struct Shared {
    /// By path in the repository. Those over 1 MiB are in large-file storage.
    files: Vec<(String, Bytes)>,
    faults: Faults,
    port: u16,
    seen: Mutex<Vec<Seen>>,
    has_changed: Condvar,
    held: Semaphore,
}

impl FakeHub {
    pub(crate) fn start(
        files: Vec<(String, Vec<u8>)>,
        faults: impl Fn(&str, usize) -> Option<Fault> + Send + Sync + 'static,
    ) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime.block_on(async { listen() });
        let shared = Arc::new(Shared {
            files: files.into_iter().map(|(path, contents)| (path, contents.into())).collect(),
            faults: Box::new(faults),
            port: listener.local_addr().unwrap().port(),
            seen: Mutex::default(),
            has_changed: Condvar::new(),
            held: Semaphore::new(0),
        });
        let router = Router::new().fallback(answer).with_state(shared.clone());
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = TowerToHyperService::new(router.clone());
                let connection =
                    http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                // The other side may go away at any time, as some tests want it to.
                tokio::spawn(async { drop(connection.await) });
            }
        });
        Self { shared, _runtime: runtime }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.shared.port)
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.shared.seen().clone()
    }

    pub(crate) fn sent(&self) -> usize {
        sent(&self.shared.seen())
    }

    /// Lets bodies go that were held.
    pub(crate) fn release(&self) {
        self.shared.held.close();
    }

    /// Waits until the requests are as wanted.
    pub(crate) fn wait_until(&self, mut is_reached: impl FnMut(&[Seen]) -> bool) {
        let deadline = Instant::now() + SOON;
        let mut seen = self.shared.seen();
        while !is_reached(&seen) {
            assert!(Instant::now() < deadline, "still waiting after {} bytes", sent(&seen));
            let step = std::time::Duration::from_millis(20);
            seen = self.shared.has_changed.wait_timeout(seen, step).unwrap().0;
        }
    }
}

/// Bytes of files handed to sockets.
pub(crate) fn sent(seen: &[Seen]) -> usize {
    seen.iter().map(|seen| seen.sent).sum()
}

/// Its sockets hold little, so that what was handed to them has soon arrived.
fn listen() -> TcpListener {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_send_buffer_size(CHUNK as u32).unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    socket.listen(64).unwrap()
}

async fn answer(State(hub): State<Arc<Shared>>, request: Request) -> Response {
    let (request, _) = request.into_parts();
    let path = request.uri.path_and_query().unwrap().as_str().to_owned();
    let header =
        |name: &str| Some(request.headers.get(name)?.to_str().expect("as we send it").to_owned());
    let (n, index) = {
        let mut seen = hub.seen();
        let n = seen.iter().filter(|earlier| earlier.path == path).count();
        let (host, authorization) = (header("host").unwrap_or_default(), header("authorization"));
        seen.push(Seen { path: path.clone(), host, authorization, sent: 0 });
        (n, seen.len() - 1)
    };
    hub.has_changed.notify_all();
    let fault = (hub.faults)(&path, n);
    match fault {
        Some(Fault::Status(status)) => {
            return StatusCode::from_u16(status).unwrap().into_response();
        }
        Some(Fault::Gated(status)) => {
            let why = [("x-error-code", "GatedRepo")];
            return (StatusCode::from_u16(status).unwrap(), why).into_response();
        }
        Some(Fault::Held) => drop(hub.held.acquire().await),
        _ => {}
    }
    if path == format!("/api/models/{REPO}/revision/main?blobs=true") {
        return axum::Json(hub.listing(fault)).into_response();
    }
    let in_repo = path.strip_prefix(&format!("/{REPO}/resolve/{COMMIT}/"));
    let Some(name) = in_repo.or_else(|| path.strip_prefix("/cdn/")) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let commit = if fault == Some(Fault::OtherCommit) { NEXT_COMMIT } else { COMMIT };
    let commit = [("x-repo-commit", commit)];
    match hub.files.iter().find(|(path, _)| path == name) {
        None => StatusCode::NOT_FOUND.into_response(),
        Some((_, contents)) if in_repo.is_some() && is_large(contents) => {
            // Another host, to which the token must not go.
            let place = format!("http://localhost:{}/cdn/{name}", hub.port);
            (StatusCode::FOUND, commit, [(LOCATION, place)]).into_response()
        }
        Some((_, contents)) => {
            let range = header("range").map(|range| parse_range(&range));
            (commit, hub.clone().file(index, contents, range, fault)).into_response()
        }
    }
}

impl Shared {
    fn seen(&self) -> MutexGuard<'_, Vec<Seen>> {
        self.seen.lock().unwrap()
    }

    /// A file, or a range of it, as a body that counts what is taken of it for the request `index`.
    fn file(
        self: Arc<Self>,
        index: usize,
        contents: &Bytes,
        range: Option<Range<usize>>,
        fault: Option<Fault>,
    ) -> Response {
        let len = contents.len();
        let mut headers = HeaderMap::new();
        let ignores_ranges =
            matches!(fault, Some(Fault::IgnoresRanges | Fault::IgnoresRangesAndEnds(_)));
        let range = match range.filter(|_| !ignores_ranges) {
            Some(Range { start, end }) if fault == Some(Fault::OtherRange) => Some(start + 1..end),
            range => range,
        };
        if let Some(Range { start, end }) = &range {
            let text = format!("bytes {start}-{}/{len}", end - 1);
            headers.insert(CONTENT_RANGE, text.parse().unwrap());
        }
        let status = if range.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
        let mut body = contents.slice(range.unwrap_or(0..len));
        headers.insert(CONTENT_LENGTH, body.len().into());
        let mut ends_early = false;
        match fault {
            Some(Fault::Corrupt) => {
                let mut bytes = body.to_vec();
                bytes[0] ^= 1;
                body = bytes.into();
            }
            Some(Fault::Truncated(len) | Fault::IgnoresRangesAndEnds(len)) => {
                ends_early = len < body.len();
                body.truncate(len);
            }
            _ => {}
        }
        let chunks = stream::iter((0..body.len()).step_by(CHUNK).map(move |start| {
            let chunk = body.slice(start..(start + CHUNK).min(body.len()));
            self.seen()[index].sent += chunk.len();
            self.has_changed.notify_all();
            Ok::<_, std::io::Error>(chunk)
        }));
        let end = stream::iter(ends_early.then(|| Err(std::io::ErrorKind::BrokenPipe.into())));
        (status, headers, Body::from_stream(chunks.chain(end))).into_response()
    }

    fn listing(&self, fault: Option<Fault>) -> Value {
        let mut siblings: Vec<Value> = self.files.iter().map(sibling).collect();
        if fault == Some(Fault::Huge) {
            siblings.extend((0..900).map(|index| {
                let lfs = json!({"sha256": format!("{index:064x}"), "size": 1u64 << 40});
                json!({"rfilename": format!("{index}.safetensors"), "lfs": lfs})
            }));
        }
        let commit = if fault == Some(Fault::OtherCommit) { NEXT_COMMIT } else { COMMIT };
        json!({"sha": commit, "siblings": siblings})
    }
}

fn sibling((path, contents): &(String, Bytes)) -> Value {
    if is_large(contents) {
        let mut context = Context::new(&SHA256);
        context.update(contents);
        let lfs = json!({"sha256": hex(context), "size": contents.len()});
        return json!({"rfilename": path, "size": contents.len(), "lfs": lfs});
    }
    let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    context.update(format!("blob {}\0", contents.len()).as_bytes());
    context.update(contents);
    json!({"rfilename": path, "size": contents.len(), "blobId": hex(context)})
}

fn is_large(contents: &[u8]) -> bool {
    contents.len() > 1 << 20
}

fn hex(context: Context) -> String {
    context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn parse_range(text: &str) -> Range<usize> {
    let (start, last) = text.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
    start.parse().unwrap()..last.parse::<usize>().unwrap() + 1
}
