//! Requests to OpenMeter's API that deliver no events, such as those that define meters.

use std::{fmt, time::Duration};

use meterline_core::WriteError;
use reqwest::{
    Client, RequestBuilder, Url,
    header::{ACCEPT, CONTENT_TYPE},
};
use serde_json::Value;

use crate::{
    address::{ApiVersion, operation},
    answers::{End, ResponseBody},
    http::{client, receive, shown},
    tls::Tls,
    token::{Token, TokenReader, unencrypted},
};

/// The most bytes of a response that are read. A list of a hundred meters has about a hundredth.
const MOST_BYTES: usize = 8 * 1024 * 1024;

/// How the API is reached.
pub struct ApiSettings<'a> {
    /// The base URL, as the output `openmeter` has it.
    pub url: &'a str,
    /// The form of the API; `None`: as the URL says.
    pub version: Option<ApiVersion>,
    /// The operations' name in the URL, such as `meters`.
    pub resource: &'a str,
    /// The bearer token, or `file://` and the path of a file with it; empty: none.
    pub token: &'a str,
    /// A PEM file with the certificate authorities to trust instead of those of the system.
    pub root_cas_file: Option<String>,
    /// The time within which a request must be answered.
    pub timeout: Duration,
}

/// The operations on one kind of resource, such as meters.
pub struct Api {
    client: Client,
    version: ApiVersion,
    url: Url,
    shown: String,
    token: TokenReader,
    warning: Option<String>,
}

/// Why there is no response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError(String);

impl fmt::Display for ApiError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::error::Error for ApiError {}

impl From<WriteError> for ApiError {
    fn from(error: WriteError) -> Self {
        Self(error.to_string())
    }
}

/// A response.
#[derive(Debug)]
pub struct ApiResponse {
    /// The status code.
    pub status: u16,
    /// The response for people: URL, status and the beginning of the body, without secrets.
    pub what: String,
    /// The body.
    pub body: ApiBody,
}

/// The body of a response.
#[derive(Debug, PartialEq)]
pub enum ApiBody {
    /// JSON.
    Json(Value),
    /// A web page, which comes from a proxy or from another server.
    Page,
    /// Anything else, or nothing.
    Other,
    /// More than this number of bytes.
    LongerThan(usize),
    /// The connection was closed or the time limit passed before the end.
    CutOff,
}

impl Api {
    /// Prepares requests. Nothing is sent.
    ///
    /// # Errors
    /// Returns an error if the URL, the token or the file of certificates is unusable.
    pub fn new(settings: ApiSettings<'_>) -> Result<Self, ApiError> {
        let (version, url) =
            operation(settings.url, settings.version, settings.resource).map_err(|reason| {
                // Not the URL itself, which may contain a password.
                ApiError(format!("the URL of the server: {reason}"))
            })?;
        let token = Token::parse(settings.token, &url).map_err(ApiError)?;
        let tls = Tls::trusting(settings.root_cas_file);
        Ok(Self {
            client: client(settings.timeout, &tls).map_err(ApiError)?,
            version,
            shown: shown(&url),
            warning: unencrypted(&url, &token),
            url,
            token: TokenReader::new(token),
        })
    }

    /// The form of the API.
    #[must_use]
    pub fn version(&self) -> ApiVersion {
        self.version
    }

    /// The URL of the operations, without credentials.
    #[must_use]
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// Whether requests carry a token.
    #[must_use]
    pub fn has_token(&self) -> bool {
        !self.token.is_none()
    }

    /// A warning about a token that is sent without encryption.
    #[must_use]
    pub fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    /// Reads, with these parameters in the query.
    ///
    /// # Errors
    /// Returns an error if there is no response, or the file of the token cannot be read.
    pub async fn get(&self, query: &[(&str, &str)]) -> Result<ApiResponse, ApiError> {
        let mut url = self.url.clone();
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        self.send(self.client.get(url)).await
    }

    /// Creates from a JSON body.
    ///
    /// # Errors
    /// As [`Api::get`]. The server may have created it nevertheless.
    pub async fn post(&self, body: Vec<u8>) -> Result<ApiResponse, ApiError> {
        let request = self.client.post(self.url.clone());
        let request = request.header(CONTENT_TYPE, "application/json").body(body);
        self.send(request).await
    }

    async fn send(&self, request: RequestBuilder) -> Result<ApiResponse, ApiError> {
        let mut request = request.header(ACCEPT, "application/json");
        if let Some(authorization) = self.token.authorization()? {
            request = request.header("authorization", authorization);
        }
        let received = receive(request, &self.shown, MOST_BYTES).await?;
        Ok(ApiResponse {
            status: received.status,
            body: body(&received.bytes, &received.body),
            what: received.what,
        })
    }
}

fn body(bytes: &[u8], read: &ResponseBody) -> ApiBody {
    match read.end {
        End::CutOff => ApiBody::CutOff,
        End::Longer => ApiBody::LongerThan(MOST_BYTES),
        End::Complete if read.is_page => ApiBody::Page,
        End::Complete => serde_json::from_slice(bytes).map_or(ApiBody::Other, ApiBody::Json),
    }
}

#[cfg(test)]
mod tests;
