//! The TLS side of checks and of questions to sources.

use crate::config::Tls;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(ring::default_provider()));

/// The authorities of a PEM file.
///
/// # Errors
/// When it cannot be read, or has none.
pub(crate) fn authorities(path: &Path) -> Result<RootCertStore, String> {
    let says = |error: &dyn std::fmt::Display| format!("{} cannot be read: {error}", path.display());
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| says(&error))? {
        store.add(certificate.map_err(|error| says(&error))?).map_err(|error| says(&error))?;
    }
    if store.is_empty() {
        return Err(format!("{} has no certificate; it must be in PEM", path.display()));
    }
    Ok(store)
}

/// What connections of a kind have in common.
///
/// # Errors
/// When the authorities cannot be read.
pub(crate) fn connector(tls: &Tls) -> Result<TlsConnector, String> {
    let builder = ClientConfig::builder_with_provider(Arc::clone(&PROVIDER))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let mut config = if !tls.verify {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Anyone)).with_no_client_auth()
    } else {
        let store = match &tls.ca_file {
            Some(path) => Arc::new(authorities(path)?),
            None => Arc::clone(&SYSTEM),
        };
        builder.with_root_certificates(store).with_no_client_auth()
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

/// The system's authorities, read once.
static SYSTEM: LazyLock<Arc<RootCertStore>> = LazyLock::new(|| {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    Arc::new(store)
});

/// A connection on which the server showed who it is: `name`, or an address.
///
/// # Errors
/// When it is somebody else, or cannot show it.
pub(crate) async fn handshake(
    connector: &TlsConnector,
    stream: TcpStream,
    name: &str,
) -> Result<TlsStream<TcpStream>, String> {
    let name =
        ServerName::try_from(name.to_owned()).map_err(|_| format!("`{name}` is no name of a server"))?;
    connector.connect(name, stream).await.map_err(|error| format!("TLS: {error}"))
}

/// Believes every certificate, because the operator said so.
#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &PROVIDER.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &PROVIDER.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        PROVIDER.signature_verification_algorithms.supported_schemes()
    }
}
