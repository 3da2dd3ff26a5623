//! The two forms of OpenMeter's API, and the URLs of their operations.

use reqwest::Url;

use crate::http::parse_url;

/// The end of the path of a base URL in the third form.
const V3: &str = "/v3/openmeter";

/// A form of OpenMeter's API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApiVersion {
    /// `/api/v1` of OpenMeter.
    V1,
    /// `/v3/openmeter` of Konnect, `/api/v3/openmeter` of OpenMeter.
    V3,
}

impl ApiVersion {
    /// Returns the form that a base URL has.
    fn of(url: &Url) -> Self {
        if url.path().trim_end_matches('/').ends_with(V3) {
            Self::V3
        } else {
            Self::V1
        }
    }
}

/// Returns the form of the API and the URL of an operation, such as `events`. Without a `version`
/// the form of the base URL decides.
///
/// # Errors
/// Returns an error if the base is no URL, or is one of another form than `version`.
pub(crate) fn operation(
    base: &str,
    version: Option<ApiVersion>,
    name: &str,
) -> Result<(ApiVersion, Url), String> {
    let mut url = parse_url(base.trim())?;
    let form = ApiVersion::of(&url);
    let path = url.path().trim_end_matches('/');
    let path = match (form, version.unwrap_or(form)) {
        (ApiVersion::V1, ApiVersion::V1) => format!("{path}/api/v1/{name}"),
        (ApiVersion::V3, ApiVersion::V3) => format!("{path}/{name}"),
        (ApiVersion::V1, ApiVersion::V3) if path.ends_with("/v3") => {
            format!("{path}/openmeter/{name}")
        }
        (ApiVersion::V1, ApiVersion::V3) => format!("{path}/api{V3}/{name}"),
        (ApiVersion::V3, ApiVersion::V1) => {
            return Err(format!(
                "a URL that ends in {V3} is one of the API v3; write it without this end for the \
                 API v1"
            ));
        }
    };
    url.set_path(&path);
    Ok((version.unwrap_or(form), url))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_decides_the_form_unless_one_is_chosen() {
        use ApiVersion::{V1, V3};
        for (base, version, expected, url) in [
            ("https://a/", None, V1, "https://a/api/v1/meters"),
            (" https://a/p ", Some(V1), V1, "https://a/p/api/v1/meters"),
            (
                "https://a",
                Some(V3),
                V3,
                "https://a/api/v3/openmeter/meters",
            ),
            (
                "https://a/v3/",
                Some(V3),
                V3,
                "https://a/v3/openmeter/meters",
            ),
            (
                "https://a/v3/openmeter/",
                None,
                V3,
                "https://a/v3/openmeter/meters",
            ),
            (
                "https://a/api/v3/openmeter",
                Some(V3),
                V3,
                "https://a/api/v3/openmeter/meters",
            ),
        ] {
            let (form, found) = operation(base, version, "meters").unwrap();
            assert_eq!((form, found.as_str()), (expected, url), "{base}");
        }
        let wrong = operation("https://a/v3/openmeter", Some(V1), "meters").unwrap_err();
        assert!(wrong.contains("API v3"), "{wrong}");
        assert!(operation("a:80", None, "meters").is_err());
    }
}
