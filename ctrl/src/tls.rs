//! The TLS side of checks and of questions to sources.

use crate::files;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::client::{WebPkiServerVerifier, verify_server_name};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use tokio_rustls::rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore,
    ServerConfig, SignatureScheme,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// The TLS side of an HTTPS check.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tls {
    /// The name that is asked for (SNI) and that the certificate must have; the server's address if it is not said.
    pub server_name: Option<String>,
    /// Whether the certificate is looked at.
    pub verify: bool,
    /// The authorities that are believed, in PEM; those of the system if it is not said.
    pub ca_file: Option<PathBuf>,
}

/// The TLS side of a server, with the words of Prometheus's exporter-toolkit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTls {
    /// The certificate and its chain, in PEM.
    pub cert_file: PathBuf,
    /// Its key, in PEM.
    pub key_file: PathBuf,
    /// The authorities of clients' certificates, in PEM; without it clients need none.
    pub client_ca_file: Option<PathBuf>,
}

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(ring::default_provider()));

/// What a PEM file with authorities has in it.
#[derive(Debug)]
pub(crate) struct Authorities {
    store: Arc<RootCertStore>,
    /// The certificates themselves: a server may show one of them as its own.
    certificates: Vec<CertificateDer<'static>>,
}

/// The authorities of a PEM file.
///
/// # Errors
/// When it cannot be read in time, or has none.
pub(crate) fn authorities(path: &Path) -> Result<Authorities, String> {
    let says = |error: &dyn std::fmt::Display| format!("{} cannot be read: {error}", path.display());
    let text = files::read(path).map_err(|error| says(&error))?;
    let mut store = RootCertStore::empty();
    let mut certificates = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let certificate = certificate.map_err(|_| says(&"a certificate in it is damaged"))?;
        // What is no authority may be the server's own.
        store.add_parsable_certificates([certificate.clone()]);
        certificates.push(certificate);
    }
    if certificates.is_empty() {
        return Err(format!("{} has no certificate; it must be in PEM", path.display()));
    }
    Ok(Authorities { store: Arc::new(store), certificates })
}

/// What connections of a kind have in common.
///
/// # Errors
/// When the authorities cannot be read.
pub(crate) async fn connector(tls: &Tls) -> Result<TlsConnector, String> {
    let builder = ClientConfig::builder_with_provider(Arc::clone(&PROVIDER))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let verifier: Arc<dyn ServerCertVerifier> = match (&tls.ca_file, tls.verify) {
        (_, false) => Arc::new(Anyone),
        (None, true) => usual(Arc::clone(&SYSTEM))?,
        (Some(path), true) => {
            let path = path.clone();
            let read = tokio::task::spawn_blocking(move || authorities(&path)).await;
            let Authorities { store, certificates } =
                read.map_err(|error| format!("the authorities cannot be read: {error}"))??;
            // Without a single authority nobody but the certificates themselves is believed.
            let others = if store.is_empty() { None } else { Some(usual(store)?) };
            Arc::new(Known { others, certificates })
        }
    };
    let mut config = builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

/// What connections to a listener have in common.
///
/// # Errors
/// When one of the files cannot be read or used.
pub(crate) fn acceptor(tls: &ServerTls) -> Result<TlsAcceptor, String> {
    let read = |path: &Path| {
        files::read(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))
    };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(&tls.cert_file)?).collect();
    let chain = chain.ok().filter(|chain| !chain.is_empty());
    let chain =
        chain.ok_or_else(|| format!("{} has no certificate; it must be in PEM", tls.cert_file.display()))?;
    let key = PrivateKeyDer::from_pem_slice(&read(&tls.key_file)?)
        .map_err(|_| format!("{} has no private key; it must be in PEM", tls.key_file.display()))?;
    let builder = ServerConfig::builder_with_provider(Arc::clone(&PROVIDER))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match &tls.client_ca_file {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let store = authorities(path)?.store;
            let verifier = WebPkiClientVerifier::builder_with_provider(store, Arc::clone(&PROVIDER))
                .build()
                .map_err(|error| format!("{}: {error}", path.display()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| {
        format!("{} and {} do not fit: {error}", tls.cert_file.display(), tls.key_file.display())
    })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn usual(store: Arc<RootCertStore>) -> Result<Arc<WebPkiServerVerifier>, String> {
    let builder = WebPkiServerVerifier::builder_with_provider(store, Arc::clone(&PROVIDER));
    builder.build().map_err(|error| format!("the authorities cannot be used: {error}"))
}

/// The name by which a server is asked for in TLS: a host without port and brackets, an IDN in its ASCII form. An
/// address is one too; it is not told to the server (RFC 6066 §3).
///
/// # Errors
/// When there can be no such name.
pub(crate) fn server_name(text: &str) -> Result<ServerName<'static>, String> {
    let bare = text.strip_prefix('[').and_then(|rest| Some(rest.split_once(']')?.0)).unwrap_or(text);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Ok(ServerName::IpAddress(address.into()));
    }
    let host = match bare.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() => host,
        _ => bare,
    };
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(ServerName::IpAddress(address.into()));
    }
    let wrong = || format!("`{text}` is not the name of a server; write it as www.example.com");
    let ascii = idna::domain_to_ascii(host).map_err(|_| wrong())?;
    ServerName::try_from(ascii).map_err(|_| wrong())
}

