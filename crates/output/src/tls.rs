//! `tls`: the certificates that an HTTP output trusts.

use serde::Deserialize;

/// Configuration of TLS. Certificate verification cannot be switched off.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tls {
    /// A PEM file with the certificate authorities to trust instead of those of the system.
    #[serde(default)]
    root_cas_file: Option<String>,
}

impl Tls {
    /// Trusts the certificate authorities in a file instead of those of the system; `None`: these.
    pub(crate) fn trusting(root_cas_file: Option<String>) -> Self {
        Self { root_cas_file }
    }

    /// Returns the trusted certificates; `None`: those that the system trusts.
    pub(crate) fn roots(&self) -> Result<Option<Vec<reqwest::Certificate>>, String> {
        let path = self.root_cas_file.as_deref().map(str::trim);
        let Some(path) = path.filter(|path| !path.is_empty()) else {
            return Ok(None);
        };
        let problem = |reason: String| format!("`tls.root_cas_file` {path}: {reason}");
        let pem = std::fs::read(path).map_err(|error| problem(error.to_string()))?;
        let roots = reqwest::Certificate::from_pem_bundle(&pem)
            .map_err(|error| problem(error.to_string()))?;
        if roots.is_empty() {
            return Err(problem("there is no certificate in it".to_owned()));
        }
        Ok(Some(roots))
    }
}
