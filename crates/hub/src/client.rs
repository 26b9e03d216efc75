//! Requests to a hub: redirects, the token, statuses, and when to try again.

use std::ops::Range;
use std::time::Duration;

use reqwest::header::{
    ACCEPT_ENCODING, AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, RANGE, RETRY_AFTER,
};
use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder, Response, StatusCode, Url};

use crate::error::{Error, Result};

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest wait between two pieces of an answer.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// Redirects followed for one request; the hub itself needs one or two.
const MAX_REDIRECTS: usize = 5;
/// Tries in a row that bring nothing before giving up.
pub(crate) const MAX_TRIES: u32 = 5;
/// Wait before the second try; it doubles with each further one.
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// Longest wait between two tries, whatever the hub asks for.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// The hub's word for why it refuses, and what it says of a repository whose terms must be accepted.
const REFUSAL_HEADER: &str = "x-error-code";
const GATED: &str = "GatedRepo";
/// Bytes of an error's body shown.
const EXCERPT_LEN: usize = 200;

/// A hub and how to ask it.
#[derive(Debug, Clone)]
pub(crate) struct Hub {
    http: Client,
    endpoint: Url,
    /// The header's value.
    token: Option<HeaderValue>,
}

/// Why one try failed.
pub(crate) enum Failure {
    /// Another try may help.
    Passing {
        /// What happened.
        message: String,
        /// How long the hub asks to wait.
        wait: Option<Duration>,
        /// Whether there was no connection at all.
        is_unreachable: bool,
    },
    /// It would not.
    Final(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

impl Failure {
    /// A failure that another try may mend.
    pub(crate) fn passing(message: impl Into<String>) -> Self {
        Self::Passing { message: message.into(), wait: None, is_unreachable: false }
    }

    /// A status that another try may mend, and how many seconds the hub asks to wait.
    fn of_status(status: StatusCode, wait: Option<u64>) -> Self {
        let (message, wait) = (format!("status {status}"), wait.map(Duration::from_secs));
        Self::Passing { message, wait, is_unreachable: false }
    }

    pub(crate) fn of_transport(error: &reqwest::Error) -> Self {
        let mut message = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            message = cause.to_string();
            source = cause.source();
        }
        Self::Passing { message, wait: None, is_unreachable: error.is_connect() }
    }
}

impl Hub {
    /// A hub at `endpoint`. A token is sent there and nowhere else, and never in the clear over a network.
    pub(crate) fn new(http: ClientBuilder, endpoint: &str, token: Option<String>) -> Result<Self> {
        let bad = |message: String| Error::BadOption {
            option: "endpoint",
            value: endpoint.to_owned(),
            message,
        };
        let url =
            Url::parse(endpoint.trim_end_matches('/')).map_err(|error| bad(error.to_string()))?;
        let is_loopback = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
        match url.scheme() {
            "https" => {}
            "http" if is_loopback || token.is_none() => {}
            "http" => return Err(bad("a token is not sent over plain http; use https".to_owned())),
            _ => return Err(bad("use an address that begins with https://".to_owned())),
        }
        let token = token.map(|token| bearer(&token)).transpose()?;
        let http = http
            .redirect(Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .user_agent(concat!("harmonium/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| bad(error.to_string()))?;
        Ok(Self { http, endpoint: url, token })
    }

    /// The host, for messages.
    pub(crate) fn host(&self) -> String {
        let host = self.endpoint.host_str().unwrap_or_default();
        self.endpoint.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }

    /// The address of a path of slash-separated segments, which are escaped as needed.
    pub(crate) fn url(&self, segments: &[&str]) -> Url {
        let mut url = self.endpoint.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments.iter().flat_map(|part| part.split('/')));
        }
        url
    }

    /// Asks for an address, or a range of it, and follows redirects. Returns the first answer's headers too, for
    /// only those are the hub's own. `repo` and `what` are for messages.
    pub(crate) async fn get(
        &self,
        url: Url,
        range: Option<&Range<u64>>,
        repo: &str,
        what: &str,
    ) -> Result<(HeaderMap, Response), Failure> {
        let mut url = url;
        let mut own_headers = None;
        for _ in 0..=MAX_REDIRECTS {
            // Ranges and lengths are those of the file itself.
            let mut request = self.http.get(url.clone()).header(ACCEPT_ENCODING, "identity");
            if let Some(range) = range {
                request = request.header(RANGE, format!("bytes={}-{}", range.start, range.end - 1));
            }
            let is_own = url.origin() == self.endpoint.origin();
            if let Some(token) = self.token.as_ref().filter(|_| is_own) {
                request = request.header(AUTHORIZATION, token);
            }
            let response = request.send().await.map_err(|error| Failure::of_transport(&error))?;
            let headers = own_headers.get_or_insert_with(|| response.headers().clone()).clone();
            if !response.status().is_redirection() {
                return match response.status() {
                    status if status.is_success() => Ok((headers, response)),
                    // A signed address that has ended: the next try begins at the hub and gets a new one.
                    status if !is_own => {
                        let host = url.host_str().unwrap_or_default();
                        Err(Failure::passing(format!("status {status} from {host}")))
                    }
                    _ => Err(self.failure(response, repo, what).await),
                };
            }
            let place = response.headers().get(LOCATION).and_then(|place| place.to_str().ok());
            let next = place.and_then(|place| url.join(place).ok());
            url = next.ok_or_else(|| Failure::passing("a redirect that leads nowhere"))?;
            let is_downgrade = self.endpoint.scheme() == "https" && url.scheme() != "https";
            if is_downgrade {
                return Err(Failure::passing("a redirect from https to plain http"));
            }
        }
        Err(Failure::passing(format!("more than {MAX_REDIRECTS} redirects")))
    }

    async fn failure(&self, response: Response, repo: &str, what: &str) -> Failure {
        let status = response.status();
        let wait =
            response.headers().get(RETRY_AFTER).and_then(|wait| wait.to_str().ok()?.parse().ok());
        let repo = repo.to_owned();
        let is_gated = response.headers().get(REFUSAL_HEADER).is_some_and(|code| code == GATED);
        match status {
            StatusCode::UNAUTHORIZED if !is_gated => {
                Error::Unauthorized { repo, had_token: self.token.is_some() }.into()
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let page = self.url(&[&repo]).to_string();
                Error::Forbidden { repo, status: status.as_u16(), page }.into()
            }
            StatusCode::NOT_FOUND => Error::NotFound { what: what.to_owned() }.into(),
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
                Failure::of_status(status, wait)
            }
            _ if status.is_server_error() => Failure::of_status(status, wait),
            _ => {
                let excerpt = excerpt(response).await;
                Error::Status { what: what.to_owned(), status: status.as_u16(), excerpt }.into()
            }
        }
    }

