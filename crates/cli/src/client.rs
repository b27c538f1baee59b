//! A client of the native API, for commands that find a server running.
//!
//! Finding it: a serving process writes [`ServerFile`] into the data root and holds an operating system lock on it. A
//! file that nobody locks was left behind by a killed server and is ignored.

use std::{
    fs::{self, File, TryLockError},
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    sync::OnceLock,
    time::Duration,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use ureq::{
    Agent, Body,
    http::{Method, Response},
    tls::TlsConfig,
    unversioned::multipart::{Form, Part},
};

use edgewise_documents::Passwords;

use crate::error::{CliError, io_error};

/// Which server serves a data root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ServerFile {
    /// Its address, such as `http://127.0.0.1:8080`.
    pub(crate) url: String,
}

impl ServerFile {
    /// No collection name starts with an underscore, so this is never in a collection's way.
    fn path(data_root: &Path) -> PathBuf {
        data_root.join("_server.json")
    }

    /// Announces a server; the announcement ends with the returned guard, or with the process.
    pub(crate) fn announce(data_root: &Path, url: &str) -> Result<Announcement, CliError> {
        let path = Self::path(data_root);
        fs::create_dir_all(data_root).map_err(io_error("cannot create", data_root))?;
        // Not truncated on opening: another server's file must survive being found locked.
        let opened = File::options().create(true).truncate(false).write(true).open(&path);
        let mut file = opened.map_err(io_error("cannot write", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(CliError::Busy(format!(
                    "another server serves {} already: stop it first",
                    data_root.display()
                )));
            }
            Err(TryLockError::Error(error)) => return Err(io_error("cannot lock", &path)(error)),
        }
        let text = serde_json::to_vec(&Self { url: url.to_owned() })?;
        let written = file.set_len(0).and_then(|()| file.write_all(&text)).and_then(|()| file.sync_all());
        written.map_err(io_error("cannot write", &path))?;
        Ok(Announcement { path, _locked: file })
    }

    /// The announcement of a server that runs now.
    fn read(data_root: &Path) -> Option<Self> {
        let path = Self::path(data_root);
        let file = File::open(&path).ok()?;
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => serde_json::from_slice(&fs::read(&path).ok()?).ok(),
            _ => None,
        }
    }
}

/// Holds the lock, and removes the announcement when the server stops.
#[derive(Debug)]
pub(crate) struct Announcement {
    path: PathBuf,
    _locked: File,
}

impl Drop for Announcement {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the server file");
        }
    }
}

/// The key of `--api-key`, or the one in the environment; for every request of this process.
static KEY: OnceLock<Option<String>> = OnceLock::new();

/// Takes note of the key that was given on the command line, if one was.
pub(crate) fn use_key(given: Option<String>) {
    // Set once, at the start; a second time would change nothing.
    let _ = KEY.set(given);
}

fn bearer() -> Option<String> {
    let given = KEY.get().cloned().flatten().or_else(|| std::env::var(edgewise_settings::env::API_KEY).ok());
    given.map(|key| key.trim().to_owned()).filter(|key| !key.is_empty()).map(|key| format!("Bearer {key}"))
}

/// An HTTP client bound to one server.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    url: String,
    agent: Agent,
}

/// One server-sent event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) data: String,
}

#[derive(Deserialize)]
struct ErrorBody {
    error: ErrorDetail,
}

#[derive(Deserialize)]
struct ErrorDetail {
    message: String,
    #[serde(default)]
    hint: Option<String>,
}

impl Client {
    /// A client of the server at `url`. Connects lazily.
    pub(crate) fn new(url: &str) -> Self {
        Self::with(url, TlsConfig::default())
    }

