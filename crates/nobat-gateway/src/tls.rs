//! TLS for the HTTP and gRPC listeners, by rustls, when certificates are given.

use std::fmt::Display;
use std::sync::Arc;

use nobat_core::{Error, ErrorCode, Result};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};

/// Certificate and key, both or neither. Read once, at start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// PEM file of the certificate and its chain, the server's own first.
    pub certificate: String,
    /// PEM file of its private key.
    pub key: String,
}

impl TlsConfig {
    /// Whether TLS is asked for.
    pub fn is_on(&self) -> bool {
        !self.certificate.is_empty()
    }

    /// Checks the settings against each other.
    ///
    /// # Errors
    /// `invalid_parameter` when one of the two is missing.
    pub fn validate(&self) -> Result<()> {
        if self.certificate.is_empty() == self.key.is_empty() {
            return Ok(());
        }
        Err(Error::new(
            ErrorCode::InvalidParameter,
            "tls.certificate and tls.key belong together; give both or neither",
        ))
    }

    /// Reads the files; `None` when TLS is not asked for.
    ///
    /// # Errors
    /// `invalid_parameter`, naming the file and what is wrong with it.
    pub fn load(&self) -> Result<Option<ServerConfig>> {
        if !self.is_on() {
            return Ok(None);
        }
        let told = |setting: &str, file: &str, why: &dyn Display| {
            Error::new(ErrorCode::InvalidParameter, format!("cannot use `{file}` (setting `{setting}`): {why}"))
        };
        let of_certificate = |why: &dyn Display| told("tls.certificate", &self.certificate, why);
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(&self.certificate)
            .and_then(Iterator::collect)
            .map_err(|error| of_certificate(&error))?;
        if chain.is_empty() {
            return Err(of_certificate(&"it holds no certificate"));
        }
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|error| told("tls.key", &self.key, &error))?;
        ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| of_certificate(&error))?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map(Some)
            .map_err(|error| of_certificate(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_setting_and_unusable_files_are_told() {
        let half = TlsConfig { certificate: "cert.pem".into(), key: String::new() };
        assert!(half.validate().expect_err("half").message.contains("both or neither"));
        assert!(TlsConfig::default().load().expect("off").is_none());
        let dir = tempfile::tempdir().expect("a folder");
        let empty = dir.path().join("empty.pem");
        std::fs::write(&empty, "").expect("written");
        let file = empty.display().to_string();
        for (config, says) in [
            (TlsConfig { certificate: "/nowhere.pem".into(), key: file.clone() }, "`tls.certificate`"),
            (TlsConfig { certificate: file.clone(), key: file.clone() }, "no certificate"),
        ] {
            let error = config.load().expect_err("unusable");
            assert!(error.message.contains(says), "{error}");
        }
    }
}
