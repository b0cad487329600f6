//! HTTP/2, with and without TLS, and certificates that change.

use super::{ENCODED, Packager, Root, plan, served};
use http::{Request, StatusCode, Version};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use tasuki_shared::message::DeliveryPlan;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};

const PATH: &str = "/live/live/cam/720p/index.m3u8";

/// A playlist over HTTP/2 on a connection that is there.
async fn ask(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> (StatusCode, Bytes) {
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    let uri = format!("http://localhost{PATH}");
    let request = Request::get(uri).version(Version::HTTP_2).body(Empty::<Bytes>::new()).unwrap();
    let response = sender.send_request(request).await.unwrap();
    let status = response.status();
    (status, response.into_body().collect().await.unwrap().to_bytes())
}

/// Without TLS a client that knows speaks HTTP/2 from its first byte (RFC 9113, 3.3).
#[test]
fn http2_is_spoken_by_prior_knowledge() {
    let root = Root::new("h2c");
    Packager::begin(&root.0, &ENCODED).parts(5);
    served(&plan(&root.0), |address| async move {
        let (status, body) = ask(TcpStream::connect(address).await.unwrap()).await;
        assert_eq!(status, StatusCode::OK);
        assert!(body.starts_with(b"#EXTM3U"));
    });
}

/// Writes a new certificate for `localhost`, and returns it.
fn certify(directory: &Path) -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(directory.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    let pem = made.cert.pem();
    std::fs::write(directory.join("certificate.pem"), &pem).unwrap();
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

/// A connection to whoever has this certificate.
async fn connect(
    address: SocketAddr,
    trusted: &CertificateDer<'static>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let name = ServerName::try_from("localhost").unwrap();
    let stream = TcpStream::connect(address).await?;
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// A certificate that is replaced is taken by the next connections; one that is no good is not.
#[test]
fn tls_speaks_http2_and_takes_new_certificates() {
    let (root, secrets) = (Root::new("tls"), Root::new("secrets"));
    Packager::begin(&root.0, &ENCODED).parts(5);
    let first = certify(&secrets.0);
    let files = (secrets.0.join("certificate.pem"), secrets.0.join("key.pem"));
    let plan = DeliveryPlan { tls: Some(files.clone()), ..plan(&root.0) };
    served(&plan, |address| async move {
        let stream = connect(address, &first).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (status, body) = ask(stream).await;
        assert_eq!(status, StatusCode::OK);
        assert!(body.starts_with(b"#EXTM3U"));

        std::fs::write(&files.0, "no certificate").unwrap();
        connect(address, &first).await.unwrap();
        let second = certify(&secrets.0);
        connect(address, &second).await.unwrap();
        assert!(connect(address, &first).await.is_err());
    });
}
