//! Parsing in another process, which is all that contains a stack overflow, an allocation that fails, and a thread that
//! never ends: the process that parses may die of a file, the one that asked gets an error and starts another.
//!
//! A program that can start itself in a mode in which it calls [`serve_parsing`] says so once with
//! [`parse_in_processes`]; from then on [`ParserRegistry::parse`](crate::ParserRegistry::parse) uses such processes,
//! several at a time and each for many files. Programs that don't say so parse on threads, see
//! [`parse_isolated`](crate::parse_isolated).
//!
//! - A worker works under `limits.max_memory_bytes` of address space (Unix, through `ulimit`; elsewhere there is no
//!   limit) and is killed [`GRACE`] after `limits.max_seconds`, should it not have answered by itself.
//! - Files and passwords travel through pipes, never as arguments. A worker holds nothing between two files.
//! - A worker that dies in its first file is the file's fault; one that was used before is replaced and the file tried
//!   once more.
//! - Workers don't get the terminal's interrupt, and end when their input does, so none outlives its parent for long.
//!
//! Deliberately not here: protection from code that a parser could be made to execute; parsers are memory-safe.

use std::io::{self, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError, mpsc};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{DocumentError, Format, Limits, ParsedDocument, ParserRegistry, Passwords, SourceInfo};

/// How long after the time limit a worker is killed: its own answer about the limit comes first.
const GRACE: Duration = Duration::from_secs(5);
/// Idle workers kept.
const MAX_IDLE: usize = 8;
/// Bytes of a dead worker's last words that are read.
const LAST_WORDS: u64 = 4096;

/// A file to parse, but for its bytes, which follow.
#[derive(Serialize, Deserialize)]
struct Request {
    formats: Vec<Format>,
    limits: Limits,
    passwords: Vec<String>,
    uri: String,
    media_type: Option<String>,
}

/// What came of it.
#[derive(Serialize, Deserialize)]
enum Reply {
    Document(Box<ParsedDocument>),
    /// The sentence of the error.
    Refused(String),
}

/// How to start a worker.
static PROGRAM: OnceLock<(PathBuf, Vec<String>)> = OnceLock::new();
static IDLE: Mutex<Vec<Worker>> = Mutex::new(Vec::new());

/// From now on files are parsed in processes that `program` with `arguments` becomes; it must call [`serve_parsing`].
/// The first call counts.
pub fn parse_in_processes(program: PathBuf, arguments: Vec<String>) {
    // A second call would say the same of the same program.
    let _ = PROGRAM.set((program, arguments));
}

/// Whether files are parsed in other processes.
pub(crate) fn is_on() -> bool {
    PROGRAM.get().is_some()
}

/// Answers requests on standard input until it ends. `extend` may add parsers to the registry.
///
/// # Errors
/// Standard input or output can't be used, or says what is no request.
pub fn serve_parsing(extend: &dyn Fn(ParserRegistry) -> ParserRegistry) -> io::Result<()> {
    // A panic is answered like any other error; nothing else may fill the pipe of last words.
    std::panic::set_hook(Box::new(|_| {}));
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    while let Some(request) = read_frame(&mut input)? {
        let request: Request = serde_json::from_slice(&request)?;
        let bytes = read_frame(&mut input)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let Request { formats, limits, passwords, uri, media_type } = request;
        let registry = extend(ParserRegistry::of_parts(&formats, limits, Passwords::new(passwords)));
        let result = registry.parse_here(&bytes, &SourceInfo { uri, media_type });
        let is_stuck = matches!(result, Err(DocumentError::TimeLimit { .. }));
        let reply = match result {
            Ok(document) => Reply::Document(Box::new(document)),
            Err(error) => Reply::Refused(error.to_string()),
        };
        write_frame(&mut output, &serde_json::to_vec(&reply)?)?;
        output.flush()?;
        if is_stuck {
            // Its thread is still at work; it ends with the process.
            return Ok(());
        }
    }
    Ok(())
}

