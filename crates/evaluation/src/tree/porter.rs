//! Stems of English words: Porter, "An algorithm for suffix stripping" (Program 14, 1980), with the departures of NLTK's
//! stemmer, on which the ROUGE figures of most papers of the last years rest.
//!
//! The departures: a few irregular words have fixed stems; `ies` and `ied` keep their `e` in words of four letters and
//! `ied` is `i` in longer ones; `y` becomes `i` after every consonant that is not the first letter; a stem of a vowel and
//! a consonant counts as short; `bli` stands for `abli`, `alli` goes before the rest of its step, `fulli` and `logi`
//! are added.
//!
//! Invariant: input and output are of lower-case ASCII letters and digits, the output is not empty.
//!
//! Deliberately not here: other languages; the analyser of the lexical index, which has a stemmer of its own.

/// Stems that no rule gives.
const IRREGULAR: [(&str, &str); 16] = [
    ("sky", "sky"),
    ("skies", "sky"),
    ("dying", "die"),
    ("lying", "lie"),
    ("tying", "tie"),
    ("news", "news"),
    ("innings", "inning"),
    ("inning", "inning"),
    ("outings", "outing"),
    ("outing", "outing"),
    ("cannings", "canning"),
    ("canning", "canning"),
    ("howe", "howe"),
    ("proceed", "proceed"),
    ("exceed", "exceed"),
    ("succeed", "succeed"),
];

/// Steps 2 to 4: a suffix and what stands in its place, if what is left has a measure above the step's. Of the suffixes
/// that fit, the first decides.
const STEP_2: [(&str, &str); 21] = [
    ("ational", "ate"),
    ("tional", "tion"),
    ("enci", "ence"),
    ("anci", "ance"),
    ("izer", "ize"),
    ("bli", "ble"),
    ("alli", "al"),
    ("entli", "ent"),
    ("eli", "e"),
    ("ousli", "ous"),
    ("ization", "ize"),
    ("ation", "ate"),
    ("ator", "ate"),
    ("alism", "al"),
    ("iveness", "ive"),
    ("fulness", "ful"),
    ("ousness", "ous"),
    ("aliti", "al"),
    ("iviti", "ive"),
    ("biliti", "ble"),
    ("fulli", "ful"),
];
const STEP_3: [(&str, &str); 7] =
    [("icate", "ic"), ("ative", ""), ("alize", "al"), ("iciti", "ic"), ("ical", "ic"), ("ful", ""), ("ness", "")];
const STEP_4: [&str; 19] = [
    "al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ion", "ou", "ism", "ate", "iti",
    "ous", "ive", "ize",
];

/// The stem of `word`, which is in lower case.
pub(super) fn stem(word: &str) -> String {
    if let Some((_, stem)) = IRREGULAR.iter().find(|(irregular, _)| *irregular == word) {
        return (*stem).to_owned();
    }
    let mut word = word.to_owned();
    if word.len() <= 2 || !word.is_ascii() {
        return word;
    }
    plural(&mut word);
    past(&mut word);
    if let Some(stem) = word.strip_suffix('y')
        && stem.len() > 1
        && consonants(stem).last() == Some(&true)
    {
        word.truncate(word.len() - 1);
        word.push('i');
    }
    while word.strip_suffix("alli").is_some_and(|stem| measure(stem) > 0) {
        word.truncate(word.len() - 2);
    }
    // The `l` counts as part of the stem here, so that `geologi` is treated as `archaeologi` is.
    match word.strip_suffix("ogi").filter(|stem| stem.ends_with('l')) {
        Some(stem) if measure(stem) > 0 => word.truncate(word.len() - 1),
        Some(_) => {}
        None => replace(&mut word, &STEP_2),
    }
    replace(&mut word, &STEP_3);
    strip(&mut word);
    finish(&mut word);
    word
}

/// Whether each letter is a consonant: not a, e, i, o or u, nor a y behind a consonant.
fn consonants(word: &str) -> Vec<bool> {
    let mut flags: Vec<bool> = Vec::with_capacity(word.len());
    for byte in word.bytes() {
        let consonant = match byte {
            b'a' | b'e' | b'i' | b'o' | b'u' => false,
            b'y' => flags.last().is_none_or(|before| !before),
            _ => true,
        };
        flags.push(consonant);
    }
    flags
}

