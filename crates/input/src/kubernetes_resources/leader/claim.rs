//! The claim of a Lease: the second up to which windows were delivered, and the replica that signed it.
//!
//! The watermark is an annotation, so people can read it and can also change it. A second annotation, the
//! signature, repeats it with the time of the renewal and the identity of the writer. If the two differ, the
//! holder of the Lease did not write the watermark. The writer of an unsigned watermark is unknown: it is followed,
//! and what it skips is counted.
//!
//! A process with several ledgers writes the watermark of each, and the earliest of them where a process with one
//! ledger writes its only one. A watermark of one ledger counts only while its signature is of the last renewal: after
//! that, a process that does not know the ledger holds the Lease.

use k8s_openapi::{
    api::coordination::v1::Lease, apimachinery::pkg::apis::meta::v1::MicroTime, jiff::Timestamp,
};

use sha2::{Digest, Sha256};

use crate::kubernetes_resources::{ledger_name::LedgerName, messages};

/// The second up to which everything was acknowledged, RFC 3339.
const WATERMARK: &str = "watermark";
/// The signature: the watermark again, the microsecond of the renewal and the identity of the writer.
const SIGNED: &str = "watermark-signed";
/// What the names of the annotations begin with.
const PREFIX: &str = "meterline.io/";
/// How long the name of an annotation may be behind the prefix.
const LONGEST: usize = 63;

/// The names of the annotations of one ledger, or of all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Annotations {
    watermark: String,
    signed: String,
}

impl Annotations {
    /// Those of all ledgers of a process.
    pub(crate) fn of_all() -> Self {
        Self::named("")
    }

    /// Those of one ledger of several.
    pub(crate) fn of(name: &LedgerName) -> Self {
        let subject = &name.subject;
        let named = match &name.label {
            None => format!("{subject}."),
            Some(label) => format!("{subject}.{label}."),
        };
        if named.len().saturating_add(SIGNED.len()) <= LONGEST {
            return Self::named(&named);
        }
        let label = name.label.as_deref().unwrap_or_default();
        let hash = Sha256::digest(label.as_bytes());
        let short: String = hash
            .iter()
            .take(8)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        Self::named(&format!("{subject}.{short}."))
    }

    fn named(ledger: &str) -> Self {
        Self {
            watermark: format!("{PREFIX}{ledger}{WATERMARK}"),
            signed: format!("{PREFIX}{ledger}{SIGNED}"),
        }
    }
}

/// The watermark of a Lease.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Claim {
    /// The second up to which windows were delivered, unless it is refused.
    pub(crate) watermark: Option<i64>,
    /// The replica that signed it.
    pub(crate) by: String,
    /// Whether it is signed.
    pub(crate) is_signed: bool,
    /// The text of the annotation, if it is refused, and the reason.
    pub(crate) refused: Option<(String, &'static str)>,
}

/// Who signed a watermark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signer {
    /// Another replica, which wrote what it delivered.
    Another,
    /// This replica, perhaps before it was restarted.
    ThisReplica,
    /// There is no valid signature.
    Unknown,
}

impl Claim {
    /// Returns who signed it, for the replica with this identity.
    pub(crate) fn signer(&self, identity: &str) -> Signer {
        match (self.is_signed, self.by == identity) {
            (false, _) => Signer::Unknown,
            (true, true) => Signer::ThisReplica,
            (true, false) => Signer::Another,
        }
    }
}

