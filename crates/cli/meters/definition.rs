//! A meter as a server defines it, and the two forms in which the API has it.

use std::collections::BTreeMap;

use meterline_components::ApiVersion;
use serde::{Deserialize, Serialize, de::IgnoredAny};
use serde_json::Value;

/// The most characters of a slug.
const LONGEST_SLUG: usize = 64;

/// A meter, with the field names of OpenMeter's API v1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Definition {
    pub(super) slug: String,
    pub(super) name: String,
    pub(super) event_type: String,
    /// In upper case.
    pub(super) aggregation: String,
    /// A JSON path; none where events are counted.
    pub(super) value_property: Option<String>,
    /// The JSON path of each group-by.
    pub(super) group_by: BTreeMap<String, String>,
}

/// How `POST /api/v1/meters` and the file `config.yaml` have a meter.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct V1<'a> {
    slug: &'a str,
    name: &'a str,
    event_type: &'a str,
    aggregation: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_property: Option<&'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    group_by: &'a BTreeMap<String, String>,
}

/// How `POST /v3/openmeter/meters` has a meter.
#[derive(Serialize)]
struct V3<'a> {
    key: &'a str,
    name: &'a str,
    event_type: &'a str,
    aggregation: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_property: Option<&'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    dimensions: &'a BTreeMap<String, String>,
}

/// The section `meters` of the `config.yaml` of a self-hosted OpenMeter.
#[derive(Serialize)]
struct Config<'a> {
    meters: Vec<V1<'a>>,
}

impl Definition {
    /// Returns the body of the request that creates this meter.
    ///
    /// # Errors
    /// Does not occur: text and maps of text are always JSON.
    pub(super) fn body(&self, version: ApiVersion) -> serde_json::Result<String> {
        match version {
            ApiVersion::V1 => serde_json::to_string(&self.v1()),
            ApiVersion::V3 => serde_json::to_string(&V3 {
                key: &self.slug,
                name: &self.name,
                event_type: &self.event_type,
                aggregation: self.aggregation.to_lowercase(),
                value_property: self.value_property.as_deref(),
                dimensions: &self.group_by,
            }),
        }
    }

    fn v1(&self) -> V1<'_> {
        V1 {
            slug: &self.slug,
            name: &self.name,
            event_type: &self.event_type,
            aggregation: &self.aggregation,
            value_property: self.value_property.as_deref(),
            group_by: &self.group_by,
        }
    }
}

/// Returns the YAML of the section `meters` of a self-hosted OpenMeter.
///
/// # Errors
/// Does not occur: text and maps of text are always YAML.
pub(super) fn config(meters: &[Definition]) -> anyhow::Result<String> {
    let meters = meters.iter().map(Definition::v1).collect();
    Ok(serde_saphyr::to_string(&Config { meters })?)
}

