//! The TLS side of the relay.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Secures connections; certificates are read when the first one needs them.
pub(super) struct Tls {
    ca: Option<PathBuf>,
    config: OnceCell<Arc<ClientConfig>>,
}

impl Tls {
    /// Trusts the system's certificates, and these.
    pub(super) fn new(ca: Option<PathBuf>) -> Self {
        Self { ca, config: OnceCell::new() }
    }

    /// Secures a connection to this host.
    ///
    /// # Errors
    /// If the certificates can't be read, or the host's is not trusted.
    pub(super) async fn connect(&self, host: &str, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let config = self.config.get_or_try_init(|| self.read()).await?;
        TlsConnector::from(Arc::clone(config)).connect(name, stream).await
    }

    async fn read(&self) -> io::Result<Arc<ClientConfig>> {
        let ca = self.ca.clone();
        let read = move || {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if let Some(ca) = ca {
                for certificate in CertificateDer::pem_file_iter(ca).map_err(io::Error::other)? {
                    roots.add(certificate.map_err(io::Error::other)?).map_err(io::Error::other)?;
                }
            }
            Ok(Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()))
        };
        tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?
    }
}