/// Reads the claim of a Lease in these annotations. No clock of the cluster shows a later second than `latest`.
pub(crate) fn read(lease: &Lease, names: &Annotations, latest: i64) -> Claim {
    let annotations = lease.metadata.annotations.as_ref();
    let annotation = |name: &str| annotations.and_then(|it| it.get(name)).map(String::as_str);
    let spec = lease.spec.as_ref();
    let text = annotation(&names.watermark);
    let is_past = |at: &i64| *at <= latest;
    let signed = annotation(&names.signed).and_then(signed);
    // An older version of this program renews the Lease and does not change the signature.
    let signed =
        signed.filter(|it| Some(it.renewed) == spec.and_then(|it| micros(it.renew_time.as_ref())));
    let Some(signed) = signed else {
        let watermark = text.and_then(seconds);
        return Claim {
            watermark: watermark.filter(is_past),
            by: String::new(),
            is_signed: false,
            refused: text
                .filter(|_| watermark.is_none_or(|it| !is_past(&it)))
                .map(|text| (text.to_owned(), "it is not a time in the past")),
        };
    };
    let refused = if text != Some(signed.text) {
        let changed = "the holder of the Lease did not write it";
        Some((text.unwrap_or("nothing").to_owned(), changed))
    } else if seconds(signed.text).is_none_or(|it| !is_past(&it)) {
        Some((signed.text.to_owned(), "it is not a time in the past"))
    } else {
        None
    };
    Claim {
        watermark: seconds(signed.text).filter(is_past),
        by: signed.by.to_owned(),
        is_signed: true,
        refused,
    }
}

/// Writes a watermark into the Lease that `by` holds and has just renewed.
pub(crate) fn write(lease: &mut Lease, names: &Annotations, watermark: i64, by: &str) {
    let text = messages::rfc3339(watermark);
    let renewed = lease.spec.as_ref().and_then(|it| it.renew_time.as_ref());
    let renewed = micros(renewed).unwrap_or_default();
    let annotations = lease.metadata.annotations.get_or_insert_default();
    annotations.insert(names.signed.clone(), format!("{text} {renewed} {by}"));
    annotations.insert(names.watermark.clone(), text.to_string());
}

/// Removes all watermarks.
pub(crate) fn clear(lease: &mut Lease) {
    if let Some(annotations) = &mut lease.metadata.annotations {
        annotations.retain(|name, _| {
            let name = name.strip_prefix(PREFIX).unwrap_or_default();
            let last = name.rsplit('.').next().unwrap_or_default();
            last != WATERMARK && last != SIGNED
        });
    }
}

/// Returns the present moment, as precise as the API server stores it.
pub(crate) fn now() -> MicroTime {
    let now = Timestamp::now();
    MicroTime(Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now))
}

struct Signed<'a> {
    text: &'a str,
    renewed: i64,
    by: &'a str,
}

fn signed(text: &str) -> Option<Signed<'_>> {
    let mut parts = text.splitn(3, ' ');
    Some(Signed {
        text: parts.next()?,
        renewed: parts.next()?.parse().ok()?,
        by: parts.next()?,
    })
}

fn micros(time: Option<&MicroTime>) -> Option<i64> {
    time.map(|it| it.0.as_microsecond())
}

