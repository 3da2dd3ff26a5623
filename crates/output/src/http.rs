//! What the HTTP outputs share: the client, sending a request, and reading its response.

use std::{
    error::Error,
    io,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use meterline_core::WriteError;
use reqwest::{
    Client, Request, RequestBuilder, Response, Url,
    header::{ACCEPT, CONTENT_TYPE, HeaderName, RETRY_AFTER, USER_AGENT},
    redirect::Policy,
};

use tracing::debug;

use crate::{
    answers::{End, Protocol, ResponseBody, SLOW},
    tls::Tls,
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The number of characters of a response that are shown.
const SHOWN: usize = 300;
/// The number of bytes of a response to events that are read. The server decides how long it is, and the
/// process holds it in memory.
const READ: usize = 64 * 1024;

/// Returns a client that follows no redirects: an event that is sent elsewhere is not delivered.
///
/// # Errors
/// Returns an error if the trusted certificates cannot be read.
pub(crate) fn client(timeout: Duration, tls: &Tls) -> Result<Client, String> {
    // Another part of the process may have installed a provider already; that one stays in use.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = Client::builder()
        .user_agent(concat!("meterline/", env!("CARGO_PKG_VERSION")))
        .redirect(Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(timeout)
        .tcp_keepalive(Duration::from_secs(15))
        .pool_idle_timeout(Duration::from_secs(60));
    let builder = match tls.roots()? {
        None => builder,
        Some(roots) => builder.tls_certs_only(roots),
    };
    builder
        .build()
        .map_err(|error| format!("cannot create an HTTP client: {error}"))
}

/// Sends a request with this number of events and returns what its response means. `url` is for
/// people and has no credentials.
pub(crate) async fn send(
    request: RequestBuilder,
    url: &str,
    protocol: &Protocol,
    events: usize,
) -> Result<(), WriteError> {
    let (response, secrets) = exchange(request, url, events).await?;
    let after = retry_after(&response);
    let received = read(response, url, &secrets, READ).await;
    protocol.meaning(received.status, &received.body, received.what, after)
}

/// A response whose content is needed.
pub(crate) struct Received {
    pub(crate) status: u16,
    /// The response for people: URL, status and the beginning of the body.
    pub(crate) what: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) body: ResponseBody,
}

/// Sends a request without events and returns its response with at most `limit` bytes of its body.
/// `url` is for people and has no credentials.
pub(crate) async fn receive(
    request: RequestBuilder,
    url: &str,
    limit: usize,
) -> Result<Received, WriteError> {
    let (response, secrets) = exchange(request, url, 0).await?;
    Ok(read(response, url, &secrets, limit).await)
}

/// Sends a request; returns the response and what of the request must not be shown.
async fn exchange(
    request: RequestBuilder,
    url: &str,
    events: usize,
) -> Result<(Response, Vec<String>), WriteError> {
    let (client, request) = request.build_split();
    let request = request.map_err(|error| unreachable(url, error))?;
    let secrets = secrets(&request);
    let bytes = request.body().and_then(reqwest::Body::as_bytes);
    let bytes = bytes.map_or(0, <[u8]>::len);
    let start = Instant::now();
    let response = client.execute(request).await;
    let milliseconds = start.elapsed().as_millis();
    let response = response.map_err(|error| {
        let error = unreachable(url, error);
        debug!(url, events, bytes, milliseconds, "request failed: {error}");
        error
    })?;
    debug!(
        url,
        events,
        bytes,
        status = response.status().as_u16(),
        milliseconds,
        "request"
    );
    Ok((response, secrets))
}

/// Reads at most `limit` bytes of a response.
async fn read(response: Response, url: &str, secrets: &[String], limit: usize) -> Received {
    let status = response.status();
    let (bytes, body) = read_body(response, secrets, limit).await;
    let what = if body.text.is_empty() {
        format!("{url} answered {status}")
    } else {
        format!("{url} answered {status}: {}", body.text)
    };
    Received {
        status: status.as_u16(),
        what,
        bytes,
        body,
    }
}

/// The error for a request without a response.
fn unreachable(url: &str, error: reqwest::Error) -> WriteError {
    if is_untrusted(&error) {
        return WriteError::Retry {
            reason: format!(
                "{url} is not trusted: {}; check its certificate and `tls.root_cas_file`",
                cause(error)
            ),
            after: Some(SLOW),
        };
    }
    let connected = error.is_request() && !error.is_connect() || error.is_body();
    let timed_out = error.is_timeout() && !error.is_connect();
    let reason = format!("cannot reach {url}: {}", cause(error));
    if connected || timed_out {
        // The server was reachable and then failed, which may be because of the request.
        WriteError::Failed {
            reason,
            after: None,
        }
    } else {
        WriteError::Retry {
            reason,
            after: None,
        }
    }
}

/// Returns the pause that a response requests, in either form (RFC 9110, section 10.2.3). Returns
/// none for an invalid value and for a time that has passed.
#[expect(
    clippy::disallowed_methods,
    reason = "`Retry-After` may be a time of day"
)]
fn retry_after(response: &Response) -> Option<Duration> {
    let value = response.headers().get(RETRY_AFTER)?.to_str().ok()?;
    parse_retry_after(value, Utc::now())
}

