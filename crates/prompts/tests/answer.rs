//! The `answer` task: what is rendered, what is refused, what the hash identifies.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{
    fs,
    path::{Path, PathBuf},
};

use edgewise_prompts::{DocumentVars, PassageVars, PreambleVars, PromptError, Prompts, QuestionVars};
use proptest::prelude::*;
use tempfile::TempDir;

/// Looked up when a test runs: a build cache may outlive the checkout that filled it.
fn sources() -> PathBuf {
    PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("../../prompts")
}

/// A copy of `prompts/` with one file changed.
fn copy_with(file: &str, change: impl Fn(&str) -> String) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("answer")).unwrap();
    for entry in fs::read_dir(sources().join("answer")).unwrap() {
        let entry = entry.unwrap();
        let text = fs::read_to_string(entry.path()).unwrap();
        let text = if entry.file_name() == file { change(&text) } else { text };
        fs::write(folder.path().join("answer").join(entry.file_name()), text).unwrap();
    }
    folder
}

fn refusal(file: &str, change: impl Fn(&str) -> String) -> String {
    Prompts::load(Some(copy_with(file, change).path())).expect_err("must be refused").to_string()
}

#[test]
fn pieces_join_into_one_message() {
    let prompts = Prompts::load(None).unwrap();
    let answer = prompts.answer();
    let headings = ["Guide".to_owned(), "Set up".to_owned()];
    let message = [
        answer.preamble(&PreambleVars { collection: "guide", description: "" }).unwrap(),
        answer.passage(&PassageVars { n: 1, title: "Start", heading_path: &headings, text: "Run it." }).unwrap(),
        answer.document(&DocumentVars { n: 2, title: "All", text: "Whole text.\n" }).unwrap(),
        answer.question(&QuestionVars { question: "How?", instruction: Some("Be brief.") }).unwrap(),
    ];
    let expected = "Passages from \"guide\":\n\n[1] Start > Guide > Set up\nRun it.\n\n[2] All\nWhole text.\n\n\nBe brief.\n\
                    Question: How?";
    assert_eq!(message.concat(), expected);
    let described = answer.preamble(&PreambleVars { collection: "guide", description: "the manual" }).unwrap();
    assert_eq!(described, "Passages from \"guide\" (the manual):\n\n");
    let default = answer.question(&QuestionVars { question: "How?", instruction: None }).unwrap();
    assert_eq!(default, "Using only the passages above, answer in one sentence.\nQuestion: How?");
}

#[test]
fn the_system_message_asks_for_the_marker_and_distrusts_passages() {
    let prompts = Prompts::load(None).unwrap();
    let system = prompts.answer().system().unwrap();
    assert!(system.contains(prompts.answer().unanswerable()));
    assert!(system.contains("quotations") && system.contains("instructions"), "{system}");
    assert!(!system.ends_with('\n'));
}

#[test]
fn an_unanswerable_answer_is_recognised_however_it_is_written() {
    let prompts = Prompts::load(None).unwrap();
    for yes in
        ["I don't know.", "Sorry, I don\u{2019}t know", "I DO NOT KNOW [1]", "The passages do not contain the answer."]
    {
        assert!(prompts.answer().says_unanswerable(yes), "{yes}");
    }
    for no in ["", "You know it [1].", "I know: it is 4 [2]."] {
        assert!(!prompts.answer().says_unanswerable(no), "{no}");
    }
}

#[test]
fn a_folder_is_loaded_instead_and_the_hash_tells_templates_apart() {
    let built_in = Prompts::load(None).unwrap();
    let hash = built_in.answer().template_hash().clone();
    let same = Prompts::load(Some(&sources())).unwrap();
    assert_eq!(*same.answer().template_hash(), hash);
    for file in ["system", "preamble", "passage", "document", "recap", "instruction", "question"] {
        let changed = copy_with(&format!("{file}.jinja"), |text| format!("!{text}"));
        let changed = Prompts::load(Some(changed.path())).unwrap();
        assert_ne!(*changed.answer().template_hash(), hash, "{file}");
    }
    let other_words = copy_with("prompt.toml", |text| text.replace("\"I do not know\"", "\"No idea\""));
    let other_words = Prompts::load(Some(other_words.path())).unwrap();
    assert_ne!(*other_words.answer().template_hash(), hash);
    assert!(other_words.answer().says_unanswerable("no idea"));

    let passage = copy_with("passage.jinja", |_| "<{{ n }}>{{ title }}{{ heading_path|length }} {{ text }}".to_owned());
    let passage = Prompts::load(Some(passage.path())).unwrap();
    let vars = PassageVars { n: 7, title: "T", heading_path: &[], text: "x" };
    assert_eq!(passage.answer().passage(&vars).unwrap(), "<7>T0 x\n\n");
}

