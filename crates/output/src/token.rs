//! The bearer token of a server: a text, or a file that is read again when it changes.

use std::{
    net::IpAddr,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use meterline_core::WriteError;
use reqwest::{Url, header::HeaderValue};

/// Where a token comes from.
pub(crate) enum Token {
    None,
    Text(String),
    File(PathBuf),
}

impl Token {
    /// Parses a token for a server. It may come from a variable and have white space around it.
    ///
    /// # Errors
    /// Returns an error if the URL has credentials too, or the token cannot be in a header.
    pub(crate) fn parse(text: &str, url: &Url) -> Result<Self, String> {
        let token = text.trim();
        if token.is_empty() {
            return Ok(Self::None);
        }
        if has_user(url) {
            return Err(
                "the URL has a user or a password, and a request can carry either these or a \
                 token; leave out one"
                    .to_owned(),
            );
        }
        if let Some(path) = token.strip_prefix("file://") {
            return Ok(Self::File(path.into()));
        }
        bearer(token).map_err(|error| error.to_string())?;
        Ok(Self::Text(token.to_owned()))
    }

    /// Whether a request carries no token.
    pub(crate) fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }
}

/// Returns a warning about a token and its destination. The configuration may be intended, so this
/// is no error.
pub(crate) fn token_warning(url: &Url, token: &Token) -> Option<String> {
    if !token.is_none() {
        return unencrypted(url, token);
    }
    if is_local(url) || has_user(url) {
        return None;
    }
    Some(format!(
        "there is no token for {}; if it requires one, set `token` (the variable OPENMETER_TOKEN \
         of the presets)",
        url.host_str().unwrap_or_default()
    ))
}

/// Returns a warning about a token that is sent to another host without encryption.
pub(crate) fn unencrypted(url: &Url, token: &Token) -> Option<String> {
    if token.is_none() || is_local(url) || url.scheme() != "http" {
        return None;
    }
    Some(format!(
        "the token is sent to {} over http, without encryption; use https",
        url.host_str().unwrap_or_default()
    ))
}

fn has_user(url: &Url) -> bool {
    !url.username().is_empty() || url.password().is_some()
}

fn is_local(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|it| it.is_loopback())
}

/// A token, and what was last read of its file.
pub(crate) struct TokenReader {
    token: Token,
    /// The content of the token file, and its modification time when it was read.
    read: Mutex<Option<(SystemTime, HeaderValue)>>,
}

impl TokenReader {
    pub(crate) fn new(token: Token) -> Self {
        Self {
            token,
            read: Mutex::new(None),
        }
    }

    /// Whether a request carries no token.
    pub(crate) fn is_none(&self) -> bool {
        self.token.is_none()
    }

    /// Discards what was read of the file: a replaced file may have the same modification time.
    pub(crate) fn forget(&self) {
        *self.read.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Returns the value of the header `Authorization`.
    ///
    /// # Errors
    /// Returns [`WriteError::Unauthorized`] if the file cannot be read.
    pub(crate) fn authorization(&self) -> Result<Option<HeaderValue>, WriteError> {
        match &self.token {
            Token::None => Ok(None),
            Token::Text(token) => bearer(token).map(Some),
            Token::File(path) => {
                let cannot = |why: &dyn std::fmt::Display| WriteError::Unauthorized {
                    reason: format!("cannot read the token in {}: {why}", path.display()),
                };
                let problem = |error: std::io::Error| cannot(&error);
                let changed = std::fs::metadata(path)
                    .and_then(|metadata| metadata.modified())
                    .map_err(problem)?;
                let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some((at, value)) = read.as_ref()
                    && *at == changed
                {
                    return Ok(Some(value.clone()));
                }
                let text = std::fs::read_to_string(path).map_err(problem)?;
                if text.trim().is_empty() {
                    return Err(cannot(&"it is empty"));
                }
                let value = bearer(text.trim())?;
                *read = Some((changed, value.clone()));
                Ok(Some(value))
            }
        }
    }
}

fn bearer(token: &str) -> Result<HeaderValue, WriteError> {
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| {
        WriteError::Unauthorized {
            reason: "the token contains characters that an HTTP header must not contain".to_owned(),
        }
    })?;
    value.set_sensitive(true);
    Ok(value)
}
