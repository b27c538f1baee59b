//! The language of a text, by trigrams (crate `whatlang`), where that is certain.

use whatlang::Lang;

/// Characters that are looked at.
const SAMPLE_CHARS: usize = 4_000;
/// Fewest characters for a guess.
const MIN_CHARS: usize = 200;

/// BCP 47 tag of the language of `text`; `None` for short or doubtful ones.
pub(crate) fn detect(text: &str) -> Option<String> {
    // From the middle, where there is less of title pages and licences.
    let middle = text.floor_char_boundary((text.len() / 2).saturating_sub(SAMPLE_CHARS));
    let sample: String = text[middle..].chars().take(SAMPLE_CHARS).collect();
    if sample.chars().filter(|c| c.is_alphabetic()).count() < MIN_CHARS {
        return None;
    }
    let info = whatlang::detect(&sample)?;
    (info.is_reliable() && info.confidence() > 0.9).then(|| tag(info.lang()))
}

/// Two-letter code where ISO 639-1 has one (BCP 47 wants the shortest), else the three-letter one.
fn tag(lang: Lang) -> String {
    let short = match lang {
        Lang::Eng => "en",
        Lang::Rus => "ru",
        Lang::Cmn => "zh",
        Lang::Spa => "es",
        Lang::Por => "pt",
        Lang::Ita => "it",
        Lang::Ben => "bn",
        Lang::Fra => "fr",
        Lang::Deu => "de",
        Lang::Ukr => "uk",
        Lang::Kat => "ka",
        Lang::Ara => "ar",
        Lang::Hin => "hi",
        Lang::Jpn => "ja",
        Lang::Heb => "he",
        Lang::Pol => "pl",
        Lang::Nld => "nl",
        Lang::Tur => "tr",
        Lang::Swe => "sv",
        Lang::Fin => "fi",
        Lang::Dan => "da",
        Lang::Nob => "nb",
        Lang::Hun => "hu",
        Lang::Ell => "el",
        Lang::Ron => "ro",
        Lang::Ces => "cs",
        Lang::Kor => "ko",
        Lang::Cat => "ca",
        Lang::Bul => "bg",
        Lang::Hrv => "hr",
        Lang::Srp => "sr",
        Lang::Slk => "sk",
        Lang::Slv => "sl",
        Lang::Lit => "lt",
        Lang::Lav => "lv",
        Lang::Est => "et",
        Lang::Vie => "vi",
        Lang::Ind => "id",
        Lang::Tam => "ta",
        Lang::Pes => "fa",
        Lang::Tha => "th",
        other => return other.code().to_owned(),
    };
    short.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_have_a_language_and_short_ones_none() {
        let english = "It is a truth universally acknowledged, that a single man in possession of a good fortune, must \
                       be in want of a wife. However little known the feelings or views of such a man may be on his \
                       first entering a neighbourhood, this truth is so well fixed in the minds of the families.";
        let german = "Jemand musste Josef K. verleumdet haben, denn ohne dass er etwas Böses getan hätte, wurde er eines \
                      Morgens verhaftet. Die Köchin der Frau Grubach, seiner Zimmervermieterin, die ihm jeden Tag gegen \
                      acht Uhr früh das Frühstück brachte, kam diesmal nicht. Das war noch niemals geschehen.";
        assert_eq!(detect(english).as_deref(), Some("en"));
        assert_eq!(detect(german).as_deref(), Some("de"));
        assert_eq!(detect("Good morning"), None);
        assert_eq!(detect(&"0x3f 17 | ".repeat(200)), None);
    }
}