    fn with(url: &str, tls: TlsConfig) -> Self {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(2)))
            .tls_config(tls)
            .build()
            .new_agent();
        Self { url: url.trim_end_matches('/').to_owned(), agent }
    }

    /// The server that serves `data_root` now, if any.
    pub(crate) fn discover(data_root: &Path) -> Option<Self> {
        let ServerFile { url } = ServerFile::read(data_root)?;
        // Its certificate is for the name others know it by. This address is of this machine, and the file that names it is
        // in the user's own data folder: nobody stands between.
        let own = ["https://127.0.0.1:", "https://[::1]:"].iter().any(|start| url.starts_with(start));
        let tls = TlsConfig::builder().disable_verification(own).build();
        Some(Self::with(&url, tls))
    }

    /// Its address.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// `GET path` as JSON.
    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliError> {
        self.read(self.send(Method::GET, path, None)?)
    }

    /// `GET path`: JSON, or a text as a JSON string.
    pub(crate) fn get_any(&self, path: &str) -> Result<Value, CliError> {
        let mut response = self.check(self.send(Method::GET, path, None)?)?;
        let is_json = response.body().mime_type() == Some("application/json");
        let body = response.body_mut().with_config().limit(1 << 30);
        match is_json {
            true => body.read_json().map_err(|error| self.broken(&error)),
            false => body.read_to_string().map(Value::String).map_err(|error| self.broken(&error)),
        }
    }

    /// `POST path` with a JSON body, answered by JSON.
    pub(crate) fn post<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T, CliError> {
        self.read(self.send(Method::POST, path, Some(body))?)
    }

    /// `PUT path` with a JSON body, answered by JSON.
    pub(crate) fn put<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T, CliError> {
        self.read(self.send(Method::PUT, path, Some(body))?)
    }

    /// `DELETE path`.
    pub(crate) fn delete(&self, path: &str) -> Result<(), CliError> {
        self.check(self.send(Method::DELETE, path, None)?).map(drop)
    }

    /// `DELETE path`, answered by JSON.
    pub(crate) fn remove<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliError> {
        self.read(self.send(Method::DELETE, path, None)?)
    }

    /// `POST path` with files as multipart, answered by JSON. Each file is a URI and its bytes.
    pub(crate) fn upload<T: DeserializeOwned>(
        &self,
        path: &str,
        files: &[(String, Vec<u8>)],
        passwords: &Passwords,
    ) -> Result<T, CliError> {
        let mut form = Form::new();
        for (uri, bytes) in files {
            form = form.part("file", Part::bytes(bytes).file_name(uri));
        }
        for password in passwords.iter() {
            form = form.text("password", password);
        }
        let mut request = self.agent.post(format!("{}{path}", self.url));
        if let Some(bearer) = bearer() {
            request = request.header("authorization", bearer);
        }
        let sent = request.send(form);
        self.read(sent.map_err(|error| self.broken(&error))?)
    }

    /// `POST path` with a JSON body, answered by server-sent events, handed to `each` as they come.
    pub(crate) fn stream(
        &self,
        path: &str,
        body: &Value,
        mut each: impl FnMut(Event) -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        let response = self.check(self.send(Method::POST, path, Some(body))?)?;
        self.read_events(response, |event| event.map_or(Ok(()), &mut each))
    }

    /// `GET path` as server-sent events, handed to `each` as they come; also called without one when a comment comes, which
    /// is every few seconds.
    pub(crate) fn events(
        &self,
        path: &str,
        each: impl FnMut(Option<Event>) -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        self.read_events(self.check(self.send(Method::GET, path, None)?)?, each)
    }

    fn read_events(
        &self,
        response: Response<Body>,
        mut each: impl FnMut(Option<Event>) -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        let reader = BufReader::new(response.into_body().into_reader());
        let empty = || Event { name: String::new(), data: String::new() };
        let mut event = empty();
        for line in reader.lines() {
            let line = line.map_err(|error| self.broken(&error))?;
            if line.is_empty() {
                each(Some(std::mem::replace(&mut event, empty())).filter(|event| !event.data.is_empty()))?;
            } else if let Some(name) = line.strip_prefix("event:") {
                name.trim().clone_into(&mut event.name);
            } else if let Some(data) = line.strip_prefix("data:") {
                if !event.data.is_empty() {
                    event.data.push('\n');
                }
                event.data.push_str(data.strip_prefix(' ').unwrap_or(data));
            }
        }
        Ok(())
    }

    fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Response<Body>, CliError> {
        let mut request = ureq::http::Request::builder().method(method).uri(format!("{}{path}", self.url));
        if let Some(bearer) = bearer() {
            request = request.header("authorization", bearer);
        }
        let sent = match body {
            Some(body) => {
                let request = request.header("content-type", "application/json").body(serde_json::to_vec(body)?);
                self.agent.run(request.map_err(|error| self.broken(&error))?)
            }
            None => self.agent.run(request.body(()).map_err(|error| self.broken(&error))?),
        };
        sent.map_err(|error| self.broken(&error))
    }

    fn read<T: DeserializeOwned>(&self, response: Response<Body>) -> Result<T, CliError> {
        let mut response = self.check(response)?;
        let body = response.body_mut().with_config().limit(1 << 30);
        body.read_json().map_err(|error| self.broken(&error))
    }

    /// The response, or the error it carries.
    fn check(&self, mut response: Response<Body>) -> Result<Response<Body>, CliError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let text = response.body_mut().read_to_string().unwrap_or_default();
        let message = match serde_json::from_str::<ErrorBody>(&text) {
            Ok(ErrorBody { error: ErrorDetail { message, hint: Some(hint) } }) => format!("{message} ({hint})"),
            Ok(ErrorBody { error }) => error.message,
            Err(_) => format!("the server at {} answered {status}", self.url),
        };
        let message = match status.as_u16() {
            401 => format!("{message}; give this command one with --api-key or EDGEWISE_API_KEY"),
            _ => message,
        };
        Err(CliError::Server { status: status.as_u16(), message })
    }

    fn broken(&self, error: &dyn std::fmt::Display) -> CliError {
        CliError::Connection { url: self.url.clone(), reason: error.to_string() }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{
        io::{Read, Write},
        net::TcpListener,
    };

    use super::*;

    /// A server that answers one connection with `response` and closes it.
    fn canned(response: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).unwrap();
            stream.write_all(response.as_bytes()).unwrap();
        });
        url
    }

    #[test]
    fn events_are_split_at_blank_lines() {
        let url = canned(
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n: hello\n\nevent: token\ndata: {\"a\":1}\n\nevent: done\ndata: x\ndata: y\n\n",
        );
        let mut events = Vec::new();
        Client::new(&url)
            .stream("/", &Value::Null, |event| {
                events.push(event);
                Ok(())
            })
            .unwrap();
        assert_eq!(events.len(), 2);
        assert_eq!((events[0].name.as_str(), events[0].data.as_str()), ("token", "{\"a\":1}"));
        assert_eq!((events[1].name.as_str(), events[1].data.as_str()), ("done", "x\ny"));
    }

    #[test]
    fn an_error_body_becomes_a_sentence_and_an_exit_code() {
        let url = canned(
            "HTTP/1.1 404 Not Found\r\nconnection: close\r\n\r\n{\"error\":{\"message\":\"no such thing\",\"hint\":\"look up\"}}",
        );
        let error = Client::new(&url).get::<Value>("/x").unwrap_err();
        assert_eq!(error.to_string(), "no such thing (look up)");
        assert_eq!(error.exit_code(), crate::error::exit::NOT_FOUND);
    }

    #[test]
    fn a_server_is_found_while_it_lives() {
        let root = tempfile::tempdir().unwrap();
        assert!(Client::discover(root.path()).is_none());
        let announcement = ServerFile::announce(root.path(), "http://127.0.0.1:1").unwrap();
        assert_eq!(Client::discover(root.path()).unwrap().url(), "http://127.0.0.1:1");
        let second = ServerFile::announce(root.path(), "http://127.0.0.1:2").unwrap_err();
        assert_eq!(second.exit_code(), crate::error::exit::BUSY);
        assert_eq!(Client::discover(root.path()).unwrap().url(), "http://127.0.0.1:1");
        drop(announcement);
        assert!(Client::discover(root.path()).is_none());
        // Left behind by a killed server: there, but not locked.
        fs::write(ServerFile::path(root.path()), r#"{"url": "http://127.0.0.1:1"}"#).unwrap();
        assert!(Client::discover(root.path()).is_none());
        ServerFile::announce(root.path(), "http://127.0.0.1:3").unwrap();
    }
}