/// A host as it stands in a header: a name with other letters than ASCII's as IDNA writes it (RFC 5890). A port stays.
pub(crate) fn host_text(text: &str) -> String {
    if text.is_ascii() {
        return text.to_owned();
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() => (host, format!(":{port}")),
        _ => (text, String::new()),
    };
    idna::domain_to_ascii(host).map_or_else(|_| text.to_owned(), |host| host + &port)
}

/// The system's authorities, read once.
static SYSTEM: LazyLock<Arc<RootCertStore>> = LazyLock::new(|| {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    Arc::new(store)
});

/// A connection on which the server showed that it is `name`.
///
/// # Errors
/// When it is somebody else, or cannot show it.
pub(crate) async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
    connector: &TlsConnector,
    stream: S,
    name: &str,
) -> Result<TlsStream<S>, String> {
    let name = server_name(name)?;
    connector.connect(name, stream).await.map_err(|error| {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
        format!("TLS: {}", inner.map_or_else(|| error.to_string(), said))
    })
}

/// What went wrong in a handshake, as a sentence.
fn said(error: &Error) -> String {
    use CertificateError as Wrong;
    let Error::InvalidCertificate(wrong) = error else {
        return match error {
            Error::AlertReceived(AlertDescription::HandshakeFailure) => {
                "the server refuses, with alert handshake_failure; it must take ECDHE with AES-GCM or ChaCha20-Poly1305, and have a plain RSA or ECDSA key".to_owned()
            }
            Error::AlertReceived(alert) => format!("the server refuses, with alert {}", alert_name(*alert)),
            Error::InvalidMessage(_) => "what the server says is not TLS".to_owned(),
            Error::PeerIncompatible(_) => {
                "the server and Sluice have no version or cipher of TLS in common; Sluice has TLS 1.2 and 1.3"
                    .to_owned()
            }
            other => one_line(&other.to_string()),
        };
    };
    match wrong {
        Wrong::Expired | Wrong::ExpiredContext { .. } => "the server's certificate has expired".to_owned(),
        Wrong::NotValidYet | Wrong::NotValidYetContext { .. } => {
            "the server's certificate is not valid yet; look at both clocks".to_owned()
        }
        Wrong::UnknownIssuer => {
            "the server's certificate is signed by an authority that is not known here; name its file: ca_file".to_owned()
        }
        Wrong::NotValidForName => "the server's certificate is for another name; say which: server_name".to_owned(),
        Wrong::NotValidForNameContext { expected, presented } => {
            let names: Vec<_> = presented.iter().take(3).map(|name| bare(name)).collect();
            format!(
                "the server's certificate is not for {}, but for {}; say for which: server_name",
                expected.to_str(),
                if names.is_empty() { "no name at all".to_owned() } else { names.join(", ") }
            )
        }
        Wrong::Revoked => "the server's certificate was revoked".to_owned(),
        wrong if *wrong == Wrong::BadEncoding || format!("{wrong:?}").contains("UnsupportedCertVersion") => {
            "the server's certificate cannot be read: X.509 version 3 is needed, or verify = false".to_owned()
        }
        Wrong::BadSignature => "the signature of the server's certificate is wrong".to_owned(),
        Wrong::InvalidPurpose | Wrong::InvalidPurposeContext { .. } => {
            "the server's certificate is not for servers".to_owned()
        }
        Wrong::UnsupportedSignatureAlgorithmContext { .. }
        | Wrong::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "the server's certificate has a kind of signature that is not verified here; use verify = false, or another certificate".to_owned()
        }
        _ => "the server's certificate is not accepted: it is an authority's own, or none for servers; name its file: ca_file".to_owned(),
    }
}

