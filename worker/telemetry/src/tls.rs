use std::path::{Path, PathBuf};

use opentelemetry_otlp::tonic_types::transport::{Certificate, ClientTlsConfig, Identity};

use crate::settings::Export;

/// A file of the TLS settings cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("OTLP exporter: {path:?}: {reason}")]
pub struct FileError {
    path: PathBuf,
    reason: String,
}

fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    std::fs::read(path).map_err(|error| fault(path, error))
}

fn fault(path: &Path, reason: impl ToString) -> FileError {
    FileError { path: path.to_owned(), reason: reason.to_string() }
}

/// For gRPC; `None` without TLS.
pub fn tonic(export: &Export) -> Result<Option<ClientTlsConfig>, FileError> {
    if !export.endpoint.starts_with("https://") {
        return Ok(None);
    }
    let mut config = match &export.certificate {
        Some(path) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(path)?)),
        None => ClientTlsConfig::new().with_native_roots(),
    };
    if let Some((certificate, key)) = &export.client {
        config = config.identity(Identity::from_pem(read(certificate)?, read(key)?));
    }
    Ok(Some(config))
}

/// The client for HTTP.
pub fn http(export: &Export) -> Result<reqwest::blocking::Client, FileError> {
    let mut builder = reqwest::blocking::Client::builder();
    if let Some(path) = &export.certificate {
        let found = reqwest::Certificate::from_pem_bundle(&read(path)?).map_err(|error| fault(path, error))?;
        builder = builder.tls_certs_only(found);
    }
    if let Some((certificate, key)) = &export.client {
        let both = [read(certificate)?, read(key)?].concat();
        builder = builder.identity(reqwest::Identity::from_pem(&both).map_err(|error| fault(certificate, error))?);
    }
    builder.build().map_err(|error| fault(Path::new("client"), error))
}
