//! Over TLS: both versions of HTTP, and what browsers are told.

use std::{net::Ipv4Addr, path::Path, sync::Arc, time::Duration};

use edgewise_gateway::{GatewayOptions, Listening, Tls, bind, serve};
use edgewise_test_support::{ScriptedGenerator, pem};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::harness::Gateway;

/// A certificate for `localhost` and its key, written to a folder.
fn certificate(folder: &Path) -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(folder.join("cert.pem"), pem("CERTIFICATE", made.cert.der())).unwrap();
    std::fs::write(folder.join("key.pem"), pem("PRIVATE KEY", &made.signing_key.serialize_der())).unwrap();
    made.cert.der().clone()
}

async fn connect(port: u16, trusted: &CertificateDer<'static>, alpn: &[&[u8]]) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
}

#[tokio::test]
async fn both_versions_of_http_are_spoken_over_tls() {
    let folder = tempfile::tempdir().unwrap();
    let trusted = certificate(folder.path());
    let tls = Tls::load(&folder.path().join("cert.pem"), &folder.path().join("key.pem")).unwrap();
    let options = GatewayOptions { tls: true, header_timeout: Duration::from_millis(500), ..GatewayOptions::default() };
    let gateway = Gateway::new(ScriptedGenerator::replies(["yes"]), options);
    let key = gateway.key("local", "query").key;
    let tcp = bind(Ipv4Addr::LOCALHOST.into(), 0).await.unwrap();
    let port = tcp.local_addr().unwrap().port();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = tokio::spawn(serve(Listening { tcp, tls: Some(tls) }, gateway.state.clone(), async {
        let _ = stopped.await;
    }));

    let mut stream = connect(port, &trusted, &[b"http/1.1"]).await;
    let body = serde_json::json!({"key": key}).to_string();
    let request = format!(
        "POST /v1/session HTTP/1.1\r\nhost: localhost:{port}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = Vec::new();
    stream.read_to_end(&mut text).await.unwrap();
    let text = String::from_utf8(text).unwrap().to_lowercase();
    assert!(text.starts_with("http/1.1 200"), "{text}");
    assert!(text.contains("strict-transport-security: max-age="), "{text}");
    assert!(text.contains("samesite=strict; secure"), "{text}");

    let mut stream = connect(port, &trusted, &[b"h2", b"http/1.1"]).await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
    // The preface and empty settings; the server's own settings come back (RFC 9113, 3.4 and 6.5).
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut frame = [0; 9];
    stream.read_exact(&mut frame).await.unwrap();
    assert_eq!(frame[3], 4, "a SETTINGS frame: {frame:?}");
    drop(stream);

    // Who does not speak TLS gets nothing, and keeps nobody waiting.
    for plain in [b"GET /healthz HTTP/1.1\r\n\r\n".as_slice(), b""] {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        stream.write_all(plain).await.unwrap();
        let mut text = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(3), stream.read_to_end(&mut text)).await;
        let _ = read.expect("the connection is closed");
        assert!(!text.starts_with(b"HTTP"), "{text:?}");
    }
    stop.send(()).unwrap();
    tokio::time::timeout(Duration::from_secs(5), server).await.unwrap().unwrap().unwrap();
}

#[test]
fn files_that_do_not_work_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    certificate(folder.path());
    let other = tempfile::tempdir().unwrap();
    certificate(other.path());
    let nothing = folder.path().join("nothing.pem");
    std::fs::write(folder.path().join("empty.pem"), "").unwrap();
    for (cert, key, named) in [
        (&nothing, &key, "nothing.pem"),
        (&cert, &nothing, "nothing.pem"),
        (&folder.path().join("empty.pem"), &key, "empty.pem"),
        (&cert, &other.path().join("key.pem"), "key.pem"),
    ] {
        let error = Tls::load(cert, key).unwrap_err().to_string();
        assert!(error.contains(named) && error.contains("server.tls_cert"), "{error}");
    }
}