fn parse_retry_after(value: &str, now: DateTime<Utc>) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        let seconds = value.parse::<u64>().unwrap_or(u64::MAX);
        return (seconds > 0).then_some(Duration::from_secs(seconds));
    }
    let at = DateTime::<Utc>::from(httpdate::parse_http_date(value).ok()?);
    (at - now).to_std().ok().filter(|wait| !wait.is_zero())
}

async fn read_body(
    response: Response,
    secrets: &[String],
    limit: usize,
) -> (Vec<u8>, ResponseBody) {
    let declared = response.headers().get(CONTENT_TYPE);
    let declared = declared.and_then(|value| value.to_str().ok());
    let declared = declared.map(media_type).unwrap_or_default();
    let (body, end) = beginning(response, limit).await;
    let json = serde_json::from_slice::<serde_json::Value>(&body).ok();
    let detail = json.as_ref().and_then(|problem| {
        ["detail", "title", "message"]
            .iter()
            .find_map(|key| problem.get(key)?.as_str().map(ToOwned::to_owned))
    });
    let text = detail.unwrap_or_else(|| String::from_utf8_lossy(&body).into_owned());
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let line = secrets
        .iter()
        .fold(line, |line, secret| line.replace(secret.as_str(), "***"));
    let read = ResponseBody {
        // A control character could change the terminal that shows it.
        text: line
            .chars()
            .map(|it| if it.is_control() { '\u{fffd}' } else { it })
            .take(SHOWN)
            .collect(),
        // Some servers declare a type for an empty body.
        is_page: !body.is_empty() && (is_page_type(&declared) || is_page(&body)),
        is_problem: declared == "application/problem+json"
            && json.is_some_and(|problem| problem.is_object()),
        is_empty: body.is_empty(),
        end,
    };
    (body, read)
}

/// Returns at most `limit` bytes of a body, and how it ended. A connection is reused if the body
/// is read to its end; otherwise it is closed together with the response.
async fn beginning(mut response: Response, limit: usize) -> (Vec<u8>, End) {
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(None) => return (body, End::Complete),
            Err(_) => return (body, End::CutOff),
            Ok(Some(chunk)) => {
                let space = limit.saturating_sub(body.len());
                body.extend_from_slice(chunk.get(..space).unwrap_or(&chunk));
                if body.len() >= limit {
                    return (body, End::Longer);
                }
            }
        }
    }
}

/// Returns a media type without its parameters, in lower case.
fn media_type(content_type: &str) -> String {
    let kind = content_type.split(';').next().unwrap_or_default();
    kind.trim().to_ascii_lowercase()
}

fn is_page_type(media_type: &str) -> bool {
    ["text/html", "application/xhtml+xml"].contains(&media_type)
}

/// Whether a body is a web page, independent of its declared type.
fn is_page(body: &[u8]) -> bool {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let body = body.trim_ascii_start();
    ["<!doctype html", "<html"].iter().any(|start| {
        body.get(..start.len())
            .is_some_and(|beginning| beginning.eq_ignore_ascii_case(start.as_bytes()))
    })
}

/// Returns the parts of a request that must not be shown, because a response may repeat them.
fn secrets(request: &Request) -> Vec<String> {
    /// Shorter strings are likely to occur in ordinary text.
    const SHORTEST: usize = 4;
    let url = request.url();
    let mut secrets: Vec<_> = [Some(url.username()), url.password(), url.query()]
        .into_iter()
        .flatten()
        .map(str::to_owned)
        .collect();
    secrets.extend(url.query_pairs().map(|(_, value)| value.into_owned()));
    let plain = |name: &HeaderName| [CONTENT_TYPE, USER_AGENT, ACCEPT].contains(name);
    for (_, value) in request.headers().iter().filter(|(name, _)| !plain(name)) {
        let value = value.to_str().unwrap_or_default();
        secrets.push(value.to_owned());
        // The scheme of an `Authorization` header is not secret.
        secrets.extend(value.split_once(' ').map(|(_, rest)| rest.to_owned()));
    }
    secrets.retain(|secret| secret.len() >= SHORTEST);
    // Longer ones come first, because they may contain shorter ones.
    secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    secrets
}