#[test]
fn templates_and_declarations_that_disagree_are_refused() {
    let cases = [
        (
            refusal("passage.jinja", |t| format!("{t}{{{{ page }}}}")),
            vec!["passage.jinja uses the variable `page`", "n, title"],
        ),
        (
            refusal("system.jinja", |t| format!("{t}{{{{ user }}}}")),
            vec!["system.jinja uses the variable `user`", "none"],
        ),
        (
            refusal("passage.jinja", |_| "{{ n }} {{ text }} {{ title }}".into()),
            vec!["does not use the variable `heading_path`"],
        ),
        (refusal("document.jinja", |t| format!("{t}{{% if %}}")), vec!["document.jinja: not a valid template: line "]),
        (
            refusal("prompt.toml", |t| t.replace("\"heading_path\"", "\"page\"")),
            vec!["`passage` gets no variable `page`", "heading_path"],
        ),
        (
            refusal("prompt.toml", |t| t.replace("[\"n\", \"title\", \"text\"]", "[\"n\", \"title\"]")),
            vec!["`document` must list and use the variable `text`"],
        ),
        (
            refusal("prompt.toml", |t| t.replace("[templates.document]", "[templates.book]")),
            vec!["unknown template `book`", "document"],
        ),
        (
            refusal("prompt.toml", |t| t.replace("task = \"answer\"", "task = \"reply\"")),
            vec!["`task` is `reply` in the folder of `answer`"],
        ),
        (refusal("prompt.toml", |t| format!("extra = 1\n{t}")), vec!["prompt.toml: line 1: unknown field `extra`"]),
        (
            refusal("prompt.toml", |t| t.replace("\"I don't know\", ", "")),
            vec!["system.jinja does not ask for", "`I do not know`"],
        ),
        (
            refusal("prompt.toml", |t| t.replace("\"I do not know\"", "\" \"")),
            vec!["is empty and would match every answer"],
        ),
        (
            refusal("prompt.toml", |t| t.replace("purpose = \"One numbered passage.\"", "purpose = \"\"")),
            vec!["every `purpose` needs a text"],
        ),
    ];
    for (message, parts) in cases {
        for part in parts {
            assert!(message.contains(part), "`{part}` is not in: {message}");
        }
    }
}

#[test]
fn a_missing_file_is_named() {
    let folder = copy_with("", str::to_owned);
    fs::remove_file(folder.path().join("answer/question.jinja")).unwrap();
    let error = Prompts::load(Some(folder.path())).unwrap_err();
    assert!(matches!(&error, PromptError::Read { file, .. } if file.ends_with("answer/question.jinja")), "{error}");
    assert!(Prompts::load(Some(Path::new("/nowhere"))).is_err());
}

proptest! {
    /// Passage text is data: template code, HTML and control characters come out as they went in.
    #[test]
    fn values_are_inserted_verbatim(
        text in prop_oneof![".{0,60}", "(\\{\\{ n \\}\\}|\\{% raw %\\}|\\{#|<b>&amp;|\"|\\n| )*"],
        title in ".{0,20}",
    ) {
        let prompts = Prompts::load(None).unwrap();
        let vars = PassageVars { n: 3, title: &title, heading_path: &[], text: &text };
        prop_assert_eq!(prompts.answer().passage(&vars).unwrap(), format!("[3] {title}\n{text}\n\n"));
        let vars = QuestionVars { question: &text, instruction: Some(&title) };
        prop_assert_eq!(prompts.answer().question(&vars).unwrap(), format!("{title}\nQuestion: {text}"));
    }
}
