//! Certificate and key from PEM files; a connection that finds them changed has them read again.

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::{self, ServerConfig};

/// Why no TLS can be spoken with these files.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{path}: {error}")]
    Pem { path: PathBuf, error: rustls_pki_types::pem::Error },
    #[error("{0}: no certificate in it")]
    Empty(PathBuf),
    #[error("certificate and key: {0}")]
    Rejected(#[from] rustls::Error),
}

/// See the module.
pub struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    seen: Seen,
    acceptor: TlsAcceptor,
}

/// When the files were last changed, and how long they are.
type Seen = [Option<(SystemTime, u64)>; 2];

impl Tls {
    pub fn load(certificate: PathBuf, key: PathBuf) -> Result<Self, TlsError> {
        let seen = [changed(&certificate), changed(&key)];
        let acceptor = acceptor(&certificate, &key)?;
        Ok(Self { certificate, key, seen, acceptor })
    }

    /// For the next connection.
    pub fn acceptor(&mut self) -> TlsAcceptor {
        self.look();
        self.acceptor.clone()
    }

    /// Takes new files over; while they are no good, the old ones hold.
    fn look(&mut self) {
        let seen = [changed(&self.certificate), changed(&self.key)];
        if seen == self.seen {
            return;
        }
        self.seen = seen;
        match acceptor(&self.certificate, &self.key) {
            Ok(acceptor) => {
                self.acceptor = acceptor;
                tracing::info!(certificate = %self.certificate.display(), "a new certificate");
            }
            Err(error) => {
                tracing::error!(%error, "the new certificate is refused; the old one holds");
            }
        }
    }
}

fn changed(path: &Path) -> Option<(SystemTime, u64)> {
    let about = std::fs::metadata(path).ok()?;
    Some((about.modified().ok()?, about.len()))
}

fn acceptor(certificate: &Path, key: &Path) -> Result<TlsAcceptor, TlsError> {
    let bad = |path: &Path| {
        let path = path.to_owned();
        move |error| TlsError::Pem { path, error }
    };
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(bad(certificate))?;
    if chain.is_empty() {
        return Err(TlsError::Empty(certificate.to_owned()));
    }
    let key = PrivateKeyDer::from_pem_file(key).map_err(bad(key))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
