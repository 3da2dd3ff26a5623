//! `tls`: whom an output that speaks HTTP trusts.

use serde::Deserialize;

/// Configuration of TLS. There is no way to trust everybody.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tls {
    /// A PEM file with the certificate authorities to trust instead of the system's.
    #[serde(default)]
    root_cas_file: Option<String>,
}

impl Tls {
    /// Who is trusted; `None`: whom the system trusts.
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