/// Parses in a worker; see the module.
pub(crate) fn parse(
    formats: &[Format],
    limits: Limits,
    passwords: &Passwords,
    bytes: &[u8],
    source: &SourceInfo,
) -> Result<ParsedDocument, DocumentError> {
    let request = Request {
        formats: formats.to_vec(),
        limits,
        passwords: passwords.iter().cloned().collect(),
        uri: source.uri.clone(),
        media_type: source.media_type.clone(),
    };
    let failed = |reason: String| DocumentError::ParserFailed { uri: source.uri.clone(), parser: "worker", reason };
    let header = serde_json::to_vec(&request).map_err(|error| failed(error.to_string()))?;
    let allowed = Duration::from_secs(limits.max_seconds).saturating_add(GRACE);
    let mut died = false;
    loop {
        let used = if died { None } else { take_idle(limits.max_memory_bytes) };
        let is_used = used.is_some();
        let mut worker = match used {
            Some(worker) => worker,
            None => Worker::start(limits.max_memory_bytes)
                .map_err(|error| failed(format!("the process for it cannot be started ({error})")))?,
        };
        match worker.exchange(&header, bytes, allowed) {
            Ok(reply) => {
                let document = match serde_json::from_slice(&reply).map_err(|error| failed(error.to_string()))? {
                    Reply::Document(document) => Ok(*document),
                    Reply::Refused(sentence) => Err(DocumentError::Refused { sentence }),
                };
                keep(worker);
                return document;
            }
            Err(End::TimeUp) => {
                return Err(DocumentError::TimeLimit { uri: source.uri.clone(), seconds: limits.max_seconds });
            }
            Err(End::Died) if is_used => died = true,
            Err(End::Died) => return Err(worker.obituary(source, limits)),
        }
    }
}

fn take_idle(memory: usize) -> Option<Worker> {
    let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
    let at = idle.iter().position(|worker| worker.memory == memory)?;
    Some(idle.swap_remove(at))
}

fn keep(worker: Worker) {
    let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
    if idle.len() < MAX_IDLE {
        idle.push(worker);
    }
}

/// Why there is no reply.
enum End {
    TimeUp,
    Died,
}

/// A process that parses.
struct Worker {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// Its limit, in bytes.
    memory: usize,
}

impl Worker {
    fn start(memory: usize) -> io::Result<Self> {
        let (program, arguments) = PROGRAM.get().ok_or(io::ErrorKind::NotFound)?;
        let mut command = limited(program, memory);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn()?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        Ok(Self { child, input, output: BufReader::new(output), memory })
    }

    /// Sends a request and waits for the reply, no longer than `allowed`.
    fn exchange(&mut self, header: &[u8], bytes: &[u8], allowed: Duration) -> Result<Vec<u8>, End> {
        let (sender, receiver) = mpsc::channel();
        let Self { child, input, output, .. } = self;
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut talk = || -> io::Result<Option<Vec<u8>>> {
                    write_frame(input, header)?;
                    write_frame(input, bytes)?;
                    input.flush()?;
                    read_frame(output)
                };
                // Nobody listens any more if time was up.
                let _ = sender.send(talk());
            });
            match receiver.recv_timeout(allowed) {
                Ok(Ok(Some(reply))) => Ok(reply),
                Ok(_) => Err(End::Died),
                Err(_) => {
                    // Ends the talk above too. It may have died meanwhile, which is as good.
                    let _ = child.kill();
                    Err(End::TimeUp)
                }
            }
        })
    }

    /// What a worker died of while it parsed `source`.
    fn obituary(&mut self, source: &SourceInfo, limits: Limits) -> DocumentError {
        let uri = source.uri.clone();
        // It has closed its output: if it has not ended yet, it is about to.
        let status = self.child.wait();
        let mut words = Vec::new();
        if let Some(stderr) = self.child.stderr.take() {
            // Without last words the status has to do.
            let _ = stderr.take(LAST_WORDS).read_to_end(&mut words);
        }
        let words = String::from_utf8_lossy(&words);
        if words.contains("memory allocation of") {
            return DocumentError::TooMuchMemory { uri, limit: limits.max_memory_bytes };
        }
        let reason = if words.contains("overflowed its stack") {
            "it is nested deeper than the parser can follow".to_owned()
        } else {
            let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
            format!("its process ended ({status})")
        };
        DocumentError::ParserFailed { uri, parser: "worker", reason }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may have ended already; waiting leaves no zombie behind.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `program` under a limit on its address space, where the system has a way to set one without unsafe code.
fn limited(program: &PathBuf, memory: usize) -> Command {
    if !cfg!(unix) {
        return Command::new(program);
    }
    let mut command = Command::new("/bin/sh");
    // A shell that can't set the limit must not go on without it.
    command.args(["-c", "ulimit -v \"$1\" && shift && exec \"$@\"", "sh"]);
    command.arg((memory / 1024).to_string()).arg(program);
    command
}

fn write_frame(output: &mut dyn Write, bytes: &[u8]) -> io::Result<()> {
    output.write_all(&(bytes.len() as u64).to_le_bytes())?;
    output.write_all(bytes)
}

/// The next frame; `None` at the end of the input.
fn read_frame(input: &mut dyn Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 8];
    match input.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        result => result?,
    }
    let length = u64::from_le_bytes(length);
    let mut bytes = Vec::new();
    input.take(length).read_to_end(&mut bytes)?;
    if (bytes.len() as u64) < length { Ok(None) } else { Ok(Some(bytes)) }
}