/// Whether the cause of the error is the server's certificate.
fn is_untrusted(error: &(dyn Error + 'static)) -> bool {
    if let Some(error) = error.downcast_ref::<rustls::Error>() {
        return matches!(error, rustls::Error::InvalidCertificate(_));
    }
    // `source` of an I/O error skips the error that it wraps.
    let inner = error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref)
        .is_some_and(|inner| is_untrusted(inner));
    inner || error.source().is_some_and(is_untrusted)
}

/// Returns the innermost cause, which is the most specific one ("connection refused"), without the
/// URL.
fn cause(error: reqwest::Error) -> String {
    let timed_out = error.is_timeout();
    let error = error.without_url();
    let mut cause: &dyn Error = &error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    if timed_out {
        format!("no answer in time ({cause})")
    } else {
        cause.to_string()
    }
}

/// Parses a URL with the scheme http or https.
pub(crate) fn parse_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text)
        .map_err(|error| format!("this is not a URL: {error}; write for example https://host"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!(
            "the scheme `{}` is not http or https",
            url.scheme()
        ));
    }
    Ok(url)
}

/// Returns a URL for people: without user, password and query, which may contain secrets.
pub(crate) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    // Both fail only for URLs without a host, which have no user either.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_in_both_forms_and_in_none() {
        let now = DateTime::parse_from_rfc3339("2025-01-01T00:00:00Z")
            .unwrap()
            .to_utc();
        let parse = |value| parse_retry_after(value, now);
        assert_eq!(parse("7"), Some(Duration::from_secs(7)));
        assert_eq!(parse("0"), None);
        assert_eq!(
            parse("1000000000"),
            Some(Duration::from_secs(1_000_000_000))
        );
        assert_eq!(
            parse("99999999999999999999"),
            Some(Duration::from_secs(u64::MAX))
        );
        assert_eq!(
            parse("Wed, 01 Jan 2025 00:00:09 GMT"),
            Some(Duration::from_secs(9))
        );
        assert_eq!(parse("Tue, 31 Dec 2024 00:00:09 GMT"), None);
        for garbage in ["", "soon", "-3", "1.5", "Wed, 01 Foo"] {
            assert_eq!(parse(garbage), None, "{garbage}");
        }
    }

    /// Values that servers send, and invalid ones.
    const KNOWN: &str = include_str!("../../../tests/corpora/retry-after/known.txt");

    proptest::proptest! {
        #![proptest_config(proptest::test_runner::Config::with_cases(20_000))]

        #[test]
        fn any_retry_after_is_a_pause_or_none(
            line in proptest::sample::select(KNOWN.lines().collect::<Vec<_>>()),
            at in 0..40_usize,
            cut in 0..3_usize,
            put in "[0-9A-Za-z ,:;+-]{0,3}",
            now in 0..253_402_300_799_i64,
        ) {
            let before = line.chars().take(at);
            let after = line.chars().skip(at.saturating_add(cut));
            let value: String = before.chain(put.chars()).chain(after).collect();
            let now = DateTime::from_timestamp(now, 0).unwrap();
            let pause = parse_retry_after(&value, now);
            proptest::prop_assert_ne!(pause, Some(Duration::ZERO));
            if let Ok(seconds) = value.trim().parse::<u32>() && !value.contains('+') {
                let asked = (seconds > 0).then_some(Duration::from_secs(seconds.into()));
                proptest::prop_assert_eq!(pause, asked);
            }
        }
    }

    #[test]
    fn a_media_type_is_read_without_parameters() {
        assert_eq!(
            media_type("Application/Problem+JSON; charset=utf-8"),
            "application/problem+json"
        );
    }

    #[test]
    fn credentials_in_a_url_are_not_shown() {
        let url = parse_url("https://user:secret@host/path?key=secret").unwrap();
        assert_eq!(shown(&url), "https://host/path");
        assert!(parse_url("ftp://host").is_err());
        assert!(parse_url("host:80").is_err());
    }
}
