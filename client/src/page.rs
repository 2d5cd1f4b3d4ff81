//! One page of an endpoint's HTTP side, such as `/metrics`.
//!
//! In: the settings, an endpoint, a path. Out: the page's text. HTTP/1.1 with or without TLS, which etcd's members speak on the port
//! of their gRPC as well.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

use crate::address::Address;
use crate::config::Config;
use crate::connector::Connector;
use crate::error::{Error, Result};

/// Bytes of the largest page taken.
const LARGEST: usize = 64 << 20;

/// Reads a page, within [`Config::timeout`] and [`Config::dial_timeout`]. An answer other than 200 is an error that says which.
pub async fn page(config: &Config, endpoint: &str, path: &str) -> Result<String> {
    let reads = read(config, endpoint, path);
    match config.timeout {
        Some(limit) => tokio::time::timeout(limit, reads).await.unwrap_or(Err(Error::Timeout)),
        None => reads.await,
    }
}

async fn read(config: &Config, endpoint: &str, path: &str) -> Result<String> {
    let address = Address::parse(endpoint)?;
    let tls = config.tls.clone().map(Arc::new);
    let connector = Connector { address: address.clone(), tls, timeout: config.dial_timeout };
    let stream = connector.connect_http().await.map_err(|failure| Error::Connect(failure.0))?;
    let failed = |error: &dyn std::fmt::Display| Error::Connect(format!("{path} of {address}: {error}"));
    let (mut requests, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
    let driver = tokio::spawn(connection);
    let request = Request::get(path).header(header::HOST, address.server_name()).body(Empty::<Bytes>::new());
    let answer = requests.send_request(request.map_err(|error| failed(&error))?).await.map_err(|error| failed(&error))?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), LARGEST).collect().await.map_err(|error| failed(&error))?.to_bytes();
    driver.abort();
    match status {
        StatusCode::OK => Ok(String::from_utf8_lossy(&body).into_owned()),
        status => Err(failed(&status)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// One answer to one request; what was asked for.
    async fn serve(listener: TcpListener, answer: &str) -> String {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            asked.push(stream.read_u8().await.unwrap());
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8(asked).unwrap()
    }

    /// The text of a page, or the status that came in its place.
    #[tokio::test]
    async fn pages_and_refusals() {
        for (answer, wanted) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nup", Ok("up")),
            ("HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\nno", Err("404 Not Found")),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let endpoint = listener.local_addr().unwrap().to_string();
            let config = Config::new([endpoint.clone()]);
            let (asked, got) = tokio::join!(serve(listener, answer), page(&config, &endpoint, "/metrics"));
            assert!(asked.starts_with("GET /metrics HTTP/1.1\r\n"), "{asked}");
            match wanted {
                Ok(text) => assert_eq!(got.unwrap(), text),
                Err(status) => assert!(got.unwrap_err().to_string().ends_with(status)),
            }
        }
    }
}