/// What both forms of a listed meter have, and fields that the two name differently. A field that is
/// null counts as missing.
trait Listed {
    fn slug(&self) -> &str;
    fn is_deleted(&self) -> bool;
    fn definition(self) -> Definition;
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListedV1 {
    slug: String,
    name: Option<String>,
    event_type: Option<String>,
    aggregation: Option<String>,
    value_property: Option<String>,
    group_by: Option<BTreeMap<String, String>>,
    deleted_at: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct ListedV3 {
    key: String,
    name: Option<String>,
    event_type: Option<String>,
    aggregation: Option<String>,
    value_property: Option<String>,
    dimensions: Option<BTreeMap<String, String>>,
    deleted_at: Option<IgnoredAny>,
}

impl Listed for ListedV1 {
    fn slug(&self) -> &str {
        &self.slug
    }

    fn is_deleted(&self) -> bool {
        self.deleted_at.is_some()
    }

    fn definition(self) -> Definition {
        Definition {
            slug: self.slug,
            name: self.name.unwrap_or_default(),
            event_type: self.event_type.unwrap_or_default(),
            aggregation: self.aggregation.unwrap_or_default().to_uppercase(),
            value_property: self.value_property.filter(|it| !it.is_empty()),
            group_by: self.group_by.unwrap_or_default(),
        }
    }
}

impl Listed for ListedV3 {
    fn slug(&self) -> &str {
        &self.key
    }

    fn is_deleted(&self) -> bool {
        self.deleted_at.is_some()
    }

    fn definition(self) -> Definition {
        Definition {
            slug: self.key,
            name: self.name.unwrap_or_default(),
            event_type: self.event_type.unwrap_or_default(),
            aggregation: self.aggregation.unwrap_or_default().to_uppercase(),
            value_property: self.value_property.filter(|it| !it.is_empty()),
            group_by: self.dimensions.unwrap_or_default(),
        }
    }
}

/// One page of a server's meters.
#[derive(Debug)]
pub(super) struct Page {
    /// Without the deleted ones.
    pub(super) meters: Vec<Definition>,
    /// The slugs of the page, those of deleted meters included.
    pub(super) slugs: Vec<String>,
    /// How many there are on all pages, if the server says so.
    pub(super) total: Option<f64>,
}

/// The answer of the API v3 to a list.
#[derive(Deserialize)]
struct Enveloped {
    data: Vec<ListedV3>,
    meta: Option<Meta>,
}

#[derive(Deserialize)]
struct Meta {
    page: Option<PageMeta>,
}

#[derive(Deserialize)]
struct PageMeta {
    // Konnect declares a number that need not be an integer.
    total: Option<f64>,
}

/// Reads one page of a server's meters.
///
/// # Errors
/// When it is not one.
pub(super) fn page(version: ApiVersion, body: Value) -> serde_json::Result<Page> {
    match version {
        ApiVersion::V1 => {
            let listed: Vec<ListedV1> = serde_json::from_value(body)?;
            Ok(Page::of(listed, None))
        }
        ApiVersion::V3 => {
            let page: Enveloped = serde_json::from_value(body)?;
            let meta = page.meta.and_then(|meta| meta.page);
            Ok(Page::of(page.data, meta.and_then(|page| page.total)))
        }
    }
}

impl Page {
    fn of(listed: Vec<impl Listed>, total: Option<f64>) -> Self {
        let slugs = listed.iter().map(|it| it.slug().to_owned()).collect();
        let present = listed.into_iter().filter(|it| !it.is_deleted());
        Self {
            meters: present.map(Listed::definition).collect(),
            slugs,
            total,
        }
    }
}

/// Whether a server accepts this slug: words of lower-case letters and digits with one underscore
/// between, at most 64 characters.
pub(super) fn is_slug(text: &str) -> bool {
    let is_word = |word: &str| {
        let mut bytes = word.bytes();
        !word.is_empty() && bytes.all(|it| it.is_ascii_lowercase() || it.is_ascii_digit())
    };
    text.len() <= LONGEST_SLUG && text.split('_').all(is_word)
}

/// Returns the `number`-th version of a slug, such as `pod_execution_time_v2`, which is as long as a
/// slug may be.
pub(super) fn versioned(slug: &str, number: usize) -> String {
    let is_version = |text: &str| {
        let digits = text.strip_prefix('v').unwrap_or_default();
        !digits.is_empty() && digits.bytes().all(|it| it.is_ascii_digit())
    };
    let base = match slug.rsplit_once('_') {
        Some((base, last)) if is_version(last) => base,
        _ => slug,
    };
    let version = format!("_v{number}");
    let space = LONGEST_SLUG.saturating_sub(version.len());
    let base: String = base.chars().take(space).collect();
    format!("{}{version}", base.trim_end_matches('_'))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn slugs_follow_the_rules_of_the_server() {
        let longest = "a".repeat(64);
        for slug in ["a", "a_b", "k8s_x_2", "0", &longest] {
            assert!(is_slug(slug), "{slug}");
        }
        let longer = "a".repeat(65);
        for slug in ["", "_a", "a_", "a__b", "A", "a-b", "ä", &longer] {
            assert!(!is_slug(slug), "{slug}");
        }
    }

    #[test]
    fn a_version_replaces_the_one_that_a_slug_has() {
        assert_eq!(versioned("a_b", 2), "a_b_v2");
        assert_eq!(versioned("a_b_v2", 3), "a_b_v3");
        assert_eq!(versioned("a_volume", 2), "a_volume_v2");
        let long = format!("{}_{}", "a".repeat(60), "b".repeat(3));
        let version = versioned(&long, 2);
        assert_eq!(version, format!("{}_v2", "a".repeat(60)));
        assert!(is_slug(&version));
    }

    #[test]
    fn both_forms_of_a_list_are_read() {
        let v1 = json!([
            {"slug": "a", "eventType": "t", "aggregation": "SUM", "valueProperty": "$.v",
             "groupBy": {"g": "$.g"}, "name": "A", "id": "1", "metadata": {}},
            {"slug": "b", "eventType": "t", "aggregation": "COUNT", "valueProperty": "",
             "groupBy": null},
            {"slug": "c", "eventType": "t", "aggregation": "COUNT", "deletedAt": "2025-01-01"},
        ]);
        let v3 = json!({
            "data": [
                {"key": "a", "event_type": "t", "aggregation": "sum", "value_property": "$.v",
                 "dimensions": {"g": "$.g"}, "name": "A", "labels": {}},
                {"key": "b", "event_type": "t", "aggregation": "count", "deleted_at": null},
                {"key": "c", "event_type": "t", "aggregation": "count", "deleted_at": "2025-01-01"},
            ],
            "meta": {"page": {"number": 1, "size": 20, "total": 3}},
        });
        let v1 = page(ApiVersion::V1, v1).unwrap();
        let v3 = page(ApiVersion::V3, v3).unwrap();
        assert_eq!(v1.meters, v3.meters);
        assert_eq!((v1.slugs.len(), v1.total, v3.total), (3, None, Some(3.0)));
        assert_eq!(v1.meters[1].value_property, None);
        for version in [ApiVersion::V1, ApiVersion::V3] {
            for body in [json!({"error": 1}), json!([{"id": 1}]), json!("a")] {
                assert!(page(version, body.clone()).is_err(), "{body}");
            }
        }
    }
}
