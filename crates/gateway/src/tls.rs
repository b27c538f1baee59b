//! TLS: certificate and key from PEM files, looked at again while the server runs, so that a renewed certificate is used
//! without a restart. A pair that does not work is refused at start; later it is logged, and the last good one stays.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::SystemTime,
};

use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio_rustls::TlsAcceptor;

use crate::GatewayError;

/// A certificate with its key. Cheap to clone.
#[derive(Clone)]
pub struct Tls(Arc<Inner>);

struct Inner {
    certificate: PathBuf,
    key: PathBuf,
    now: RwLock<(Arc<ServerConfig>, Stamp)>,
}

/// When the two files were changed.
type Stamp = [Option<SystemTime>; 2];

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("certificate", &self.0.certificate).finish_non_exhaustive()
    }
}

fn stamp(certificate: &Path, key: &Path) -> Stamp {
    [certificate, key].map(|path| std::fs::metadata(path).and_then(|file| file.modified()).ok())
}

fn load(certificate: &Path, key: &Path) -> Result<ServerConfig, GatewayError> {
    let wrong = |path: &Path, reason: String| GatewayError::Tls { path: path.to_owned(), reason };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .map_err(|error| wrong(certificate, error.to_string()))?;
    if chain.is_empty() {
        return Err(wrong(certificate, "it holds no certificate in PEM form".to_owned()));
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| wrong(key, error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(certificate, error.to_string()))?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|error| wrong(key, format!("it does not go with the certificate: {error}")))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

impl Tls {
    /// Reads both files.
    ///
    /// # Errors
    /// [`GatewayError::Tls`], which names the file.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, GatewayError> {
        let stamp = stamp(certificate, key);
        let now = RwLock::new((Arc::new(load(certificate, key)?), stamp));
        Ok(Self(Arc::new(Inner { certificate: certificate.to_owned(), key: key.to_owned(), now })))
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        let config = Arc::clone(&self.0.now.read().unwrap_or_else(PoisonError::into_inner).0);
        config.into()
    }

    /// Reads the files again if they changed. Blocks.
    pub(crate) fn refresh(&self) {
        let Inner { certificate, key, now } = &*self.0;
        let found = stamp(certificate, key);
        if found == now.read().unwrap_or_else(PoisonError::into_inner).1 {
            return;
        }
        let mut now = now.write().unwrap_or_else(PoisonError::into_inner);
        now.1 = found;
        match load(certificate, key) {
            Ok(config) => {
                now.0 = Arc::new(config);
                tracing::info!(certificate = %certificate.display(), "a new certificate is in use");
            }
            Err(error) => tracing::error!(%error, "the changed certificate is not used: the last good one stays"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use edgewise_test_support::pem;

    use super::*;

    fn write(folder: &Path, at: u64) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        for (name, text) in [
            ("cert.pem", pem("CERTIFICATE", made.cert.der())),
            ("key.pem", pem("PRIVATE KEY", &made.signing_key.serialize_der())),
        ] {
            std::fs::write(folder.join(name), text).unwrap();
            stamped(folder, name, at);
        }
    }

    fn stamped(folder: &Path, name: &str, at: u64) {
        let file = std::fs::File::options().write(true).open(folder.join(name)).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(at)).unwrap();
    }

    #[test]
    fn a_renewed_certificate_is_taken_up_and_a_broken_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), 1);
        let tls = Tls::load(&folder.path().join("cert.pem"), &folder.path().join("key.pem")).unwrap();
        let now = || Arc::clone(&tls.0.now.read().unwrap().0);
        let first = now();
        tls.refresh();
        assert!(Arc::ptr_eq(&first, &now()));
        write(folder.path(), 2);
        tls.refresh();
        let second = now();
        assert!(!Arc::ptr_eq(&first, &second));
        std::fs::write(folder.path().join("cert.pem"), "broken").unwrap();
        stamped(folder.path(), "cert.pem", 3);
        tls.refresh();
        assert!(Arc::ptr_eq(&second, &now()));
    }
}
