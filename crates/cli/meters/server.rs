//! The meters of a server: reads all of them, creates one.

use std::collections::BTreeSet;

use anyhow::{Result, anyhow, bail};
use meterline_components::{Api, ApiBody, ApiResponse, ApiVersion};

use super::definition::{Definition, page};

/// How many meters are requested at once.
const PAGE_SIZE: usize = 100;
/// The most pages that are read: ten thousand meters.
const MOST_PAGES: usize = 100;

/// What became of a request to create a meter.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Created {
    Yes,
    /// There is a meter of this name, which was not listed before.
    Exists,
    /// The server refuses this definition; why.
    Refused(String),
}

/// Reads all meters of the server.
///
/// # Errors
/// What happened, and what to do about it.
pub(super) async fn list(api: &Api) -> Result<Vec<Definition>> {
    let [number_key, size_key] = match api.version() {
        ApiVersion::V1 => ["page", "pageSize"],
        ApiVersion::V3 => ["page[number]", "page[size]"],
    };
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    let mut listed = 0_usize;
    for number in 1..=MOST_PAGES {
        let (number, size) = (number.to_string(), PAGE_SIZE.to_string());
        let query = [(number_key, number.as_str()), (size_key, size.as_str())];
        let page = match success(api, api.get(&query).await?)? {
            (ApiBody::Json(body), what) => page(api.version(), body)
                .map_err(|error| anyhow!("{what}; this is no list of meters ({error})"))?,
            (_, what) => bail!("{what}; this is no JSON; check the URL"),
        };
        let before = seen.len();
        listed = listed.saturating_add(page.slugs.len());
        seen.extend(page.slugs);
        let is_new = seen.len() > before;
        if is_new {
            found.extend(page.meters);
        }
        // A server may limit the size of a page, and OpenMeter's API v1 ignores its number in some
        // versions and says no total: a page without anything new is the end.
        if !is_new || page.total.is_some_and(|total| listed as f64 >= total) {
            return Ok(found);
        }
    }
    bail!(
        "{} lists more than {} meters, which are not all read; nothing was compared",
        api.shown(),
        MOST_PAGES.saturating_mul(PAGE_SIZE)
    )
}

/// Creates a meter.
///
/// # Errors
/// What happened, and what to do about it. It is unknown whether the meter was created.
pub(super) async fn create(api: &Api, meter: &Definition) -> Result<Created> {
    let body = meter.body(api.version())?;
    let response = api.post(body.into_bytes()).await?;
    match (response.status, &response.body) {
        (409, _) => Ok(Created::Exists),
        (400 | 422, ApiBody::Json(_)) => Ok(Created::Refused(response.what)),
        _ => success(api, response).map(|_| Created::Yes),
    }
}

/// Returns the body of a response that is a success, with the response for people.
fn success(api: &Api, response: ApiResponse) -> Result<(ApiBody, String)> {
    let ApiResponse { status, what, body } = response;
    let remedy = match (status, &body) {
        (200..=299, ApiBody::Json(_) | ApiBody::Other) => {
            // The body may be long, and is of no use to people.
            let what = format!("{} answered {status}", api.shown());
            return Ok((body, what));
        }
        (200..=299, ApiBody::LongerThan(bytes)) => {
            bail!(
                "{} answered more than {bytes} bytes; check the URL",
                api.shown()
            )
        }
        (200..=299, ApiBody::CutOff) => {
            "the response was cut off, or took longer than --timeout; try again"
        }
        (200..=299, ApiBody::Page) => {
            "this is a web page and not the API; check the URL and its port, or is there a proxy \
             in between?"
        }
        (300..=399, _) => "redirects are not followed; check the URL",
        (401, _) if !api.has_token() => {
            "no token was sent; set the variable OPENMETER_TOKEN, or use --token"
        }
        (401, _) => "check the token (--token or the variable OPENMETER_TOKEN)",
        (403, _) => "the token does not grant this; use one that may read and create meters",
        (404 | 405 | 410, _) => {
            "there is no API for meters at this URL; write for example https://openmeter.cloud, or \
             https://eu.api.konghq.com/v3/openmeter for Konnect, and check --api"
        }
        (408 | 425 | 429, _) => "the server is busy; try again later",
        (501, _) => {
            "this server takes no definitions of meters; add what `meterline meters print --api \
             config` prints to its config.yaml"
        }
        (500..=599, _) => "the server failed; try again later, or ask its operator",
        _ => "check the URL and --api",
    };
    bail!("{what}; {remedy}")
}
