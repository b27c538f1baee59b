//! Parsers that end their process, take all memory or never end: the file fails alone, those after it are read.
//!
//! This program is both sides: called with `worker` it is the process that parses, with parsers that do harm.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use edgewise_documents::{
    DocumentError, IndexProfile, Limits, ParsedDocument, Parser, ParserRegistry, Passwords, SourceInfo, Work,
    parse_in_processes, serve_parsing,
};

const NAME: &str = "what_ends_a_worker_harms_one_file_only";

/// Does what the file says.
struct Harmful;

impl Parser for Harmful {
    fn name(&self) -> &'static str {
        "harmful"
    }
    fn media_types(&self) -> &'static [&'static str] {
        &["x/harmful"]
    }
    fn extensions(&self) -> &'static [&'static str] {
        &["harm"]
    }
    fn parse(&self, bytes: &[u8], source: &SourceInfo, _: &Work) -> Result<ParsedDocument, DocumentError> {
        match bytes {
            b"overflow" => {
                black_box(down(u64::MAX));
            }
            b"allocate" => {
                let mut hoard = Vec::new();
                loop {
                    hoard.push(black_box(vec![0u8; 64 << 20]));
                }
            }
            b"abort" => std::process::abort(),
            b"panic" => panic!("a defect"),
            b"loop" => loop {
                std::thread::sleep(Duration::from_millis(10));
            },
            _ => {}
        }
        Err(DocumentError::Empty { uri: source.uri.clone() })
    }
}

fn down(depth: u64) -> u64 {
    let frame = black_box([depth; 128]);
    if depth == 0 { frame[0] } else { down(depth - 1).wrapping_add(frame[1]) }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|argument| argument == "worker") {
        return serve_parsing(&|registry| registry.with_parser(Arc::new(Harmful))).unwrap();
    }
    // What the test runners ask of a test program.
    if arguments.iter().any(|argument| argument == "--list") {
        if !arguments.iter().any(|argument| argument == "--ignored") {
            println!("{NAME}: test");
        }
        return;
    }
    test();
    println!("test {NAME} ... ok");
}

fn test() {
    parse_in_processes(std::env::current_exe().unwrap(), vec!["worker".to_owned()]);
    let limits = Limits { max_seconds: 4, max_memory_bytes: 1 << 30, ..IndexProfile::default().limits };
    let profile = IndexProfile { limits, ..IndexProfile::default() };
    let registry =
        ParserRegistry::new(&profile).with_parser(Arc::new(Harmful)).with_passwords(Passwords::new(["pw".to_owned()]));
    let sound = |name: &str| {
        let text = format!("# Sound\n\nThe text of {name}.");
        let document = registry.parse(text.as_bytes(), &SourceInfo::new(name)).unwrap();
        assert_eq!((document.title.as_str(), document.media_type.as_str()), ("Sound", "text/markdown"));
        assert!(document.text.contains(name));
        document.check_blocks().unwrap();
    };
    sound("first.md");
    for (act, expected) in [
        ("overflow", "nested deeper than the parser can follow"),
        ("allocate", "takes more than 1073741824 bytes of memory"),
        ("abort", "its process ended (signal: 6"),
        ("panic", "a defect"),
        ("nothing", "holds no text"),
        ("loop", "could not be read within 4 seconds"),
    ] {
        let begun = Instant::now();
        let error = registry.parse(act.as_bytes(), &SourceInfo::new("bad.harm")).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("bad.harm"), "{act}: {error}");
        assert!(!error.contains('\n'), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(20), "{act} took {:?}", begun.elapsed());
        sound("after.md");
    }
    // Many at a time, harmful ones among them.
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (registry, sound) = (&registry, &sound);
            scope.spawn(move || {
                for round in 0..5 {
                    sound(&format!("{thread}-{round}.md"));
                    registry.parse(b"abort", &SourceInfo::new("bad.harm")).unwrap_err();
                }
            });
        }
    });
    // What is refused before any worker is asked.
    let huge = vec![b'x'; profile.limits.max_file_bytes + 1];
    let error = registry.parse(&huge, &SourceInfo::new("huge.txt")).unwrap_err();
    assert!(matches!(error, DocumentError::TooLarge { .. }), "{error}");
}