/// Porter's m: how often a vowel is followed by a consonant.
fn measure(stem: &str) -> usize {
    consonants(stem).windows(2).filter(|pair| matches!(pair, [false, true])).count()
}

/// Porter's *o: consonant, vowel, consonant other than w, x and y; or a vowel and a consonant alone.
fn ends_short(stem: &str) -> bool {
    match consonants(stem).as_slice() {
        [false, true] => true,
        [.., true, false, true] => !stem.ends_with(['w', 'x', 'y']),
        _ => false,
    }
}

/// Step 1a.
fn plural(word: &mut String) {
    let cut = if word.ends_with("ies") && word.len() == 4 {
        1
    } else if word.ends_with("sses") || word.ends_with("ies") {
        2
    } else {
        usize::from(word.ends_with('s') && !word.ends_with("ss"))
    };
    word.truncate(word.len() - cut);
}

/// Step 1b.
fn past(word: &mut String) {
    if word.ends_with("ied") {
        let cut = if word.len() == 4 { 1 } else { 2 };
        return word.truncate(word.len() - cut);
    }
    if let Some(stem) = word.strip_suffix("eed") {
        if measure(stem) > 0 {
            word.truncate(word.len() - 1);
        }
        return;
    }
    let with_vowel = |suffix: &str| word.strip_suffix(suffix).filter(|stem| consonants(stem).contains(&false));
    let Some(length) = with_vowel("ed").or_else(|| with_vowel("ing")).map(str::len) else { return };
    word.truncate(length);
    let twice = word.as_bytes().windows(2).last().is_some_and(|pair| pair.first() == pair.last());
    let double = twice && consonants(word).last() == Some(&true);
    if word.ends_with("at") || word.ends_with("bl") || word.ends_with("iz") {
        word.push('e');
    } else if double {
        if !word.ends_with(['l', 's', 'z']) {
            word.truncate(word.len() - 1);
        }
    } else if measure(word) == 1 && ends_short(word) {
        word.push('e');
    }
}

/// Steps 2 and 3.
fn replace(word: &mut String, rules: &[(&str, &str)]) {
    let fitting = rules.iter().find_map(|(suffix, other)| Some((word.strip_suffix(suffix)?, other)));
    if let Some((stem, other)) = fitting.filter(|(stem, _)| measure(stem) > 0) {
        *word = format!("{stem}{other}");
    }
}

/// Step 4.
fn strip(word: &mut String) {
    let fitting = STEP_4.iter().find_map(|suffix| Some((word.strip_suffix(suffix)?, *suffix)));
    let Some((stem, suffix)) = fitting else { return };
    if measure(stem) > 1 && (suffix != "ion" || stem.ends_with(['s', 't'])) {
        word.truncate(stem.len());
    }
}

/// Steps 5a and 5b.
fn finish(word: &mut String) {
    if let Some(stem) = word.strip_suffix('e') {
        let m = measure(stem);
        if m > 1 || m == 1 && !ends_short(stem) {
            word.truncate(stem.len());
        }
    }
    if word.ends_with("ll") && word.strip_suffix('l').is_some_and(|stem| measure(stem) > 1) {
        word.truncate(word.len() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Words and stems by NLTK 3.10.4 (`nltk.stem.porter.PorterStemmer`), on which rouge-score 0.1.2 rests: of each
    /// rule of the algorithm, words to which it applies and to which it does not.
    const GOLDEN: &str = include_str!("porter_golden.txt");

    #[test]
    fn stems_are_those_that_rouge_score_uses() {
        let pairs: Vec<(&str, &str)> =
            GOLDEN.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(' ')).collect();
        assert!(pairs.len() > 300, "{}", pairs.len());
        let wrong: Vec<_> = pairs.iter().filter(|(word, right)| stem(word) != *right).collect();
        assert!(wrong.is_empty(), "{wrong:?}");
    }

    proptest! {
        #[test]
        fn every_word_has_a_stem_no_longer_than_itself_and_a_letter(word in "[a-z0-9]{1,14}") {
            let stem = stem(&word);
            prop_assert!(!stem.is_empty() && stem.len() <= word.len() + 1, "{word} {stem}");
        }
    }
}
