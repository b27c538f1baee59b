//! From text to terms: split at non-alphanumerics, drop very long tokens, lower-case, fold to ASCII, drop stop words,
//! stem.
//!
//! Stop words and stemmers are those of tantivy: Lucene's English list and the Snowball lists and algorithms
//! (<https://snowballstem.org>). Arabic, Greek, Romanian, Tamil and Turkish have a stemmer but no list of stop words.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use tantivy::tokenizer::{
    AsciiFoldingFilter, Language as Snowball, LowerCaser, RemoveLongFilter, SimpleTokenizer, Stemmer, StopWordFilter,
    TextAnalyzer,
};

use crate::LexicalError;

/// Name under which the analyser is registered with tantivy.
pub(crate) const ANALYSER: &str = "edgewise";

/// Tokens of this many bytes or more are not indexed: encoded data, not words.
const LONG_TOKEN_BYTES: usize = 64;

macro_rules! languages {
    ($($variant:ident = $name:literal),+ $(,)?) => {
        /// The language of a collection's texts; decides stop words and stemmer.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
        #[serde(rename_all = "lowercase")]
        pub enum Language {
            /// No stop words and no stemming: mixed languages, or code.
            #[default]
            None,
            $(#[doc = concat!("`", $name, "`.")] $variant,)+
        }

        impl Language {
            /// All names, as [`FromStr`] reads them.
            pub const NAMES: &[&str] = &["none", $($name),+];

            /// The name, in lower case.
            pub fn name(self) -> &'static str {
                match self {
                    Self::None => "none",
                    $(Self::$variant => $name,)+
                }
            }

            fn snowball(self) -> Option<Snowball> {
                match self {
                    Self::None => None,
                    $(Self::$variant => Some(Snowball::$variant),)+
                }
            }
        }

        impl FromStr for Language {
            type Err = LexicalError;
            fn from_str(name: &str) -> Result<Self, LexicalError> {
                match name {
                    "none" => Ok(Self::None),
                    $($name => Ok(Self::$variant),)+
                    _ => Err(LexicalError::UnsupportedLanguage { language: name.to_owned() }),
                }
            }
        }
    };
}

languages! {
    Arabic = "arabic", Danish = "danish", Dutch = "dutch", English = "english", Finnish = "finnish",
    French = "french", German = "german", Greek = "greek", Hungarian = "hungarian", Italian = "italian",
    Norwegian = "norwegian", Portuguese = "portuguese", Romanian = "romanian", Russian = "russian",
    Spanish = "spanish", Swedish = "swedish", Tamil = "tamil", Turkish = "turkish",
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The analyser for documents and queries alike.
pub(crate) fn analyser(language: Language) -> TextAnalyzer {
    let mut builder = TextAnalyzer::builder(SimpleTokenizer::default())
        .filter(RemoveLongFilter::limit(LONG_TOKEN_BYTES))
        .filter(LowerCaser)
        .dynamic();
    if let Some(language) = language.snowball() {
        // Before folding: the lists are written with accents.
        if let Some(stop_words) = StopWordFilter::new(language) {
            builder = builder.filter_dynamic(stop_words);
        }
        builder = builder.filter_dynamic(Stemmer::new(language));
    }
    builder.filter_dynamic(AsciiFoldingFilter).build()
}

/// The terms of `text`, in order, repeated ones included.
pub(crate) fn terms(analyser: &TextAnalyzer, text: &str) -> Vec<String> {
    let mut analyser = analyser.clone();
    let mut terms = Vec::new();
    analyser.token_stream(text).process(&mut |token| terms.push(token.text.clone()));
    terms
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn english(text: &str) -> Vec<String> {
        terms(&analyser(Language::English), text)
    }

    #[test]
    fn words_meet_their_inflections_and_accents() {
        assert_eq!(english("Borrowing the references"), english("borrow of a reference"));
        assert_eq!(english("Café naïve"), english("cafe NAIVE"));
        assert_eq!(english("Vec<T>::push(snake_case)"), ["vec", "t", "push", "snake", "case"]);
        assert_eq!(english("to be or not to be"), Vec::<String>::new());
    }

    #[test]
    fn stop_words_with_accents_are_found_before_folding() {
        let french = analyser(Language::French);
        assert_eq!(terms(&french, "À la même ÉTÉE"), Vec::<String>::new());
        assert_eq!(terms(&french, "forêt"), terms(&french, "forets"));
    }

    #[test]
    fn no_language_keeps_every_word_but_very_long_ones() {
        let none = analyser(Language::None);
        assert_eq!(terms(&none, "The references if"), ["the", "references", "if"]);
        assert_eq!(terms(&none, &format!("{} x", "a".repeat(LONG_TOKEN_BYTES))), ["x"]);
        assert_eq!(terms(&none, &"a".repeat(LONG_TOKEN_BYTES - 1)).len(), 1);
    }

    #[test]
    fn names_round_trip() {
        for name in Language::NAMES {
            assert_eq!(name.parse::<Language>().unwrap().name(), *name);
            assert_eq!(serde_json::to_string(&name.parse::<Language>().unwrap()).unwrap(), format!("\"{name}\""));
        }
        assert!("English".parse::<Language>().is_err());
    }
}