/// `b.example` of `DnsName("b.example")`, as the library writes names.
fn bare(name: &str) -> String {
    let inner =
        name.split_once('(').and_then(|(_, rest)| rest.rsplit_once(')')).map_or(name, |(inner, _)| inner);
    one_line(inner.trim_matches('"'))
}

fn alert_name(alert: AlertDescription) -> String {
    // RFC 8446 §6.2 writes handshake_failure, and the crate HandshakeFailure.
    let mut name = String::new();
    for c in format!("{alert:?}").chars() {
        if c.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(c.to_ascii_lowercase());
    }
    name
}

/// A library's words, of which no more than fits on a line.
fn one_line(words: &str) -> String {
    words.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(160).collect()
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

    // The key may be of a kind that nobody here can verify, as the certificate may.
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        use SignatureScheme as S;
        vec![
            S::ECDSA_NISTP256_SHA256,
            S::ECDSA_NISTP384_SHA384,
            S::ECDSA_NISTP521_SHA512,
            S::ED25519,
            S::ED448,
            S::RSA_PSS_SHA256,
            S::RSA_PSS_SHA384,
            S::RSA_PSS_SHA512,
            S::RSA_PKCS1_SHA256,
            S::RSA_PKCS1_SHA384,
            S::RSA_PKCS1_SHA512,
            S::ECDSA_SHA1_Legacy,
            S::RSA_PKCS1_SHA1,
        ]
    }
}

/// Believes the authorities of a file, and a server that shows a certificate of the file as its own.
#[derive(Debug)]
struct Known {
    others: Option<Arc<WebPkiServerVerifier>>,
    certificates: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Known {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let usual = match &self.others {
            Some(others) => others.verify_server_cert(own, between, name, ocsp, now),
            None => Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)),
        };
        let Err(error) = usual else { return usual };
        // An authority that shows itself is refused by the usual rules, after its dates were found good.
        let is_about_kind = !matches!(
            error,
            Error::InvalidCertificate(
                CertificateError::Expired
                    | CertificateError::ExpiredContext { .. }
                    | CertificateError::NotValidYet
                    | CertificateError::NotValidYetContext { .. }
            )
        );
        if is_about_kind && self.certificates.iter().any(|known| known == own) {
            // Version 1 has no place for the names that it is for.
            let parsed = ParsedCertificate::try_from(own)
                .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
            verify_server_name(&parsed, name)?;
            return Ok(ServerCertVerified::assertion());
        }
        Err(error)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_header_is_a_servers_name() {
        let name = |text: &str| server_name(text).map(|name| name.to_str().into_owned());
        assert_eq!(name("www.example.com:8443").unwrap(), "www.example.com");
        assert_eq!(name("bücher.example").unwrap(), "xn--bcher-kva.example");
        for address in ["192.0.2.1", "192.0.2.1:443"] {
            assert_eq!(
                server_name(address),
                Ok(ServerName::IpAddress("192.0.2.1".parse::<IpAddr>().unwrap().into()))
            );
        }
        for address in ["[2001:db8::1]", "[2001:db8::1]:443", "2001:db8::1"] {
            assert_eq!(name(address).unwrap(), "2001:db8::1", "{address}");
        }
        assert!(name("a b").unwrap_err().contains("write it as"));
    }

    #[test]
    fn errors_are_sentences() {
        let of = |wrong| said(&Error::InvalidCertificate(wrong));
        assert_eq!(of(CertificateError::Expired), "the server's certificate has expired");
        let names = CertificateError::NotValidForNameContext {
            expected: server_name("a.example").unwrap(),
            presented: vec!["DnsName(\"b.example\")".into()],
        };
        assert_eq!(
            of(names),
            "the server's certificate is not for a.example, but for b.example; say for which: server_name"
        );
        let refusal = |alert| said(&Error::AlertReceived(alert));
        assert!(
            refusal(AlertDescription::HandshakeFailure)
                .contains("alert handshake_failure; it must take ECDHE")
        );
        assert_eq!(refusal(AlertDescription::AccessDenied), "the server refuses, with alert access_denied");
    }
}