fn seconds(text: &str) -> Option<i64> {
    let time = chrono::DateTime::parse_from_rfc3339(text).ok()?;
    Some(time.timestamp())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::coordination::v1::LeaseSpec;

    use super::*;

    const LATEST: i64 = 1_000_002;

    fn write(lease: &mut Lease, watermark: i64, by: &str) {
        super::write(lease, &Annotations::of_all(), watermark, by);
    }

    fn read(lease: &Lease, latest: i64) -> Claim {
        super::read(lease, &Annotations::of_all(), latest)
    }

    fn held() -> Lease {
        Lease {
            spec: Some(LeaseSpec {
                holder_identity: Some("a".to_owned()),
                renew_time: Some(now()),
                ..LeaseSpec::default()
            }),
            ..Lease::default()
        }
    }

    fn set(lease: &mut Lease, name: &str, text: &str) {
        let annotations = lease.metadata.annotations.get_or_insert_default();
        annotations.insert(name.to_owned(), text.to_owned());
    }

    /// Returns it as the API server does.
    fn stored(lease: &Lease) -> Lease {
        serde_json::from_value(serde_json::to_value(lease).unwrap()).unwrap()
    }

    fn claim_of(watermark: i64, by: &str, is_signed: bool) -> Claim {
        Claim {
            watermark: Some(watermark),
            by: by.to_owned(),
            is_signed,
            refused: None,
        }
    }

    #[test]
    fn a_watermark_that_the_holder_signed_is_followed() {
        let mut lease = held();
        write(&mut lease, 999_990, "b with spaces");
        assert_eq!(
            read(&stored(&lease), LATEST),
            claim_of(999_990, "b with spaces", true)
        );
    }

    #[test]
    fn a_watermark_that_was_edited_is_refused_and_the_signed_one_counts() {
        for text in ["1970-01-12T13:46:39Z", "soon", "2099-01-01T00:00:00Z"] {
            let mut lease = held();
            write(&mut lease, 999_990, "a");
            set(&mut lease, &Annotations::of_all().watermark, text);
            let claim = read(&stored(&lease), LATEST);
            assert_eq!(claim.watermark, Some(999_990));
            assert_eq!(claim.refused.unwrap().0, text);
        }
        let mut lease = held();
        write(&mut lease, 999_990, "a");
        lease
            .metadata
            .annotations
            .as_mut()
            .unwrap()
            .remove(&Annotations::of_all().watermark);
        let claim = read(&lease, LATEST);
        assert_eq!(claim.watermark, Some(999_990));
        assert!(claim.refused.is_some());
    }

    #[test]
    fn a_watermark_that_an_older_version_wrote_is_unsigned() {
        let mut lease = held();
        write(&mut lease, 999_980, "b");
        lease.spec.as_mut().unwrap().renew_time = Some(MicroTime(Timestamp::UNIX_EPOCH));
        set(
            &mut lease,
            &Annotations::of_all().watermark,
            "1970-01-12T13:46:30Z",
        );
        assert_eq!(read(&lease, LATEST), claim_of(999_990, "", false));
    }

    #[test]
    fn a_watermark_in_the_future_is_refused() {
        for (watermark, is_believed) in [(LATEST, true), (LATEST + 1, false), (LATEST + 48, false)]
        {
            let mut lease = held();
            write(&mut lease, watermark, "a");
            let claim = read(&lease, LATEST);
            assert_eq!(claim.watermark.is_some(), is_believed, "{claim:?}");
            assert_eq!(claim.refused.is_none(), is_believed, "{claim:?}");
        }
        let mut lease = held();
        assert_eq!(read(&lease, LATEST).watermark, None);
        set(&mut lease, &Annotations::of_all().watermark, "soon");
        assert!(read(&lease, LATEST).refused.is_some());
        assert_eq!(read(&Lease::default(), LATEST), Claim::default());
    }

    #[test]
    fn each_ledger_has_names_that_an_annotation_may_have() {
        assert_eq!(Annotations::of_all().watermark, "meterline.io/watermark");
        assert_eq!(
            Annotations::of_all().signed,
            "meterline.io/watermark-signed"
        );
        let of = |label: Option<&str>| {
            let name = LedgerName::new("persistentvolumeclaim", label.map(Into::into));
            Annotations::of(&name).signed
        };
        let plain = "meterline.io/persistentvolumeclaim.watermark-signed";
        assert_eq!(of(None), plain);
        assert!(of(Some("a-b_c")).contains(".a-b_c."));
        let long = ["x".repeat(24), "x".repeat(25), "x".repeat(200)].map(|it| of(Some(&it)));
        for name in &long {
            assert!(name.len() - PREFIX.len() <= LONGEST, "{name}");
        }
        assert!(long[0] != long[1] && long[1] != long[2]);
    }

    #[test]
    fn a_lease_is_cleared_of_the_watermarks_of_all_ledgers() {
        let mut lease = held();
        set(&mut lease, "example.com/watermark", "x");
        set(&mut lease, "meterline.io/note", "y");
        let kept = lease.clone();
        for label in [None, Some("a".into())] {
            let names = Annotations::of(&LedgerName::new("pod", label));
            super::write(&mut lease, &names, 5, "a");
        }
        write(&mut lease, 5, "a");
        clear(&mut lease);
        assert_eq!(lease, kept);
    }
}