    /// What to do after the `tries`-th try in a row that brought nothing: wait this long, or give up.
    pub(crate) fn wait_after(
        &self,
        failure: Failure,
        tries: u32,
        what: &str,
    ) -> Result<(Duration, String)> {
        match failure {
            Failure::Final(error) => Err(error),
            Failure::Passing { message, is_unreachable: true, .. } if tries >= MAX_TRIES => {
                Err(Error::NoNetwork { host: self.host(), message })
            }
            Failure::Passing { message, .. } if tries >= MAX_TRIES => {
                Err(Error::GivenUp { what: what.to_owned(), tries, message })
            }
            Failure::Passing { message, wait, .. } => {
                let doubled = FIRST_WAIT * 2u32.saturating_pow(tries.saturating_sub(1));
                // Jitter keeps workers that failed together from coming back together.
                let jittered = doubled.mul_f64(0.5 + fastrand::f64());
                Ok((wait.unwrap_or(jittered).min(MAX_WAIT), message))
            }
        }
    }
}

/// The header that carries a token; what it is stays out of messages.
fn bearer(token: &str) -> Result<HeaderValue> {
    let mut header =
        HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| Error::BadOption {
            option: "token",
            value: "(not shown)".to_owned(),
            message: "it has characters that no token has".to_owned(),
        })?;
    header.set_sensitive(true);
    Ok(header)
}

/// The beginning of a body, as one line.
async fn excerpt(mut response: Response) -> String {
    let mut bytes = Vec::new();
    while bytes.len() < EXCERPT_LEN {
        match response.chunk().await {
            Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
            _ => break,
        }
    }
    bytes.truncate(EXCERPT_LEN);
    let text = String::from_utf8_lossy(&bytes);
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub(endpoint: &str, token: Option<&str>) -> Result<Hub> {
        // An error says that another test has done it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Hub::new(Client::builder(), endpoint, token.map(str::to_owned))
    }

    #[test]
    fn a_token_is_not_sent_in_the_clear() {
        let token = Some("hf_secret");
        let refused = hub("http://mirror.example", token).unwrap_err();
        assert!(refused.to_string().contains("plain http"), "{refused}");
        assert!(!refused.to_string().contains("hf_secret"));
        assert!(hub("ftp://mirror.example", None).is_err());
        assert!(hub("no address", None).is_err());
        assert!(hub("http://127.0.0.1:1", token).is_ok());
        let broken = hub("https://mirror.example", Some("hf_secret\nx")).unwrap_err();
        assert!(!broken.to_string().contains("hf_secret"), "{broken}");
    }

    #[test]
    fn segments_are_escaped_and_joined_to_the_endpoint() {
        let hub = hub("http://localhost:9/mirror/", None).unwrap();
        let url = hub.url(&["o/n", "resolve", "main", "a b?.json"]);
        assert_eq!(url.as_str(), "http://localhost:9/mirror/o/n/resolve/main/a%20b%3F.json");
    }

    #[test]
    fn waits_grow_and_end() {
        let hub = hub("http://localhost:9", None).unwrap();
        for tries in 1..MAX_TRIES {
            let (wait, _) = hub.wait_after(Failure::passing("x"), tries, "f").unwrap();
            assert!(wait <= FIRST_WAIT * 3 * 2u32.pow(tries - 1) / 2 && wait >= FIRST_WAIT / 2);
        }
        let end = hub.wait_after(Failure::passing("x"), MAX_TRIES, "f").unwrap_err();
        assert!(matches!(end, Error::GivenUp { .. }), "{end}");
        let asked = Failure::Passing {
            message: String::new(),
            wait: Some(Duration::from_secs(7)),
            is_unreachable: false,
        };
        assert_eq!(hub.wait_after(asked, 1, "f").unwrap().0, Duration::from_secs(7));
    }
}
